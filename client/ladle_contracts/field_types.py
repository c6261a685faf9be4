"""The types of a spec's fields: names, paths, labels and options, with their limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import to_json

from ladle_contracts.web_addresses import check_web_address

_NAME = r"^[a-z0-9][a-z0-9_.-]*$"
_FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+=@-]*$"
_SET_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
PATTERNS = {
    _SET_NAME: "must be a name of letters, digits, `_`, `.` and `-`, and begin with a letter or digit",
    _NAME: "must consist of lower-case letters, digits, `_`, `.` and `-`, and begin with a letter or digit",
    _FOLDER_NAME: "must be one folder name of letters, digits and `_.+=@-`, and begin with a letter or digit",
}
"""Regular expression -> the rule in words, for messages."""

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=_NAME)]
"""Names of tasks, methods and metrics: lower case, as in `image-classification`."""

PathText = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path as the worker sees it. It must be inside an allowed folder after all links are followed."""

SetName = Annotated[str, Field(min_length=1, max_length=100, pattern=_SET_NAME)]
"""The name of a validation set."""

PATH_TAG, PATHS_TAG, SETS_TAG, WORD_TAG, WEIGHTS_TAG = "[path]", "[paths]", "[sets]", "[word]", "[weights]"
OF_TWO_KINDS = ("ckpt_dir", "val_set", "judge_by")
"""Fields after which pydantic puts one of these marks into the place of an error."""

_Paths = Annotated[
    Annotated[tuple[PathText, ...], Field(min_length=1, max_length=1000)],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Tag(PATHS_TAG),
]
CkptDir = Annotated[
    Annotated[PathText, Tag(PATH_TAG)] | _Paths,
    Discriminator(lambda value: PATHS_TAG if isinstance(value, list | tuple) else PATH_TAG),
]
"""A path or a glob, or a list of them. A path that exists is taken as it is, whatever signs it has."""

_ValSets = Annotated[dict[SetName, PathText], Field(min_length=1, max_length=100), Tag(SETS_TAG)]
ValSet = Annotated[
    Annotated[PathText, Tag(PATH_TAG)] | _ValSets,
    Discriminator(lambda value: SETS_TAG if isinstance(value, dict) else PATH_TAG),
]
"""A path, or names with a path each. The first name comes first in what is shown, and judges by default."""

_Weight = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
_Weights = Annotated[dict[SetName, _Weight], Field(min_length=1, max_length=100), Tag(WEIGHTS_TAG)]


def _word_of_sets(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(given)
    except ValidationError as error:
        raise ValueError("must be `first`, `mean` or NAME=WEIGHT") from error


JudgeBy = Annotated[
    Annotated[Literal["first", "mean"], WrapValidator(_word_of_sets), Tag(WORD_TAG)] | _Weights,
    Discriminator(lambda value: WEIGHTS_TAG if isinstance(value, dict) else WORD_TAG),
]
"""Which of several validation sets judge."""

FolderName = Annotated[str, Field(min_length=1, max_length=200, pattern=_FOLDER_NAME)]
"""A single folder name that does not start with a dot."""

Glob = Annotated[str, Field(min_length=1, max_length=500)]
"""A shell pattern, such as `checkpoint-*`."""


def one_or_several(value: Any) -> Any:
    """A single text stands for a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_GlobList = Annotated[tuple[Glob, ...], Field(max_length=100)]
Globs = Annotated[_GlobList, BeforeValidator(one_or_several, json_schema_input_type=Glob | _GlobList)]
"""A shell pattern, or a list of them."""

WebAddress = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(check_web_address)]
"""Such as `https://host/path`."""

_WebAddresses = Annotated[tuple[WebAddress, ...], Field(max_length=10)]
Webhooks = Annotated[_WebAddresses, BeforeValidator(one_or_several, json_schema_input_type=WebAddress | _WebAddresses)]
"""A web address, or a list of them."""

CheckpointName = Annotated[str, Field(min_length=1, max_length=4096)]
"""A checkpoint's path inside the folder, such as `checkpoint-500` or `epoch-3.pt`."""

Step = Annotated[
    float,
    Field(allow_inf_nan=False, ge=-(2**53), le=2**53),
    AfterValidator(lambda step: int(step) if step.is_integer() else step),
    PlainSerializer(lambda step: step, return_type=int | float),
]
"""A step or an epoch, such as 1000 or 0.25. A whole one stays a whole number."""


def _no_equals(name: str) -> str:
    if "=" in name:
        raise ValueError("must not contain `=`, which stands between a label's name and its value")
    return name


LabelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_equals)]
Label = Annotated[str, Field(max_length=200)]

OPTIONS_DEPTH = 16
OPTIONS_BYTES = 64 << 10
_INTEGERS = range(-(2**63), 2**64)


def _bounded(options: dict[str, Any]) -> dict[str, Any]:
    """Whatever reads a spec can read options within these bounds."""
    level: list[Any] = [options]
    for _ in range(OPTIONS_DEPTH):
        level = [inner for value in level for inner in inside(value)]
        if any(isinstance(value, int) and value not in _INTEGERS for value in level):
            raise ValueError("must hold whole numbers of at most 64 bits")
    if any(isinstance(value, (dict, list)) for value in level):
        raise ValueError(f"must be nested at most {OPTIONS_DEPTH} deep")
    if len(to_json(options)) > OPTIONS_BYTES:
        raise ValueError(f"must have at most {OPTIONS_BYTES} bytes as JSON")
    return options


def inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


OptionName = Annotated[str, Field(min_length=1, max_length=100)]
Options = Annotated[dict[OptionName, JsonValue], AfterValidator(_bounded)]
"""Options of a method or a task, which know their own rules. At most 16 deep and 64 KiB as JSON."""
