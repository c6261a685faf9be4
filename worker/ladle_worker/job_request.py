"""What the ranks get from their agent: the paths of the inputs, and the plan of their confinement."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ladle_contracts import JobSpec
from ladle_contracts.roots import resolve_anywhere
from ladle_worker.confinement.choose import among_nodes
from ladle_worker.confinement.plan import Plan, devices, readable, writable
from ladle_worker.gang import Gang
from ladle_worker.settings import Settings


def input_paths(spec: JobSpec, settings: Settings) -> dict[str, Any]:
    """Resolves every path inside the roots. The ranks, which open the files, check again whatever they open.

    Raises `PathNotAllowed`.
    """
    base_model, resolved = spec.adapters.base_model, inside_roots(settings)
    return {
        "ckpt_dir": spec.with_ckpt_dirs(inside_roots(settings, may_be_glob=True)),
        "val_set": spec.with_val_sets(resolved),
        "base_model": resolved("adapters.base_model", base_model) if base_model else None,
        "base": resolved("base", spec.base) if spec.base else None,
        "train_set": resolved("train_set.path", spec.train_set.path) if spec.train_set else None,
        "curve_earlier": resolved("curve.earlier", spec.curve.earlier) if spec.curve.earlier else None,
    }


def inside_roots(settings: Settings, *, may_be_glob: bool = False) -> Callable[[str, str], str]:
    """A function of a field's name and its path, which resolves it inside the roots. It raises `PathNotAllowed`."""

    def resolved(field: str, path: str) -> str:
        return resolve_anywhere(path, settings.roots, settings.far_roots, field=field, may_be_glob=may_be_glob)

    return resolved


def checkpoint_folders(job: dict[str, Any]) -> tuple[str, ...]:
    """Of a job that names one, or several."""
    return (job["ckpt_dir"],) if isinstance(job["ckpt_dir"], str) else tuple(job["ckpt_dir"])


def confinement_of(
    settings: Settings,
    protections: Collection[str],
    *,
    outputs: Path | None = None,
    inputs: tuple[str, ...] = (),
    reads: Collection[Path] = (),
    writes: tuple[Path, ...],
    gang: Gang | None = None,
) -> Plan:
    """How the ranks are confined. `reads` is what they may read beside the roots, and `writes` all they may write.
    `outputs` is where the result will be, by default in the folder of results."""
    redis = settings.redis_socket
    secrets = [path for path in (settings.redis_password_file, redis) if path is not None]
    return Plan(
        agent=os.getpid(),
        protections=among_nodes(protections) if gang else tuple(protections),
        inputs=inputs,
        outputs=str(outputs or settings.results_dir),
        read=readable((*settings.roots, *reads), settings.rank_read, secrets),
        write=writable(writes, settings.rank_write),
        devices=devices(),
        hidden=(str(redis),) if redis is not None else (),
        ports=(gang.head.port,) if gang else (),
    )
