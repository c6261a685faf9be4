"""Checks the paths of a spec. The functions block on the file system, so call them in a thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ladle_contracts import ErrorCode, JobSpec
from ladle_contracts.roots import PathNotAllowed, resolve_input, resolve_inside
from ladle_service.problems import ApiError, field_error, shown


def check_paths(spec: JobSpec, roots: Sequence[Path]) -> None:
    """Raises `path-not-allowed` with each path that is no file or folder inside the roots. It does not tell why."""
    paths = dict(spec.val_sets)
    if spec.train_set is not None:
        paths["train_set.path"] = spec.train_set.path
    if spec.adapters.base_model is not None:
        paths["adapters.base_model"] = spec.adapters.base_model
    refuse_outside(spec.ckpt_dirs, paths, roots)


def refuse_outside(ckpt_dirs: Mapping[str, str], data: Mapping[str, str], roots: Sequence[Path]) -> None:
    """The same for paths by their fields."""
    refused = {field: path for field, path in ckpt_dirs.items() if not _is_inside(path, roots, resolve_input)}
    refused |= {field: path for field, path in data.items() if not _is_inside(path, roots, resolve_inside)}
    if refused:
        names = " and ".join(f"`{field}`" for field in refused)
        rule = "must be an existing file or folder inside the allowed folders"
        raise ApiError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"{names} {rule}. Ask the operator which folders are allowed. With `ladle up`, allow more with `--root`.",
            errors=[field_error(field, f"{rule}, but is {shown(path)}") for field, path in refused.items()],
        )


def check_output(spec: JobSpec, results_dir: Path) -> None:
    """Raises `output-exists` if the name is taken. A running job may take it later, so the worker checks again."""
    if spec.output.name is not None and os.path.lexists(results_dir / spec.output.name):
        rule = f"must be the name of a new folder, but {shown(spec.output.name)} exists"
        message = f"`output.name` {rule}. Choose another name, or leave it out."
        raise ApiError(ErrorCode.OUTPUT_EXISTS, message, errors=[field_error("output.name", rule)])


def _is_inside(path: str, roots: Sequence[Path], resolve: Callable[[str, Sequence[Path]], Path]) -> bool:
    try:
        resolve(path, roots)
    except (PathNotAllowed, OSError):
        # A disk that does not answer is as good as none.
        return False
    return True
