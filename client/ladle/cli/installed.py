"""Asks the worker that is installed here what it can do, in a separate process because it needs torch."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ladle._address import URL_VARIABLE
from ladle._client import Client
from ladle._errors import ConfigurationError, LadleError, ServiceUnreachable
from ladle.cli.catalog_cache import keep_catalog
from ladle.cli.stack import StackError, has_extra
from ladle_contracts import Catalog, Inspection, InspectRequest, JobSpec
from ladle_contracts.processes import end_with_parent
from ladle_contracts.safe_text import one_line

TAIL_LINES = 12


class Refused(LadleError):
    """The job would fail before it reads any weights."""


class InputCheck:
    """Looks at a job's input, in a process that works while its caller does something else."""

    def __init__(self, spec: JobSpec, results: Path) -> None:
        request = {"spec": spec.model_dump(mode="json"), "results": str(results)}
        self._spec = spec
        self._asked = json.dumps(request)
        self._process = subprocess.Popen(
            _command("precheck"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As the parts of the stack: only this process decides what ends when.
            process_group=0,
            preexec_fn=end_with_parent(signal.SIGKILL),
        )

    def finish(self, show: Callable[[Inspection], None]) -> None:
        """Shows what is in the folder. Raises `Refused` with the message and the reason of the job that would fail."""
        out, err = self._process.communicate(self._asked)
        done = subprocess.CompletedProcess(self._process.args, self._process.returncode, out, err)
        _judge(done, self._spec, show)

    def __enter__(self) -> InputCheck:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._process:
            self._process.kill()


def _judge(done: subprocess.CompletedProcess[str], spec: JobSpec, show: Callable[[Inspection], None]) -> None:
    answer = _last_line(done)
    if answer is None:
        raise StackError("\n".join(["The worker could not check the input:", *_tail(done.stderr)]))
    if answer.get("inspection"):
        show(Inspection.read(json.dumps(answer["inspection"])))
    if answer["ok"]:
        return
    tail = [line for line in _tail(done.stderr) if one_line(answer["message"]) not in line]
    lines = ["The log ends with:", *tail] if tail else []
    if answer.get("inspection") and not answer["inspection"]["usable"]:
        lines.append(
            one_line(f"`ladle inspect {shlex.quote(next(iter(spec.ckpt_dirs.values())))}` shows what is there.")
        )
    raise Refused("\n".join([one_line(f"The job cannot run: {answer['message']} [{answer['reason']}]"), *lines]))


def prefers_service(url: str | None) -> bool:
    """Whether a folder is inspected by a service: one is named, or there is no worker here."""
    return bool(url or os.environ.get(URL_VARIABLE)) or not has_extra("worker")


def inspect_here(request: InspectRequest) -> Inspection:
    """Inspects a folder with the worker that is installed here. Raises `StackError`."""
    done = _ask("inspect_folder", json.dumps({"request": request.model_dump(mode="json"), "roots": None}))
    answer = _last_line(done)
    if answer is None:
        raise StackError("\n".join(["The worker could not inspect the folder:", *_tail(done.stderr)]))
    if not answer["ok"]:
        raise Refused(one_line(answer["message"]))
    return Inspection.read(json.dumps(answer["inspection"]))


def convert_here(source: Path, output: Path, **options: Any) -> list[str]:
    """Converts checkpoints with the worker that is installed here; the folders. Raises `Refused` or `StackError`."""
    if not has_extra("worker"):
        raise StackError("Converting needs the extra worker, which is not installed. Run: pip install 'ladle[worker]'")
    asked = {"source": str(source.expanduser().absolute()), "output": str(output.expanduser().absolute()), **options}
    done = _ask("convert_folder", json.dumps(asked))
    answer = _last_line(done)
    if answer is None:
        raise StackError("\n".join(["The checkpoints could not be converted:", *_tail(done.stderr)]))
    if not answer["ok"]:
        raise Refused(one_line(f"{answer['message']} [{answer['reason']}]"))
    folders: list[str] = answer["folders"]
    return folders


def describe() -> dict[str, Any]:
    """The catalogue, tasks that cannot be loaded, the GPUs and torch's version. Raises `StackError`."""
    done = _ask("describe")
    described: dict[str, Any] | None = _last_line(done)
    if described is None:
        raise StackError((_tail(done.stderr) or ["no message"])[-1].strip())
    return described


def installed_catalog() -> Catalog:
    """The methods and tasks of this installation. Raises `StackError`."""
    catalog = Catalog.model_validate_json(json.dumps(describe()["catalog"]))
    keep_catalog(catalog)
    return catalog


def catalog_part(part: str, url: str | None, token: str | None, err: Console) -> Any:
    """`methods` or `tasks` of the service. If no service is named and none answers, those of this installation."""
    try:
        with Client(url, token) as client:
            return getattr(client, part)()
    except (ConfigurationError, ServiceUnreachable):
        if url or os.environ.get(URL_VARIABLE) or not has_extra("worker"):
            raise
    err.print("No service is running. This is what is installed here:", style="dim")
    return getattr(installed_catalog(), part)


def _ask(module: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(module), input=text, capture_output=True, text=True, check=False)


def _command(module: str) -> list[str]:
    return [sys.executable, "-m", f"ladle_worker.{module}"]


def _last_line(done: subprocess.CompletedProcess[str]) -> Any:
    """The answer, which comes after anything that a plug-in prints. None if the process failed."""
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else None


def _tail(text: str) -> list[str]:
    return [f"    {one_line(line.expandtabs())}" for line in text.splitlines()[-TAIL_LINES:]]
