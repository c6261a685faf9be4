"""Checks the paths of a spec. The functions block on the file system, so call them in a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ladle_contracts import ErrorCode, JobSpec
from ladle_contracts.far_urls import is_url, shown_url
from ladle_contracts.roots import PathNotAllowed, resolve_anywhere
from ladle_service.problems import ApiError, field_error, shown


def check_paths(spec: JobSpec, roots: Sequence[Path], far_roots: Sequence[str] = ()) -> None:
    """Raises `path-not-allowed` with each path that is no file or folder inside the roots. It does not tell why.

    Of an address only that is checked; whether there is anything, the worker finds out.
    """
    paths = dict(spec.val_sets)
    if spec.train_set is not None:
        paths["train_set.path"] = spec.train_set.path
    if spec.adapters.base_model is not None:
        paths["adapters.base_model"] = spec.adapters.base_model
    if spec.base is not None:
        paths["base"] = spec.base
    if spec.curve.earlier is not None:
        paths["curve.earlier"] = spec.curve.earlier
    refuse_outside(spec.ckpt_dirs, paths, roots, far_roots)


def refuse_outside(
    ckpt_dirs: Mapping[str, str], data: Mapping[str, str], roots: Sequence[Path], far_roots: Sequence[str] = ()
) -> None:
    """The same for paths by their fields."""

    def is_inside(path: str, *, may_be_glob: bool) -> bool:
        try:
            resolve_anywhere(path, roots, far_roots, may_be_glob=may_be_glob)
        except (PathNotAllowed, OSError):
            # A disk that does not answer is as good as none.
            return False
        return True

    refused = {field: path for field, path in ckpt_dirs.items() if not is_inside(path, may_be_glob=True)}
    refused |= {field: path for field, path in data.items() if not is_inside(path, may_be_glob=False)}
    if refused:
        names = " and ".join(f"`{field}`" for field in refused)
        rule = "must be an existing file or folder inside the allowed folders"
        if any(map(is_url, refused.values())):
            rule += ", or an address below an allowed one, without a user, a password or a query"
        raise ApiError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"{names} {rule}. A path must be absolute. Ask the operator which folders are allowed. With `ladle up`, "
            f"allow more with `--root`.",
            errors=[field_error(field, f"{rule}, but is {_shown(path)}") for field, path in refused.items()],
        )


def _shown(path: str) -> str:
    """Without what may be a secret."""
    return shown(shown_url(path) if is_url(path) else path)


def check_output(spec: JobSpec, results_dir: Path) -> None:
    """Raises `output-exists` if there is a folder of this name. It may be made later, so the worker checks again."""
    if spec.output.name is not None and os.path.lexists(results_dir / spec.output.name):
        raise name_taken(spec, "exists")


def name_taken(spec: JobSpec, why: str) -> ApiError:
    """`output-exists` for the name that was chosen."""
    rule = f"must be the name of a new folder, but {shown(spec.output.name)} {why}"
    message = f"`output.name` {rule}. Choose another name, or leave it out."
    return ApiError(ErrorCode.OUTPUT_EXISTS, message, errors=[field_error("output.name", rule)])
