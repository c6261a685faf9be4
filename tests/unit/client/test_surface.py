"""What `ladle` promises: its names, its lightness, its types."""

from __future__ import annotations

import inspect
import subprocess
import sys

import ladle
from ladle import _errors

PUBLIC = {
    "AsyncClient", "AsyncJob", "Client", "ConfigurationError", "Conflict", "Event", "InvalidSpec", "Job",
    "JobCancelled", "JobError", "JobFailed", "JobRecord", "JobResult", "JobSpec", "JobState", "LadleError",
    "NotFound", "ServiceError", "ServiceUnreachable", "TooMany", "Unauthorized", "Unavailable", "UnexpectedAnswer",
    "submit",
}  # fmt: skip


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_public_names_are_these_and_all_can_be_had() -> None:
    assert set(ladle.__all__) == PUBLIC == set(dir(ladle))
    for name in ladle.__all__:
        assert getattr(ladle, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    assert not hasattr(ladle, "sumbit")


def test_every_exception_of_the_package_is_public_and_drawn_in_the_tree() -> None:
    errors = {
        name for name, item in vars(_errors).items() if inspect.isclass(item) and issubclass(item, ladle.LadleError)
    }
    assert errors <= PUBLIC
    assert all(name in (_errors.__doc__ or "") for name in errors)


def test_importing_ladle_is_quick_and_brings_nothing_heavy() -> None:
    code = "import time; t = time.process_time(); import ladle; print(time.process_time() - t)"
    assert min(float(in_fresh_python(code)) for _ in range(3)) < 0.3
    heavy = "'torch', 'numpy', 'celery', 'redis', 'fastapi', 'transformers', 'rich', 'typer'"
    code = f"import sys, ladle; ladle.submit; print([name for name in ({heavy},) if name in sys.modules])"
    assert in_fresh_python(code) == "[]"


def test_the_help_of_the_command_knows_nothing_of_what_trains() -> None:
    heavy = "'torch', 'numpy', 'transformers', 'lightning', 'safetensors', 'ladle.callbacks'"
    code = f"""
import sys
from ladle.cli.app import app
sys.argv = ["ladle", "--help"]
try:
    app()
finally:
    print([name for name in ({heavy},) if name in sys.modules])
"""
    assert in_fresh_python(code).endswith("[]")


def test_the_async_surface_is_the_sync_one() -> None:
    for sync, other in ((ladle.Client, ladle.AsyncClient), (ladle.Job, ladle.AsyncJob)):
        names = {name for name in dir(sync) if not name.startswith("_")}
        assert names == {name for name in dir(other) if not name.startswith("_")}
        for name in names:
            ours, theirs = getattr(sync, name), getattr(other, name)
            if inspect.isfunction(ours):
                assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
