"""The arrows between packages: what each one may import."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ENGINE = REPOSITORY / "worker/ladle_engine"
ROOMS = (
    ("__init__", "average", "combine", "convert", "curve", "inspection", "rebuild", "testing"),
    *(("pipeline",), ("methods",), ("training",), ("placements",), ("subspace",), ("directions",), ("evaluation",)),
    *(("model",), ("output",), ("tasks",), ("resume_state",), ("checkpoints",), ("distributed",), ("storage",)),
    (
        "coefficients",
        "determinism",
        "errors",
        "far_names",
        "far_urls",
        "options",
        "paths",
        "profiles",
        "progress",
        "random_signs",
        "versions",
    ),
)
"""The engine from top to bottom: a room imports what stands below it, and from its own row."""

OURS = {"ladle_contracts", "ladle_report", "ladle", "ladle_service", "ladle_worker", "ladle_engine", "ladle_trackers"}
ALLOWED = {
    "client/ladle_contracts": {"ladle_contracts"},
    "client/ladle_report": {"ladle_report"},
    "client/ladle": {"ladle", "ladle_contracts", "ladle_report"},
    "service/ladle_service": {"ladle_service", "ladle_contracts", "ladle_report"},
    "worker/ladle_worker": {"ladle_worker", "ladle_contracts", "ladle_engine", "ladle_trackers"},
    "worker/ladle_engine": {"ladle_engine", "ladle_report"},
    "worker/ladle_trackers": {"ladle_trackers", "ladle_report"},
}
FORBIDDEN = {
    "client/ladle_contracts": {"torch", "celery", "redis", "fastapi", "httpx2", "kombu", "numpy"},
    "client/ladle_report": {
        "torch",
        "pydantic",
        "celery",
        "redis",
        "fastapi",
        "httpx2",
        "kombu",
        "numpy",
        "rich",
        "typer",
    },
    "client/ladle": {"torch", "celery", "redis", "fastapi", "kombu", "numpy"},
    "service/ladle_service": {"torch", "numpy", "safetensors", "transformers"},
    "worker/ladle_worker": {"fastapi", "starlette", "uvicorn"},
    "worker/ladle_engine": {"celery", "redis", "kombu", "pydantic", "fastapi", "httpx2", "requests"},
    "worker/ladle_trackers": {"torch", "celery", "redis", "fastapi", "pydantic"},
}


CALLBACKS = "client/ladle/callbacks"
"""Runs inside of trainings, so it may import what they do. Nothing else of the client imports it."""
OF_TRAININGS = {"torch", "safetensors", "transformers", "lightning", "peft"}


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
        if file.is_relative_to(REPOSITORY / CALLBACKS):
            imported -= OF_TRAININGS
        wrong = (imported & OURS) - ALLOWED[package] | imported & FORBIDDEN[package]
        assert not wrong, f"{file.relative_to(REPOSITORY)} must not import {sorted(wrong)}"


def test_only_the_callbacks_of_the_client_know_what_trains() -> None:
    client, callbacks = REPOSITORY / "client/ladle", REPOSITORY / CALLBACKS
    inside = sorted(callbacks.rglob("*.py"))
    assert any(imports_of(file) & OF_TRAININGS for file in inside)
    for file in set(client.rglob("*.py")) - set(inside):
        assert not imports_of(file) & OF_TRAININGS, f"{file} must not import {OF_TRAININGS}"
        assert "ladle.callbacks" not in file.read_text(), f"{file} must not import the callbacks"
    frameworks = {"transformers", "lightning"}
    assert {file.stem for file in inside if imports_of(file) & frameworks} == frameworks, "each in its own file"


def test_the_agent_itself_imports_neither_torch_nor_the_engine() -> None:
    package = REPOSITORY / "worker/ladle_worker"
    with_engine = {file.name for file in package.rglob("*.py") if imports_of(file) & {"torch", "ladle_engine"}}
    in_ranks = {"rank.py", "ranks.py", "waiting.py", "boundary.py", "told.py", "far_table.py", "far_look.py", "far.py"}
    in_ranks |= {"flight_recorder.py"}
    far = {"far_inspect.py", "far_questions.py", "far_results.py"}
    in_their_own = {"convert_folder.py", "describe.py", "inspect_folder.py", "precheck.py", "vetting.py"}
    assert with_engine <= in_ranks | in_their_own | far | {"convert.py", "failure.py"}


def test_the_engine_is_imported_without_what_only_sharded_models_need() -> None:
    """torch's sharded tensors take as long to import as the engine, and each process of a job imports it."""
    late = ("torch.distributed.tensor", "torch.distributed.fsdp")
    for path in sorted(ENGINE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith(late)), path


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def late() -> None:\n    import torch.nn\n    from ladle_engine import average\n")
    assert imports_of(file) == {"torch", "ladle_engine"}


def engine_modules() -> dict[str, Path]:
    """Name below `ladle_engine`, such as `pipeline.prepare` -> file; a package's `__init__` has the package's name."""
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        name = ".".join(path.relative_to(ENGINE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def engine_imports(path: Path, modules: Collection[str]) -> set[str]:
    """The engine's modules that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("ladle_engine.") for alias in node.names if "ladle_engine." in alias.name}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ladle_engine":
            base = node.module.removeprefix("ladle_engine").removeprefix(".")
            full = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {name if name in modules else base or "__init__" for name in full}
    return found


def row_of(module: str) -> int:
    """Where a module's room stands, counted from the top."""
    room = module.split(".")[0]
    return next(row for row, rooms in enumerate(ROOMS) if room in rooms)


def test_no_arrow_in_the_engine_runs_up() -> None:
    modules = engine_modules()
    upward = [
        f"{module} -> {imported}"
        for module, path in modules.items()
        for imported in sorted(engine_imports(path, modules))
        if row_of(imported) < row_of(module)
    ]
    assert not upward


def test_the_engine_has_no_import_circle() -> None:
    modules = engine_modules()
    assert find_circle({name: engine_imports(path, modules) for name, path in modules.items()}) is None


def find_circle(imports: Mapping[str, Collection[str]]) -> list[str] | None:
    """Modules that import each other, the first one again at the end."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str] | None:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return None
        for imported in sorted(imports.get(module, ())):
            if circle := walk(imported, [*trail, module]):
                return circle
        done.add(module)
        return None

    return next((circle for module in sorted(imports) if (circle := walk(module, []))), None)


def test_the_walk_finds_circles_and_imports_inside_functions(tmp_path: Path) -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    file = tmp_path / "late.py"
    file.write_text(
        "from ladle_engine import average, progress\ndef late():\n    from ladle_engine.methods import plan\n"
    )
    assert engine_imports(file, {"average", "progress", "methods.plan"}) == {"average", "progress", "methods.plan"}
    file.write_text("import ladle_engine.errors\nfrom ladle_engine import METHODS\n")
    assert engine_imports(file, {"errors"}) == {"errors", "__init__"}
