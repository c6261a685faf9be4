"""The arrows between packages: what each one may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OURS = {"ladle_contracts", "ladle", "ladle_service", "ladle_worker", "ladle_engine"}
ALLOWED = {
    "client/ladle_contracts": {"ladle_contracts"},
    "client/ladle": {"ladle", "ladle_contracts"},
    "service/ladle_service": {"ladle_service", "ladle_contracts"},
    "worker/ladle_worker": {"ladle_worker", "ladle_contracts", "ladle_engine"},
    "worker/ladle_engine": {"ladle_engine"},
}
FORBIDDEN = {
    "client/ladle_contracts": {"torch", "celery", "redis", "fastapi", "httpx2", "kombu", "numpy"},
    "client/ladle": {"torch", "celery", "redis", "fastapi", "kombu", "numpy"},
    "service/ladle_service": {"torch", "numpy", "safetensors", "transformers"},
    "worker/ladle_worker": {"fastapi", "starlette", "uvicorn"},
    "worker/ladle_engine": {"celery", "redis", "kombu", "pydantic", "fastapi", "httpx2", "requests"},
}


def imports_of(path: Path) -> set[str]:
    """The top-level names that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files, f"{package} has no files"
    for file in files:
        imported = imports_of(file)
        wrong = (imported & OURS) - ALLOWED[package] | imported & FORBIDDEN[package]
        assert not wrong, f"{file.relative_to(REPOSITORY)} must not import {sorted(wrong)}"


def test_the_only_torch_in_the_worker_package_is_in_the_rank_process() -> None:
    package = REPOSITORY / "worker/ladle_worker"
    with_engine = {file.name for file in package.rglob("*.py") if imports_of(file) & {"torch", "ladle_engine"}}
    assert with_engine <= {"rank.py", "convert.py", "describe.py"}


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def late() -> None:\n    import torch.nn\n    from ladle_engine import average\n")
    assert imports_of(file) == {"torch", "ladle_engine"}
