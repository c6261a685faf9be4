"""One job through every door: the library, the service with the Python client, and the `ladle` command.

Slow, so not in `make test` but in `make test-tasks`. A test trains its checkpoints with the real tool below
`doors.data`, calls `through_all`, loads the results back in the tool, and scores them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ladle_engine import average
from tests.integration.api_stack import Stack
from tests.polling import DEADLINE_S

SMALL = {"methods": ["uniform", "twa"], "options": {"twa": {"steps": 8}}}
"""Options of `auto` that take seconds."""
ADAPTER_ARGUMENTS = {"space": "adapter_space", "base_model": "base_model"}
"""Option of a job -> argument of `average`, and flag."""
PROGRAM = [sys.executable, "-c", "from ladle.cli import main; main()"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of one door."""

    folder: Path
    report: Mapping[str, Any]

    @property
    def winner(self) -> Mapping[str, float]:
        """Its scores on the select split, by metric."""
        scores: Mapping[str, float] = next(
            row["select"] for row in self.report["candidates"] if row["method"] == self.report["winner"]
        )
        return scores


@dataclass(frozen=True)
class Doors:
    stack: Stack
    data: Path
    """A folder of one module's own inside the root: checkpoints and validation sets go below it."""

    def through_all(
        self,
        ckpt_dir: Path,
        val_set: Path,
        *,
        task: str,
        metric: str | None = None,
        method: str = "auto",
        method_options: Mapping[str, Any] = SMALL,
        task_options: Mapping[str, Any] | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> list[Result]:
        """The same job by each door, the task inferred from the folder; all three must come to the same."""
        named: dict[str, Any] = {"metric": metric} if metric else {}
        of_adapters = {ADAPTER_ARGUMENTS[name]: value for name, value in (adapters or {}).items()}
        library = self.data.parent / f"{ckpt_dir.name}-library"
        average(
            ckpt_dir, val_set, output=library, method=method, method_options=dict(method_options),
            task_options=task_options, **named, **of_adapters,
        )  # fmt: skip
        spec: dict[str, Any] = {"method": {"name": method, "options": dict(method_options)}, **named}
        if adapters:
            spec["adapters"] = dict(adapters)
        if task_options:
            spec["task"] = {"options": dict(task_options)}
        with self.stack.client() as client:
            served = client.submit(ckpt_dir, val_set, **spec).result(timeout=DEADLINE_S)
        folders = [library, Path(served.folder), self._command(ckpt_dir, val_set, spec)]
        results = [Result(folder=each, report=json.loads((each / "report.json").read_text())) for each in folders]
        for result in results:
            assert result.report["task"] == task
            assert result.report["winner"] == results[0].report["winner"]
            assert result.winner == pytest.approx(results[0].winner, rel=1e-5)
        return results

    def _command(self, ckpt_dir: Path, val_set: Path, spec: Mapping[str, Any]) -> Path:
        """`ladle submit --wait` would need no stack of its own either, but `run` is what people type."""
        output = self.data.parent / f"{ckpt_dir.name}-command"
        arguments = ["run", str(ckpt_dir), str(val_set), "--results", str(output), "--name", "made"]
        arguments += ["--method", spec["method"]["name"]]
        for name, value in spec["method"]["options"].items():
            arguments += ["--method-option", f"{name}={json.dumps(value)}"]
        for name, value in spec.get("task", {}).get("options", {}).items():
            arguments += ["--task-option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        for name, value in spec.get("adapters", {}).items():
            arguments += [f"--{ADAPTER_ARGUMENTS[name].replace('_', '-')}", value]
        if "metric" in spec:
            arguments += ["--metric", spec["metric"]]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LADLE_")}
        # A unix socket's path is short, and pytest's folders are not.
        environment |= {"XDG_STATE_HOME": str(output / "s"), "TMPDIR": "/tmp", "COLUMNS": "160"}
        done = subprocess.run(
            [*PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        (report,) = output.rglob("report.json")
        return report.parent
