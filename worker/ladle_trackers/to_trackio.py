"""Trackio: a database in the folder, unless the operator's environment names a Space or a server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ladle_trackers.base import Cell, Run, Value, plain

FOLDER_VARIABLE = "TRACKIO_DIR"


class ToTrackio:
    """A run that `TRACKIO_DIR=<folder>/trackio trackio show` shows."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault(FOLDER_VARIABLE, str(run.folder / "trackio"))
        import trackio

        self._trackio = trackio
        config = {plain(name): value for name, value in run.settings.items()}
        self._run = trackio.init(project=run.project, name=run.name, config=config, resume="allow", embed=False)

    def numbers(self, series: str, values: Mapping[str, float], step: float) -> None:
        self._run.log({f"{series}/{plain(name)}": value for name, value in values.items()}, step=round(step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        import pandas

        frame = pandas.DataFrame([list(row) for row in rows], columns=list(columns))
        self._run.log({name: self._trackio.Table(dataframe=frame)})

    def summary(self, values: Mapping[str, Value]) -> None:
        self._run.log({f"summary/{plain(name)}": value for name, value in values.items()})

    def report(self, markdown: str, files: Sequence[Path]) -> None:
        self._run.log({"report": self._trackio.Markdown(markdown)})

    def end(self, *, ok: bool) -> None:
        self._run.finish()
