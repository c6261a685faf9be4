"""What the options of a job are called on the command line, and in which groups they are shown.

The command and the dashboard's form come from here. Help text, default and rule of an option come from `JobSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ladle_contracts.spec_fields import SPEC_FIELDS, SpecField

FIELDS = {field.path: field for field in SPEC_FIELDS}
ARGUMENTS = {"ckpt_dir": "CKPT_DIR", "val_set": "VAL_SET"}


@dataclass(frozen=True)
class Flag:
    """One flag of the command and the option of the job that it sets."""

    path: str
    """`checkpoints.last`"""
    name: str
    """`--last`"""
    placeholder: str
    """What stands for the value in the help: `N`."""
    hint: str = ""
    """What only a user of the command must know."""

    @property
    def parameter(self) -> str:
        """The flag as a Python name: `last`."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def field(self) -> SpecField:
        return FIELDS[self.path]

    @property
    def is_repeatable(self) -> bool:
        """Whether its values are texts, of which the option takes several."""
        return any(
            kind["type"] == "object" or (kind["type"] == "array" and kind["items"]["type"] == "string")
            for kind in self.field.kinds
        )

    @property
    def is_pair(self) -> bool:
        """Whether it has two values each time: a name, and one of what the option has several of under that name."""
        inner = self.field.schema.get("additionalProperties")
        return isinstance(inner, dict) and any(kind.get("type") == "array" for kind in inner.get("anyOf", ()))

    @property
    def is_switch(self) -> bool:
        """Whether it has no value."""
        return self.field.schema.get("type") == "boolean"

    @property
    def default(self) -> str:
        """What holds without the flag; empty when nothing does."""
        return "" if self.is_switch or self.field.default in (None, {}, ()) else str(self.field.default)

    @property
    def help(self) -> str:
        """The contract's text, and in brackets what a value may be."""
        facts = [
            self.field.limits,
            "may be repeated" if self.is_repeatable else "",
            f"default: {self.default}" if self.default else "",
        ]
        brackets = "; ".join(fact for fact in facts if fact)
        return " ".join(part for part in (self.field.help, self.hint, f"[{brackets}]" if brackets else "") if part)


ALSO = "also"
"""The flag for each further `CKPT_DIR`, since the arguments after the first one are validation sets."""
CHECKPOINTS_PANEL = "Which checkpoints"
PANELS: dict[str, tuple[Flag, ...]] = {
    CHECKPOINTS_PANEL: (
        Flag("checkpoints.pattern", "--pattern", "GLOB"),
        Flag("checkpoints.exclude", "--exclude", "GLOB"),
        Flag("checkpoints.component", "--component", "NAME"),
        Flag("checkpoints.order", "--order", "HOW"),
        Flag("checkpoints.last", "--last", "N"),
        Flag("checkpoints.steps", "--steps", "N,N,..."),
        Flag("checkpoints.use_ema", "--use-ema", ""),
        Flag("checkpoints.like", "--like", "CHECKPOINT"),
        Flag("checkpoints.skip_tensors", "--skip-tensor", "GLOB"),
        Flag("checkpoints.take_from", "--take-from", "CHECKPOINT GLOB"),
        Flag("base", "--base", "PATH", "A name in `CKPT_DIR` will do."),
    ),
    "Adapters": (
        Flag("adapters.space", "--adapter-space", "SPACE"),
        Flag("adapters.rank", "--adapter-rank", "N"),
        Flag("adapters.error", "--adapter-error", "SHARE"),
        Flag("adapters.base_model", "--base-model", "PATH"),
    ),
    "Task and data": (
        Flag("task.name", "--task", "NAME", "`ladle tasks` lists the names."),
        Flag("task.options", "--task-option", "NAME=VALUE", "`ladle tasks` lists them for every task."),
        Flag("train_set.path", "--train-set", "PATH"),
        Flag("train_set.use", "--train-set-use", "USE"),
        Flag("select_fraction", "--select-fraction", "SHARE"),
        Flag("metric", "--metric", "NAME"),
        Flag("judge_by", "--judge-by", "HOW", "A weight is written as NAME=WEIGHT."),
        Flag("no_set_worse", "--no-set-worse", ""),
    ),
    "Method": (
        Flag("method.name", "--method", "NAME", "`ladle methods` lists the names."),
        Flag("method.options", "--method-option", "NAME=VALUE", "`ladle methods` lists them for every method."),
        Flag("seed", "--seed", "N"),
    ),
    "Merge curve": (
        Flag("kind", "--kind", "KIND", "`ladle curve` is `ladle run --kind curve`."),
        Flag("curve.every", "--curve-every", "N"),
        Flag("curve.shapes", "--curve-shape", "SHAPE"),
        Flag("curve.windows", "--curve-windows", "N"),
        Flag("curve.earlier", "--curve-earlier", "PATH"),
    ),
    "Result": (
        Flag("output.name", "--name", "NAME"),
        Flag("diagnose", "--diagnose", ""),
        Flag("output.dtype", "--dtype", "TYPE"),
        Flag("output.max_shard_bytes", "--max-shard-bytes", "BYTES"),
        Flag("output.format", "--output-format", "FORMAT"),
    ),
    "Machines and queue": (
        Flag("resources.nodes", "--nodes", "N"),
        Flag("resources.min_nodes", "--min-nodes", "N"),
        Flag("resources.ranks_per_node", "--ranks-per-node", "N"),
        Flag("resources.timeout_s", "--timeout", "SECONDS"),
        Flag("resources.placement", "--placement", "NAME"),
        Flag("resources.precision", "--precision", "NAME"),
        Flag("priority", "--priority", "N"),
        Flag("labels", "--label", "NAME=VALUE"),
    ),
    "Who is told": (
        Flag("tracking.trackers", "--tracker", "NAME"),
        Flag("tracking.project", "--tracker-project", "NAME"),
        Flag("tracking.run", "--tracker-run", "NAME"),
        Flag("webhooks", "--webhook", "URL"),
    ),
}
"""Title of a panel in the help -> its flags. A new option of a job needs one line here."""

FLAGS: tuple[Flag, ...] = tuple(flag for flags in PANELS.values() for flag in flags)

FLAG_OF = ARGUMENTS | {flag.path: flag.name for flag in FLAGS}
"""Path in the spec -> what the command calls it."""
