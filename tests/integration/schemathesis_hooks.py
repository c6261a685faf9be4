"""For schemathesis: where a spec names a path that the schema allows, let it be one that is there."""

from __future__ import annotations

import os
from typing import Any

import schemathesis


def _real(path: Any) -> Any:
    """One path, or each of several by name."""
    if isinstance(path, dict):
        return {name: _real(each) for name, each in path.items()}
    return os.environ["REAL_PATH"] if isinstance(path, str) and 0 < len(path) <= 4096 and "\0" not in path else path


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Nothing else changes, so that what is wrong elsewhere stays wrong."""
    if isinstance(body, dict):
        body = {name: _real(value) if name in ("ckpt_dir", "val_set") else value for name, value in body.items()}
        if isinstance(body.get("train_set"), dict) and "path" in body["train_set"]:
            body["train_set"] = {**body["train_set"], "path": _real(body["train_set"]["path"])}
    return body
