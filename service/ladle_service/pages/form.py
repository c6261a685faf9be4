"""The form of a job: a control for each option, made from the job spec's JSON schema and from what the nodes offer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ladle_contracts import Catalog, OptionInfo
from ladle_contracts.command_flags import ARGUMENTS, FIELDS, PANELS, Flag
from ladle_contracts.spec_fields import SpecField
from ladle_service.pages.form_values import OPTIONS, Texts, options_of
from ladle_service.pages.option_types import describe, split_type, write_value

LABELS = {
    "ckpt_dir": "Checkpoints",
    "val_set": "Validation set",
    "method.name": "Method",
    "task.name": "Task",
    "train_set.path": "Training set",
    "train_set.use": "Use of the training set",
    "output.name": "Name of the result",
    "output.max_shard_bytes": "Largest file (bytes)",
    "resources.timeout_s": "Time limit (seconds)",
    "method.options": "Options of the method",
    "task.options": "Options of the task",
}
"""Where the last part of the path says too little."""
FIRST = ("ckpt_dir", "val_set", "method.name", "seed", "output.name")
"""What stands open at the top."""
ONE_PER_LINE = "one per line"
HOW = {
    "ckpt_dir": "Several are written one per line.",
    "val_set": "Several are written as NAME=PATH, one per line.",
    "judge_by": "`first`, `mean`, or NAME=WEIGHT with commas between.",
    "checkpoints.take_from": "CHECKPOINT=GLOB, one per line.",
    "checkpoints.steps": "Numbers with commas between.",
}
"""How a text is written, where the kind alone does not say it."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control of the form."""

    name: str
    """The path in the spec, such as `checkpoints.last`, or of an option: `method.options.steps`."""
    label: str
    help: str
    """One or two sentences with `code` in backticks."""
    widget: str
    """`line`, `lines`, `choice` or `tick`."""
    text: str = ""
    default: str = ""
    """What holds if it stays empty."""
    choices: tuple[str, ...] = ()
    error: str | None = None
    required: bool = False
    is_path: bool = False
    """Whether the folder browser helps."""
    flag: str = ""
    """What the command calls it."""

    @property
    def id(self) -> str:
        """For HTML."""
        return f"f-{self.name.replace('.', '-')}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Controls under one title."""

    title: str
    controls: tuple[Control, ...]

    @property
    def is_used(self) -> bool:
        """Whether something in it is filled in or wrong."""
        return any(control.text or control.error for control in self.controls)


@dataclass(frozen=True, kw_only=True)
class Form:
    """All controls."""

    first: dict[str, Control]
    """Those of `FIRST` by their names."""
    method_options: Section
    task_options: Section
    sections: tuple[Section, ...]
    """The others, in the groups in which the command shows its flags."""
    other_errors: tuple[str, ...] = ()
    """What is wrong with no control of its own."""

    @property
    def wrong(self) -> list[Control]:
        """The controls with an error, in order."""
        return [control for control in self.controls if control.error]

    @property
    def controls(self) -> list[Control]:
        """All of them, in the order of the page."""
        sections = (self.method_options, *self.sections, self.task_options)
        return [*self.first.values(), *(control for section in sections for control in section.controls)]


def make_form(texts: Texts, catalog: Catalog, errors: Mapping[str, str] | None = None) -> Form:
    """The form with what a person has typed, and with what is wrong with it. No error is lost: one that is about no
    control of its own is shown at the nearest one, or above the form."""
    known = options_of(texts, catalog)
    controls = {path: _control(path, FIELDS[path], texts, catalog) for path in FIELDS if path not in OPTIONS}
    options = {path: _options(path, known[path], texts) for path in OPTIONS}
    names = [*controls, *(control.name for path in OPTIONS for control in options[path])]
    told, others = _placed(errors or {}, names)
    controls = {path: _with_error(control, told) for path, control in controls.items()}
    method, task = (
        Section(title=LABELS[path], controls=tuple(_with_error(control, told) for control in options[path]))
        for path in ("method.options", "task.options")
    )
    return Form(
        first={path: controls[path] for path in FIRST},
        method_options=method,
        task_options=task,
        sections=tuple(_sections(controls)),
        other_errors=tuple(others),
    )


def _sections(controls: Mapping[str, Control]) -> Iterable[Section]:
    for title, flags in PANELS.items():
        inside = [controls[flag.path] for flag in flags if flag.path in controls and flag.path not in FIRST]
        if inside:
            yield Section(title=title, controls=tuple(inside))


