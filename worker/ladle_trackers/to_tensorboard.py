"""TensorBoard: files of events in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ladle_trackers.base import Cell, Run, Value, plain


class ToTensorBoard:
    """Writes to `<folder>/tensorboard/<project>/<run>`, for `tensorboard --logdir <folder>/tensorboard`."""

    def __init__(self, run: Run) -> None:
        from tensorboardX import SummaryWriter

        folder = run.folder / "tensorboard" / run.project / run.name
        # A later attempt adds a file to the same folder.
        self._writer = SummaryWriter(logdir=str(folder), flush_secs=5, write_to_disk=True)
        self._text("settings", markdown_table(("setting", "value"), list(run.settings.items())))

    def numbers(self, series: str, values: Mapping[str, float], step: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{series}/{plain(name)}", value, round(step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self._text(name, markdown_table(columns, rows))

    def summary(self, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"summary/{plain(name)}", value, 0)

    def report(self, markdown: str, files: Sequence[Path]) -> None:
        self._text("report", markdown)

    def end(self, *, ok: bool) -> None:
        self._writer.close()

    def _text(self, name: str, markdown: str) -> None:
        self._writer.add_text(name, markdown, 0)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
