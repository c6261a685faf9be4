"""Keeps checkpoints while a model trains."""

from __future__ import annotations

import json
import math
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from safetensors.torch import save_file
from torch import Tensor, nn

from ladle._options import SpecOptions
from ladle._spec import ValSet
from ladle.callbacks._failures import Failures, NotKept
from ladle.callbacks._hugging_face import saves_itself, trained_part
from ladle.callbacks._kept_folder import KeptFolder
from ladle.callbacks._snapshots import Snapshots, each_once, full_state, is_main_rank, is_sharded, unwrapped
from ladle_contracts import JobResult
from ladle_contracts.safe_text import one_line

Write = Callable[[Path, dict[str, Tensor]], None]
"""Writes a checkpoint's files into an empty folder, from a state on the CPU. It runs in a thread of its own."""
METRICS_FILE = "eval_results.json"


class CheckpointKeeper:
    """Keeps checkpoints of a model while it trains, for a loop of your own.

        keeper = CheckpointKeeper("runs/a/kept", every=100, last=10)
        for step, batch in enumerate(batches, start=1):
            train_on(batch)
            keeper.step(model, step)
        print(keeper.average("val.npz", task="image-classification").folder)

    `step` copies the weights to CPU memory, and a thread writes them: `folder/checkpoint-100/model.safetensors`. A
    checkpoint appears whole or not at all. One copy is under way at most; `step` waits for the one before.

    A checkpoint that cannot be written (a full disk, say) does not end the training: the next `step` warns
    (`NotKeptWarning`), and `close` raises `NotKept` with all steps that are missing.

    Of several ranks (DistributedDataParallel) only rank 0 writes; all may call `step`. With FSDP all must, because the
    weights are gathered.

    Args:
        folder: belongs to one training. One that is resumed continues: what a killed process left is cleared, and
            steps that come again are written anew.
        every: keep a checkpoint each time the step passes a multiple of this. By default at each call.
        last: keep only the newest this many. By default all.
        config: is written beside the weights as `config.json`. Models of transformers and PEFT write their own files.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int | None = None,
        last: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, least in (("every", every, 1), ("last", last, 2)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"`{name}` must be a whole number of at least {least}, but is {value!r}.")
        self.folder = Path(folder).expanduser().absolute()
        self.every, self.last = every, last
        self.in_use: Callable[[], Collection[int]] = tuple
        """The steps of checkpoints that somebody reads. They are not removed, though `last` would."""
        self.on_kept: Callable[[int], None] = lambda step: None
        """Is called in the background after each checkpoint, with its step."""
        self._config = None if config is None else json.dumps(config, indent=2)
        self._kept = KeptFolder(self.folder)
        self._snapshots = Snapshots()
        self._failures = Failures(self.folder)
        self._thread: threading.Thread | None = None
        self._previous: int | None = None
        self._begun = False
        self._is_main: bool | None = None
        weakref.finalize(self, self._failures.print)
        if is_main_rank():
            self._make_folder()

    @property
    def steps(self) -> tuple[int, ...]:
        """Of the checkpoints that are kept, at most `last`, without those of another training in the same folder."""
        self.flush()
        return self.written

    @property
    def written(self) -> tuple[int, ...]:
        """The same, without waiting for one that is being written."""
        return tuple(self._kept.steps if self.last is None else self._kept.steps[-self.last :])

    @property
    def missing(self) -> dict[int, Exception]:
        """Step -> why its checkpoint could not be kept."""
        return dict(self._failures.all)

    def step(self, model: nn.Module, step: int, metrics: Mapping[str, float] | None = None) -> bool:
        """Keeps a checkpoint if one is due after this step, and says whether.

        `metrics` are numbers that are written beside it, where `ladle inspect` shows them; those that are not finite
        are left out.
        """
        if not self.is_due(step) or not (is_main_rank() or is_sharded(model)):
            return False
        state = full_state(model)
        if not is_main_rank():
            return False
        self.keep_model(step, model, state, metrics)
        return True

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be kept after this step, which is a number that never falls in one training."""
        previous, self._previous = self._previous, step
        if not self._begun:
            self.begin(step)
        if self.every is None:
            return True
        if previous is None or previous > step:
            return step > 0 and step % self.every == 0
        return step // self.every > previous // self.every

    def begin(self, first_step: int) -> None:
        """Takes over the checkpoints before `first_step`. The first call of `step` does it."""
        self._begun, self._is_main = True, is_main_rank()
        if self._is_main:
            self._kept.begin(first_step)

    def keep_model(
        self,
        step: int,
        model: nn.Module,
        state: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Keeps a checkpoint of this model now. `state` is the model's own unless it was gathered before."""
        inner = unwrapped(model)
        state = full_state(inner) if state is None else state
        self.keep(step, trained_part(inner, state), self._writer_of(inner), metrics)

    def keep(
        self, step: int, state: Mapping[str, Any], write: Write, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Keeps a checkpoint of this state now; `step` does it where one is due."""
        self.flush()
        self._failures.tell()
        try:
            copy = self._snapshots.take(state)
        except Exception as error:  # such as too little memory
            self._failures.add(step, error)
            return
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        found = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._thread = threading.Thread(
            target=self._work, args=(step, copy, write, found), name=f"ladle keeps step {step}"
        )
        self._thread.start()

    def flush(self) -> None:
        """Waits until the last checkpoint is on the disk, or has failed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def remove_others(self) -> None:
        """Removes what `last` does not keep, and nobody reads any more."""
        if self.last is not None and is_main_rank():
            self._kept.keep_last(self.last, self.in_use())

    def tell(self) -> None:
        """Waits for the last checkpoint, and warns of those that are missing and were not told."""
        self.flush()
        self._failures.tell()

    def close(self) -> None:
        """Waits for the last checkpoint. Raises `NotKept` if any is missing."""
        self.tell()
        if missing := self._failures.all:
            raise NotKept(self.folder, missing)

    def average(
        self, val_set: ValSet, *, results: str | Path | None = None, **options: Unpack[SpecOptions]
    ) -> JobResult | None:
        """Averages what was kept, and waits for the result. On ranks other than 0 it returns None at once.

        It asks the service that `ladle.submit` finds. Where there is none, it starts one for this job, as `ladle run`
        does, which writes to `results` (by default `ladle-results` beside the folder). The options are those of
        `ladle.submit`. Checkpoints that are missing are warned of.

        Raises:
            LadleError: the job did not succeed, or there is no service and none can be started. The checkpoints stay.
        """
        # Once the process group is gone, only what was seen before says which rank this is.
        if not (is_main_rank() if self._is_main is None else self._is_main):
            return None
        from ladle.callbacks._averaging import average_once

        self.tell()
        results = self.folder.parent / "ladle-results" if results is None else Path(results).expanduser().absolute()
        return average_once(self.folder, val_set, self.choosing(options), results)

    def choosing(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a job, so that it takes the checkpoints of this training alone."""
        if not self._kept.of_others and len(self._kept.steps) == len(self.steps):
            return dict(options)
        from ladle.callbacks._averaging import with_steps

        return with_steps(options, self.steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.flush()
            self._failures.print()

    def _work(self, step: int, state: dict[str, Tensor], write: Write, metrics: Mapping[str, float]) -> None:
        def write_all(folder: Path) -> None:
            write(folder, state)
            if metrics:
                (folder / METRICS_FILE).write_text(json.dumps(metrics))

        try:
            self._kept.add(step, write_all)
            self._failures.forget(step)
        except Exception as error:
            self._failures.add(step, error)
            return
        # What cannot be removed now is tried again after the next checkpoint.
        with suppress(OSError):
            self.remove_others()
        self.on_kept(step)

    def _writer_of(self, model: nn.Module) -> Write:
        if saves_itself(model):
            return lambda folder, state: model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
        return self._write

    def _write(self, folder: Path, state: dict[str, Tensor]) -> None:
        write_weights(folder, state)
        if self._config is not None:
            (folder / "config.json").write_text(self._config)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                one_line(f"`folder` must be a folder that can be written to, but is `{self.folder}`: {error.strerror}.")
            ) from error


def write_weights(folder: Path, state: dict[str, Tensor]) -> None:
    """`model.safetensors`."""
    tensors, others = each_once(state)
    save_file(tensors, folder / "model.safetensors", {"format": "pt", **others})
