"""MLflow: the operator's server (`MLFLOW_TRACKING_URI`), else a database in the folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle_trackers.base import Cell, Run, Value, plain

JOB_TAG = "ladle.job"
BATCH = 500
"""MLflow takes at most a thousand metrics, and a hundred parameters, in one request."""
PARAMETERS = 100
LONGEST = 5000
URI_VARIABLE = "MLFLOW_TRACKING_URI"


class ToMlflow:
    """A run of the experiment that is called like the project."""

    def __init__(self, run: Run) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._make_metric, folder = Metric, run.folder / "mlflow"
        own = os.environ.get(URI_VARIABLE)
        if not own:
            folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=own or f"sqlite:///{folder / 'mlflow.db'}")
        experiment = self._experiment(run.project, None if own else (folder / "artifacts").as_uri())
        self._id = self._run(run, experiment)
        settings = list(run.settings.items())
        for start in range(0, len(settings), PARAMETERS):
            parameters = [Param(plain(k), str(v)[:LONGEST]) for k, v in settings[start : start + PARAMETERS]]
            self._client.log_batch(self._id, params=parameters)

    def numbers(self, series: str, values: Mapping[str, float], step: float) -> None:
        now = time.time_ns() // 1_000_000
        made = [self._make_metric(f"{series}/{plain(name)}", value, now, round(step)) for name, value in values.items()]
        for start in range(0, len(made), BATCH):
            self._client.log_batch(self._id, metrics=made[start : start + BATCH])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        data = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_dict(self._id, data, f"{name}.json")

    def summary(self, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._client.log_metric(self._id, plain(name), value)
            else:
                self._client.set_tag(self._id, f"ladle.{plain(name)}", value[:LONGEST])

    def report(self, markdown: str, files: Sequence[Path]) -> None:
        self._client.set_tag(self._id, "mlflow.note.content", markdown[:LONGEST])
        self._client.log_text(self._id, markdown, "report.md")
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def end(self, *, ok: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if ok else "FAILED")

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:
                # Another job has just made it.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _run(self, run: Run, experiment: str) -> str:
        found: list[Any] = self._client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, "RUNNING")
            return str(found[0].info.run_id)
        tags = {JOB_TAG: run.id, **{f"label.{plain(tag)}": "" for tag in run.tags}}
        return str(self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id)
