"""Jobs over the checkpoints of a training: at a service, or on a stack of one's own where there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ladle._address import URL_VARIABLE
from ladle._client import Client
from ladle._spec import ValSet, build_spec
from ladle._stack_file import read_stack
from ladle_contracts import JobResult, JobSpec


def average_once(folder: Path, val_set: ValSet, options: Mapping[str, Any], results: Path) -> JobResult:
    """Runs one job and waits for its result. Raises `LadleError`."""
    spec = build_spec(folder, val_set, options)
    with client_for(roots_of(spec), results) as client:
        return client.submit(folder, val_set, **options).result()


@contextmanager
def client_for(roots: Sequence[str], results: Path) -> Iterator[Client]:
    """A client of the service that `ladle.submit` finds; where there is none, of a stack that ends with the block."""
    if is_service_known():
        with Client() as client:
            yield client
        return
    from ladle.cli.hosted import hosted_stack

    with hosted_stack(roots, results) as client:
        yield client


def is_service_known() -> bool:
    """Whether LADLE_URL names a service, or `ladle up` runs here. It may not answer."""
    return bool(os.environ.get(URL_VARIABLE)) or read_stack() is not None


def roots_of(spec: JobSpec) -> list[str]:
    """Every file or folder that a job reads."""
    others = [spec.train_set.path if spec.train_set is not None else None, spec.adapters.base_model]
    others += [spec.base, spec.curve.earlier]
    bases = [base for folder in spec.ckpt_dirs.values() for base in _bases(Path(folder))]
    return [*spec.ckpt_dirs.values(), *spec.val_sets.values(), *(path for path in others if path), *bases]


def _bases(folder: Path) -> set[str]:
    """The folders of the base models that adapters in the folder name."""
    configs = [json.loads(path.read_text()) for path in folder.glob("*/adapter_config.json")]
    named = {config.get("base_model_name_or_path") for config in configs}
    return {str(Path(base).absolute()) for base in named if base and Path(base).is_dir()}


def with_steps(options: Mapping[str, Any], steps: Sequence[int]) -> dict[str, Any]:
    """The options of a job that takes the checkpoints of these steps, unless they say which steps."""
    given = options.get("checkpoints")
    if isinstance(given, BaseModel):
        given = given.model_dump(mode="json", exclude_unset=True)
    chosen = {"pattern": given} if isinstance(given, str) else dict(given or {})
    return {**options, "checkpoints": {"steps": list(steps), **chosen}}
