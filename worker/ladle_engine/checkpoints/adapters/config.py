"""`adapter_config.json` of PEFT, checked before it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.errors import CheckpointError
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.json_text import MAX_BYTES, parse_json

CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT puts before the name of every tensor; patterns are matched without it."""
MOST_PATTERNS = 1_000
MOST_PATTERN_CHARS = 200

OTHER_FORWARD = (
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "layer_replication", "velora_config"),
    *("monteclora_config", "kasa_config", "trainable_token_indices", "target_parameters"),
)
"""Settings with which an adapter is more than `B A` beside a layer, or other than that."""
CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)
"""Values of `init_lora_weights` with which training began by changing the base model."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What a LoRA adapter says of itself."""

    path: Path
    values: Mapping[str, Any]

    @property
    def base(self) -> str | None:
        """The base model: a folder, or a name on a model hub."""
        found = self.values.get("base_model_name_or_path")
        return found.rstrip("/") if isinstance(found, str) and found else None

    @property
    def task_type(self) -> str | None:
        found = self.values.get("task_type")
        return found if isinstance(found, str) else None

    @property
    def is_dora(self) -> bool:
        return bool(self.values.get("use_dora"))

    def rank_of(self, module: str) -> int:
        """Of a module's name without `PREFIX`."""
        found = self._pattern_of("rank_pattern", module, self.values.get("r"))
        if type(found) is not int or found < 1:
            raise self._refused(f"have whole numbers from 1 as ranks, but has {found!r} for `{module}`")
        return found

    def scale_of(self, module: str) -> float:
        """What `B A` is multiplied by: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (rsLoRA)."""
        alpha = self._pattern_of("alpha_pattern", module, self.values.get("lora_alpha"))
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise self._refused(f"have numbers as `lora_alpha`, but has {alpha!r} for `{module}`")
        rank = self.rank_of(module)
        return float(alpha / (math.sqrt(rank) if self.values.get("use_rslora") else rank))

    def _pattern_of(self, name: str, module: str, default: Any) -> Any:
        """As PEFT looks it up: the first pattern that the module's name ends with."""
        for pattern, value in self._patterns(name):
            if pattern.match(module):
                return value
        return default

    def _patterns(self, name: str) -> Iterable[tuple[re.Pattern[str], Any]]:
        patterns = self.values.get(name) or {}
        if not isinstance(patterns, dict) or len(patterns) > MOST_PATTERNS:
            raise self._refused(f"have at most {MOST_PATTERNS:,} patterns as `{name}`, but does not")
        for key, value in patterns.items():
            if len(key) > MOST_PATTERN_CHARS:
                raise self._refused(
                    f"have patterns of at most {MOST_PATTERN_CHARS} characters, but has `{key[:50]}...`"
                )
            try:
                yield re.compile(rf"(.*\.)?({key})$"), value
            except re.error as error:
                raise self._refused(f"have regular expressions as `{name}`, but has `{key}` ({error})") from error

    def _refused(self, rule: str) -> CheckpointError:
        return CheckpointError("corrupt-checkpoint", f"The file `{self.path}` must {rule}.")


def read_config(file: InputFile) -> AdapterConfig:
    """Raises `CheckpointError`: corrupt-checkpoint, or unsupported-tensors for an adapter that is no plain LoRA."""
    path = file.path
    try:
        values = parse_json(file.read(0, min(file.size, MAX_BYTES + 1)))
    except ValueError as error:
        raise CheckpointError(
            "corrupt-checkpoint", f"The file `{path}` must be a JSON file, but does not parse ({error})."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            "corrupt-checkpoint", f"The file `{path}` must be a JSON object, but is a {type(values).__name__}."
        )
    _refuse_other_kinds(path, values)
    return AdapterConfig(path=path, values=values)


def _refuse_other_kinds(path: Path, values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise _unsupported(path, f"its `peft_type` is {str(kind)[:50]!r}. Only LoRA adapters are averaged")
    if setting := next((name for name in OTHER_FORWARD if values.get(name)), None):
        raise _unsupported(path, f"it uses `{setting}`, and is no plain product of two factors beside each layer")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and CHANGES_BASE.search(start):
        raise _unsupported(
            path,
            f"it was begun with `init_lora_weights={start[:30]!r}`, which changes the base model. Convert it to plain "
            f"LoRA: `save_pretrained(..., path_initial_model_for_weight_conversion=...)`",
        )


def _unsupported(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        "unsupported-tensors", f"The adapter `{path.parent.name}` must be a plain LoRA adapter, but {what}."
    )
