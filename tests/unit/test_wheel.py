"""The wheel: built, installed without extras in a fresh environment, and light."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SERVICE_PAGES = REPOSITORY / "service" / "ladle_service" / "pages"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that has only the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("ladle-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-c", str(REPOSITORY / "constraints.txt"), str(wheel)],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    return python


def run(python: Path, code: str) -> str:
    """Runs code far from the checkout, so that nothing comes from there."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True, cwd=python.parent, env=environment
    )
    return done.stdout.strip()


def test_import_ladle_works_and_neither_torch_nor_celery_came_along(installed: Path) -> None:
    assert run(installed, "import ladle; print(ladle.submit.__name__)") == "submit"
    found = run(
        installed,
        "import importlib.util as u; "
        "print([n for n in ('torch','celery','redis','fastapi','numpy') if u.find_spec(n)])",
    )
    assert found == "[]"


def test_the_command_answers_without_any_extra(installed: Path) -> None:
    done = subprocess.run([str(installed.parent / "ladle"), "--help"], capture_output=True, text=True, check=True)
    assert "run" in done.stdout
    assert "doctor" in done.stdout


def test_the_command_writes_a_plug_in_without_any_extra(installed: Path, tmp_path: Path) -> None:
    subprocess.run([str(installed.parent / "ladle"), "task", "new", "wine"], cwd=tmp_path, check=True)
    assert (tmp_path / "wine" / "ladle_wine" / "__init__.py").exists()
    assert (tmp_path / "wine" / "tests" / "test_task.py").exists()


def test_the_wheel_holds_all_six_packages_and_their_data_files(installed: Path) -> None:
    packages = run(
        installed,
        "import importlib.util as u; "
        "ours = ('ladle', 'ladle_contracts', 'ladle_report', 'ladle_service', 'ladle_worker', 'ladle_engine'); "
        "print([n for n in ours if u.find_spec(n)])",
    )
    assert packages == "['ladle', 'ladle_contracts', 'ladle_report', 'ladle_service', 'ladle_worker', 'ladle_engine']"
    scripts = run(
        installed,
        "import importlib.resources as r; print(len(list((r.files('ladle_contracts')/'lua').iterdir())) > 3)",
    )
    assert scripts == "True"
    assert run(installed, "import ladle_report; print(len(ladle_report.style()) > 1000)") == "True"
    pages = "import importlib.util as u; print(u.find_spec('ladle_service').submodule_search_locations[0])"
    folder = Path(run(installed, pages)) / "pages"
    there = {path.relative_to(SERVICE_PAGES) for path in SERVICE_PAGES.rglob("*") if path.suffix not in (".py", ".pyc")}
    missing = {path for path in there if not (folder / path).exists()}
    assert len(there) > 20
    assert not missing
