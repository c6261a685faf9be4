"""What reads files of strangers: each target takes a folder as a job would find it, and reads all that it can.

A target returns, or raises an `EngineError`. Anything else is a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ladle_engine import EngineError, combine_checkpoints, discover
from ladle_engine.checkpoints.pickles.plain import pickled_value
from ladle_engine.pipeline.open_job import opened
from ladle_engine.pipeline.prepare import prepare, with_directions
from ladle_engine.pipeline.request import Request
from ladle_engine.progress import Warned
from ladle_engine.rebuild import rebuild
from ladle_engine.resume_state import ResumeState
from ladle_engine.storage.input_file import InputFile
from ladle_engine.tasks.choose import make_task
from ladle_engine.tasks.image_classification import ImageClassification

STATE_KEY = "evaluations"


def combine(folder: Path, scratch: Path) -> None:
    """Finds, checks, reads and averages every checkpoint of a folder."""
    combine_checkpoints(folder, output=scratch / "out")


def data(folder: Path, scratch: Path) -> None:
    """Reads every example of the set beside `run`, which is a model that wants it."""
    checkpoints = discover(folder / "run")
    for path in sorted(folder.iterdir()):
        if path.name != "run":
            examples = make_task(ImageClassification, {}).open_data(path, checkpoints)
            for index in torch.arange(len(examples)).split(16):
                examples.batch(index)


def job(folder: Path, scratch: Path) -> None:
    """A job on `run` and `val`, up to where its methods would begin."""
    with opened(
        Request(ckpt_dir=folder / "run", val_set=folder / "val", output=scratch / "out", device="cpu")
    ) as begun:
        prepare(begun, with_directions)


def again(folder: Path, scratch: Path) -> None:
    """A model from `result/coefficients.json` and the checkpoints of `run`."""
    rebuild(folder / "result", folder / "run", output=scratch / "out")


def resume(folder: Path, scratch: Path) -> None:
    """What an attempt that was cut short left."""
    warnings: list[object] = []
    state = ResumeState(folder, "job", on_event=warnings.append)
    if state.load(STATE_KEY) is None and not any(isinstance(event, Warned) for event in warnings):
        raise AssertionError("a state is loaded, or it is said that it is not")


def values(folder: Path, scratch: Path) -> None:
    """What the pickle of a file makes that is no state dict."""
    with InputFile(folder / "values.pkl") as file:
        pickled_value(file)


def program(folder: Path, scratch: Path) -> None:
    """Runs `program.py`: what a reader with a fault could do, for the tests of the bounds themselves."""
    exec((folder / "program.py").read_text(), {})


TARGETS: dict[str, Callable[[Path, Path], None]] = {
    "combine": combine,
    "data": data,
    "job": job,
    "rebuild": again,
    "resume": resume,
    "values": values,
    "program": program,
}

REFUSALS_OF_A_FAULT = ("out-of-memory", "task-failed", "internal-error", "crashed")
"""Reasons that a file must never lead to: they say that something was not refused in time."""


def refusal(error: EngineError) -> str | None:
    """What is wrong with how a file was refused; None where nothing is."""
    if error.code in REFUSALS_OF_A_FAULT:
        return f"refused as {error.code}"
    if len(error.message) > MESSAGE_CHARS:
        return f"a message of {len(error.message):,} characters"
    try:
        error.message.encode()
    except UnicodeEncodeError:
        return "a message that is not UTF-8"
    return None


MESSAGE_CHARS = 4_000
