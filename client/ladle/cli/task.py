"""`ladle task new`: writes a plug-in with a task of one's own, and its test."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from importlib import resources
from importlib.metadata import entry_points
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from ladle._errors import LadleError
from ladle.cli.console import SafeGroup, out
from ladle.cli.job_flags import WrongUsage

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 50
OF_LADLE = ("engine", "worker", "service", "contracts")
"""Their packages would have the names of Ladle's own."""
ENDING = ".template"

app = typer.Typer(cls=SafeGroup, no_args_is_help=True, help="Write a task of your own.")


@app.callback()
def _group() -> None:
    """Makes `new` a command of its own, although it is the only one."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task's name, such as `wine-quality`.")],
) -> None:
    """Write a plug-in for a model, data and metrics of your own, with its test, into the new folder NAME.

    Example: `ladle task new wine-quality`
    """
    refuse_bad_name(name)
    folder = Path(name)
    files = write_plug_in(folder, name)
    out.say(f"The plug-in `{name}` is in the new folder {folder}:")
    for file in files:
        out.say(f"    {file}")
    out.say(f"Fill in what is marked TODO in {name}/{package_of(name)}/__init__.py, and then:")
    for command in (f"cd {name}", "pip install -e .", "pytest", f"ladle run CHECKPOINTS VAL_SET --task {name}"):
        out.say(f"    {command}")


def refuse_bad_name(name: str) -> None:
    """Raises `WrongUsage` for what cannot be a task's name, a package's and a folder's at once."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST].strip("-")
        hint = f" Try `{near}`." if NAME.fullmatch(near) else ""
        raise WrongUsage(
            f"`NAME` must be lower-case letters and digits from a letter on, words joined by `-`, at most {LONGEST} "
            f"characters, but is {name!r}.{hint}"
        )
    if name in OF_LADLE:
        raise WrongUsage(f"`NAME` must not be one of {', '.join(OF_LADLE)}, which are parts of Ladle, but is `{name}`.")
    if name in entry_points(group="ladle.tasks").names:
        raise WrongUsage(f"`NAME` must be a new name, but a task `{name}` is installed already.")


def write_plug_in(folder: Path, name: str) -> list[str]:
    """All of it or nothing; the files, relative to `folder`. Raises `LadleError` where something is there already."""
    if os.path.lexists(folder):
        raise LadleError(f"`{folder}` must not exist, but does. Choose another name, or run this in another folder.")
    values = {
        "name": name,
        "package": package_of(name),
        "distribution": f"ladle-{name}",
        "class_name": "".join(word.capitalize() for word in name.split("-")) + "Task",
    }
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            files = _write(resources.files("ladle.cli") / "task_template", made / "plug-in", values)
            (made / "plug-in").rename(folder)
        finally:
            shutil.rmtree(made)
    except OSError as error:
        raise LadleError(f"`{folder}` cannot be written: {error.strerror}.") from error
    return sorted(file.relative_to(made / "plug-in").as_posix() for file in files)


def _write(template: Traversable, folder: Path, values: dict[str, str]) -> list[Path]:
    folder.mkdir()
    files = []
    for each in template.iterdir():
        if each.is_dir():
            files += _write(each, folder / (values["package"] if each.name == "package" else each.name), values)
        elif each.name.endswith(ENDING):
            file = folder / each.name.removesuffix(ENDING)
            file.write_text(Template(each.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
            files.append(file)
    return files


def package_of(name: str) -> str:
    return f"ladle_{name.replace('-', '_')}"
