"""Weights & Biases: files in the folder, unless the operator has said `WANDB_MODE=online`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ladle_trackers.base import Cell, Run, Value, plain

MODE_VARIABLE = "WANDB_MODE"
HOMES = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")


class ToWandb:
    """A run with the job's id, which `wandb sync <folder>/wandb/offline-run-*` sends later, or the library at once."""

    def __init__(self, run: Run) -> None:
        folder = run.folder / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        for home in HOMES:
            # By default below the home, which a container may not write.
            os.environ.setdefault(home, str(folder / ".wandb"))
        import wandb

        self._wandb = wandb
        mode = os.environ.get(MODE_VARIABLE, "offline")
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            # Without a connection there is nothing to go on with; syncing puts both together.
            resume="allow" if mode == "online" else None,
            dir=str(run.folder),
            mode=mode,
            config=dict(run.settings),
            tags=[tag[:64] for tag in run.tags],
            settings=wandb.Settings(
                console="off", disable_git=True, disable_code=True, x_disable_stats=True, silent=True
            ),
        )
        self._series: set[str] = set()

    def numbers(self, series: str, values: Mapping[str, float], step: float) -> None:
        if series not in self._series:
            self._series.add(series)
            # Each series has steps of its own, where W&B has one count for all.
            self._run.define_metric(f"{series}/step", hidden=True)
            self._run.define_metric(f"{series}/*", step_metric=f"{series}/step")
        self._run.log({f"{series}/step": step, **{f"{series}/{plain(name)}": value for name, value in values.items()}})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self._run.log({name: self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def summary(self, values: Mapping[str, Value]) -> None:
        self._run.summary.update(dict(values))

    def report(self, markdown: str, files: Sequence[Path]) -> None:
        for file in files:
            if file.suffix == ".html":
                self._run.log({"report": self._wandb.Html(file.read_text(encoding="utf-8"), inject=False)})
        artifact = self._wandb.Artifact(f"ladle-{self._run.id}", type="ladle-report")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def end(self, *, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)