def _control(path: str, field: SpecField, texts: Texts, catalog: Catalog) -> Control:
    flag = FLAGS_BY_PATH.get(path)
    text = texts.get(path, "")
    choices = _choices(path, field, texts, catalog)
    if choices and text and text not in choices:
        choices = (*choices, text)
    return Control(
        name=path,
        label=LABELS.get(path, _label(field.name)),
        help=" ".join(filter(None, (field.help, _how(path, field)))),
        widget="choice" if choices else _widget(field),
        text=text,
        default=_default(field),
        choices=choices,
        required=field.required,
        is_path=path in ARGUMENTS or (flag is not None and flag.placeholder == "PATH"),
        flag=flag.name if flag is not None else "",
    )


def _choices(path: str, field: SpecField, texts: Texts, catalog: Catalog) -> tuple[str, ...]:
    """What there is to choose from; empty where anything may be typed."""
    if path == "method.name":
        return tuple(info.name for info in catalog.methods)
    if path == "task.name":
        return tuple(info.name for info in catalog.tasks)
    if path == "metric":
        tasks = [info for info in catalog.tasks if texts.get("task.name") in (None, "", info.name)]
        return tuple(dict.fromkeys(metric for info in tasks for metric in info.metrics))
    return tuple(map(str, field.schema.get("enum", ())))


def _widget(field: SpecField) -> str:
    kinds = {kind["type"]: kind for kind in field.kinds}
    if "boolean" in kinds:
        return "tick"
    of_texts = kinds.get("array", {}).get("items", {}).get("type") == "string"
    return "lines" if "object" in kinds or of_texts else "line"


def _how(path: str, field: SpecField) -> str:
    if path in HOW:
        return HOW[path]
    widget = _widget(field)
    if widget == "lines":
        is_object = any(kind["type"] == "object" for kind in field.kinds)
        return f"{'NAME=VALUE, o' if is_object else 'O'}{ONE_PER_LINE[1:]}."
    if widget == "tick" or "enum" in field.schema or field.schema.get("type") == "string":
        return ""
    return f"{field.kind.capitalize()}, {field.limits}." if field.limits else f"{field.kind.capitalize()}."


def _default(field: SpecField) -> str:
    return "" if field.default is False or field.default in (None, {}, ()) else str(field.default)


def _options(path: str, known: tuple[OptionInfo, ...] | None, texts: Texts) -> list[Control]:
    """A control for each option. Where no node says which there are, one for all that a person knows."""
    if known is None:
        if not texts.get(path):
            return []
        text = "No node says which options there are. NAME=VALUE, one per line."
        return [Control(name=path, label=LABELS[path], help=text, widget="lines", text=texts[path])]
    return [_option(f"{path}.{option.name}", option, texts) for option in known]


def _option(name: str, option: OptionInfo, texts: Texts) -> Control:
    is_bool = _is_bool(option)
    choices = ("true", "false") if is_bool else option.choices
    compound = any(arm.startswith(("list", "dict")) for arm in split_type(option.type))
    return Control(
        name=name,
        label=_label(option.name),
        help=_help(option),
        widget="choice" if choices else "lines" if compound else "line",
        choices=choices,
        text=texts.get(name, ""),
        default="" if option.default in (None, [], {}, "") else _default_text(option),
    )


def _is_bool(option: OptionInfo) -> bool:
    return {*split_type(option.type)} - {"null"} == {"bool"}


def _help(option: OptionInfo) -> str:
    """As a sentence, unless it begins with a value."""
    text = option.help
    if not text.startswith(option.choices or "`"):
        text = text[:1].upper() + text[1:]
    says_enough = option.choices or _is_bool(option) or option.type.startswith("str")
    return text if says_enough else f"{text} ({describe(option.type)})"


def _default_text(option: OptionInfo) -> str:
    if isinstance(option.default, bool):
        return json.dumps(option.default)
    return write_value(option.default, option.type)


def _placed(errors: Mapping[str, str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Each error at its control: that of the same path, or of the path that it is inside of, such as
    `checkpoints.steps` for `checkpoints.steps.1`."""
    told: dict[str, str] = {}
    others = []
    for field, message in errors.items():
        place = field
        while place and place not in names:
            place = place.rpartition(".")[0]
        if not place:
            others.append(f"`{field}` {message}" if field and f"`{field}`" not in message else message)
        else:
            told[place] = f"{told[place]}; {message}" if place in told else message
    return told, others


def _with_error(control: Control, told: Mapping[str, str]) -> Control:
    error = told.get(control.name)
    return control if error is None else Control(**{**vars(control), "error": error})


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


FLAGS_BY_PATH: dict[str, Flag] = {flag.path: flag for flags in PANELS.values() for flag in flags}
