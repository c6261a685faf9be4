"""What `ladle watch-folder` refuses before it begins: what no later checkpoint would mend."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ladle._client import Client
from ladle._spec import absolute
from ladle.cli.installed import installed_catalog, prefers_service
from ladle.cli.job_flags import JobArguments, WrongUsage
from ladle.cli.stack import need_extras
from ladle.curve import CurvePoint, read
from ladle_contracts import MethodInfo, TaskInfo
from ladle_contracts.far_urls import is_url
from ladle_contracts.roots import GLOB
from ladle_contracts.safe_text import one_line

LOCK_FILE = ".watch.lock"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the flags of the watch itself say."""

    every: int
    pause_s: float
    idle_s: float | None
    keep_all: bool
    results: Path | None
    url: str | None
    token: str | None


def checked(job: JobArguments) -> Path:
    """The folder. Raises `WrongUsage` for what waiting does not mend."""
    folder = job.ckpt_dir
    if not isinstance(folder, Path):
        raise WrongUsage("`--also` must not be given to `ladle watch-folder`, which watches one folder.")
    shown = one_line(str(folder))
    if is_url(folder):
        raise WrongUsage(f"`CKPT_DIR` must be a folder on this machine to be watched, but is `{shown}`.")
    here = Path(absolute(folder))
    if not here.exists() and GLOB.search(here.name):
        raise WrongUsage(f"`CKPT_DIR` must be one folder, but is the glob `{shown}`.")
    if here.exists() and not here.is_dir():
        raise WrongUsage(f"`CKPT_DIR` must be a folder, but `{shown}` is a file.")
    if not here.parent.is_dir():
        raise WrongUsage(f"`CKPT_DIR` must be in a folder that exists, but `{one_line(str(here.parent))}` does not.")
    if job.options.get("kind") == "curve":
        raise WrongUsage(
            "`--kind` must be `average` for a watch, which makes models. `ladle curve` draws a merge curve."
        )
    if job.options.get("output", {}).get("name") is not None:
        raise WrongUsage("`--name` names one result, but a watch makes several. Leave it out, or use `--results`.")
    return here


def check_names(job: JobArguments, wishes: Wishes) -> None:
    """Raises `WrongUsage` for a method or a task that does not exist: the first checkpoint may be hours away."""
    named = {part: (job.options.get(part) or {}).get("name") for part in ("method", "task")}
    if not any(named.values()):
        return
    if prefers_service(wishes.url):
        with Client(wishes.url, wishes.token) as client:
            known: Mapping[str, Sequence[MethodInfo | TaskInfo]] = {"method": client.methods(), "task": client.tasks()}
    else:
        need_extras()
        catalog = installed_catalog()
        known = {"method": catalog.methods, "task": catalog.tasks}
    for part, name in named.items():
        names = [info.name for info in known[part]]
        if name is not None and name not in names:
            raise WrongUsage(f"`--{part}` must be one of {', '.join(names)}, but is `{one_line(name)}`.")


def checked_results(results: Path, folder: Path) -> Path:
    if results.resolve().is_relative_to(folder.resolve()):
        raise WrongUsage(
            f"`--results` must be outside of `CKPT_DIR`, so that no average is taken for a checkpoint, but is "
            f"`{one_line(str(results))}`."
        )
    return results.absolute()


def continued(path: Path, folder: Path) -> list[CurvePoint]:
    """The points of an earlier watch of this folder. Raises `WrongUsage` for those of something else."""
    try:
        points = read(path)
    except (OSError, ValueError) as error:
        raise WrongUsage(
            f"The curve cannot be continued: {one_line(str(error))} Choose another `--results`."
        ) from error
    other = next((point.ckpt_dir for point in points if point.ckpt_dir != str(folder)), None)
    if other is not None:
        raise WrongUsage(
            f"`--results` must be a folder of its own for each `CKPT_DIR`, but `{one_line(str(path))}` is the curve of "
            f"`{one_line(other)}`."
        )
    return points


@contextmanager
def sole_watch(results: Path) -> Iterator[None]:
    """Two would average the same and delete each other's results. The kernel releases the lock."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = (results / LOCK_FILE).open("a")
    except OSError as error:
        raise WrongUsage(f"`--results` must be a folder that can be written, but is not: {error}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongUsage(
                f"Another `ladle watch-folder` is writing to `{one_line(str(results))}`. Choose another `--results`."
            ) from None
        yield
