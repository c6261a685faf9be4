"""What lies in a folder of checkpoints, or in the folders of several runs below it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ladle_engine.checkpoints.files import (
    BY_ITS_NAME,
    FIX_OR_EXCLUDE,
    Candidate,
    PassedOver,
    files_in,
    is_unfinished,
    leading_out,
    leads_out,
    seems_folder,
    unreadable,
    why_missing,
)
from ladle_engine.checkpoints.layouts import components
from ladle_engine.checkpoints.layouts.base import Folder, Found, within
from ladle_engine.checkpoints.layouts.registry import as_one_checkpoint
from ladle_engine.checkpoints.layouts.trainer import holds_checkpoints, step_of
from ladle_engine.checkpoints.layouts.usual_names import WEIGHTS_IN_FOLDER
from ladle_engine.checkpoints.name_parts import names_a_time
from ladle_engine.checkpoints.rank_names import others_of
from ladle_engine.checkpoints.sources import Sources
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import CheckpointError

LEFT_BY_TRAINERS = frozenset({"trainer_state.json", "optimizer.pt", "optimizer.bin", "training_args.bin"})
FILE_TYPE = re.compile(r"\.[A-Za-z]\w*$")
NO_RUNS = frozenset({"wandb", "site-packages", "node_modules", "__pycache__"})
"""Folders that hold copies, or other people's code."""
MOST_DEPTH = 6
"""Levels below `ckpt_dir`: Hydra's `date/time/`, and in it Lightning's `lightning_logs/version_0/checkpoints/`."""
MOST_FOLDERS = 5_000
"""That are looked at in all."""
ENOUGH = 2
"""Checkpoints that make a folder a run of its own; the folders in it then are no runs."""


def scan(sources: Sources, component: str | None = None) -> tuple[list[Candidate], list[PassedOver]]:
    """Looks for checkpoints in all members and, where one holds fewer than two itself, for runs below it.

    Raises `CheckpointError` (unreadable-input) where a member cannot be listed.
    """
    walk = _Walk()
    for member in sources.members:
        name = "" if sources.is_one_folder else member.relative_to(sources.folder).as_posix()
        try:
            _add(walk, Folder(path=member, name=name, root=member, component=component, most=None))
        except OSError as error:
            raise unreadable(member, error) from error
    # Members may lie in each other.
    found = {_name(each): each for each in walk.found}
    printable = [_printable(each) for each in found.values()]
    candidates = [each for each in printable if isinstance(each, Candidate)]
    return candidates, [each for each in printable if isinstance(each, PassedOver)]


def _add(walk: _Walk, member: Folder) -> None:
    """What one member is: a file, one checkpoint, or a folder that is looked into."""
    run = member.name.rpartition("/")[0]
    if member.name and not seems_folder(member.path):
        walk.found += _files([member.path], member.path.parent, run)
    elif member.name and (one := look_at(member)) is not None and not (_usable(one) and holds_checkpoints(member)):
        walk.found += _in_run(one, run)
    else:
        walk.through(member)


def find(name: str, folder: Path, component: str | None = None) -> Found | None:
    """The one checkpoint of this name, wherever it lies below the folder; or why it is no use."""
    path, run = folder / name, name.rpartition("/")[0]
    if not seems_folder(path):
        return next(iter(_files([path, *others_of(path)], folder, run)), None) or _by_its_file(
            path, name, folder, component
        )
    looked_at = look_at(Folder(path=path, name=name, root=folder, component=component))
    return next(iter(_in_run(looked_at or (), run)), None)


def _by_its_file(path: Path, name: str, root: Path, component: str | None) -> Found | None:
    """A folder that is a checkpoint as a whole, and goes by the name of a file in it."""
    home = Folder(path=path.parent, name=name.rpartition("/")[0], root=root, component=component)
    if not seems_folder(path.parent):
        return None
    found = next((each for each in look_at(home) or () if isinstance(each, Candidate)), None)
    if found is None or path not in found.checkpoint.files:
        return None
    return _in_run([_called(found, name)], home.name)[0]


def look_at(folder: Folder) -> Sequence[Found] | None:
    """A sub-folder as one checkpoint. None for one that no layout knows; nothing where there is nothing to say."""
    path, name = folder.path, folder.name
    if leads_out(path, folder.root):
        return [_unusable(name, leading_out(path), "a link that leads out")]
    try:
        if is_unfinished(path.name):
            return folder.passed_over(BY_ITS_NAME) if folder.files or names_a_time(path.name) else []
        as_one = as_one_checkpoint(folder)
    except NotADirectoryError:
        return []
    except OSError as error:
        if (reason := why_missing(path, error)) is not None:
            return folder.passed_over(reason)
        return [_unusable(name, unreadable(path, error, FIX_OR_EXCLUDE), "unreadable")]
    return None if as_one is None else [_with_step(each, folder) for each in as_one]


@dataclass
class _Walk:
    """Breadth first, so that what lies deep in one folder does not keep others from being looked at."""

    found: list[Found] = field(default_factory=list)
    looked_at: int = 0

    def through(self, start: Folder) -> None:
        """Raises `OSError` where the start cannot be listed."""
        queue = deque([(start, 0)])
        while queue:
            folder, depth = queue.popleft()
            if self.looked_at >= MOST_FOLDERS:
                reason = f"not looked into: there are more than {MOST_FOLDERS:,} folders"
                self.found += (PassedOver(name=each.name, reason=reason) for each, _ in [(folder, depth), *queue])
                return
            own, inner = self._look_into(folder, is_start=folder is start)
            self.found += own
            if depth == MOST_DEPTH or _count(own) >= ENOUGH:
                self.found += (each for sub in inner for each in _why_none(sub))
            else:
                queue += [(sub, depth + 1) for sub in inner if sub.path.name not in NO_RUNS]
                if not own and not inner and folder is not start:
                    self.found += _why_none(folder)

    def _look_into(self, folder: Folder, *, is_start: bool) -> tuple[list[Found], list[Folder]]:
        """The checkpoints of one run; and the folders in it that are none, but may be runs."""
        own, models, inner = _itself(folder, is_start=is_start), [], []
        unwanted = components.unwanted(folder)
        for entry in folder.entries:
            sub = folder.child(entry.name)
            if (
                entry.name.startswith(".")
                or entry.name in unwanted
                or (FILE_TYPE.search(entry.name) and not seems_folder(sub.path))
            ):
                continue
            self.looked_at += 1
            found = look_at(sub)
            if found is None:
                # What a link leads to lies inside, and is found there.
                inner += [] if entry.is_link else [sub]
            elif _usable(found) and holds_checkpoints(sub):
                models.append((sub, found))
            else:
                own += _in_run(found, folder.name)
        if _count(own) < ENOUGH:
            return own, [*inner, *(sub for sub, _ in models)]
        # Beside models in folders of their own, one that kept its checkpoints is one model.
        return [*own, *(each for _, found in models for each in _in_run(found, folder.name))], inner


def _itself(folder: Folder, *, is_start: bool) -> list[Found]:
    """What a run's folder holds as files; without a checkpoint among them, what it is as a whole."""
    files = _in_run([_called(each, within(folder.name, _name(each))) for each in folder.files], folder.name)
    if _count(files):
        return files
    as_one = as_one_checkpoint(folder) or ()
    # Its own name is the run's. A component of it has a name already.
    named = [_called(each, _name_as_whole(each, folder)) if _name(each) == folder.name else each for each in as_one[:1]]
    whole = _in_run([_with_step(each, folder) for each in named], folder.name)
    return [*files, *(each for each in whole if is_start or isinstance(each, Candidate))]


def _name_as_whole(found: Found, folder: Folder) -> str:
    """The name of its first file where it has one for people: `adapter_model.safetensors`, but not `.metadata`."""
    files = found.checkpoint.files if isinstance(found, Candidate) else ()
    if files and files[0].parent == folder.path and not files[0].name.startswith("."):
        return within(folder.name, files[0].name)
    return folder.name or "."


def _files(paths: Sequence[Path], root: Path, run: str) -> list[Found]:
    return _in_run([_called(each, within(run, _name(each))) for each in files_in(paths, root)], run)


def _in_run(found: Iterable[Found], run: str) -> list[Found]:
    return [
        replace(each, checkpoint=replace(each.checkpoint, run=run)) if isinstance(each, Candidate) else each
        for each in found
    ]


def _called(found: Found, name: str) -> Found:
    if isinstance(found, PassedOver):
        return replace(found, name=name)
    return replace(found, checkpoint=replace(found.checkpoint, name=name))


def _name(found: Found) -> str:
    return found.checkpoint.name if isinstance(found, Candidate) else found.name


def _usable(found: Iterable[Found]) -> bool:
    return any(isinstance(each, Candidate) and each.refusal is None for each in found)


def _count(found: Iterable[Found]) -> int:
    return sum(isinstance(each, Candidate) for each in found)


def _printable(found: Found) -> Found:
    """Progress, reports and coefficients are UTF-8, so a checkpoint's name must be."""
    name = _name(found)
    try:
        name.encode()
    except UnicodeEncodeError:
        return PassedOver(name=name.encode(errors="backslashreplace").decode(), reason="a name that is not UTF-8")
    return found


def _with_step(found: Found, folder: Folder) -> Found:
    if isinstance(found, PassedOver) or found.checkpoint.step is not None:
        return found
    return replace(found, checkpoint=replace(found.checkpoint, step=step_of(folder)))


def _unusable(name: str, refusal: CheckpointError, reason: str) -> Found:
    """A folder that cannot be looked into: refused when it would be used, if it is a checkpoint by its name."""
    if not names_a_time(name.rpartition("/")[2]):
        return PassedOver(name=name, reason=reason)
    return Candidate(checkpoint=Checkpoint(name=name, step=None, files=(), format="safetensors"), refusal=refusal)


def _why_none(folder: Folder) -> list[Found]:
    """Why a folder is no checkpoint; nothing where nobody would take it for one."""
    if len(folder.candidates) > 1:
        holds = f"holds {len(folder.candidates)} checkpoints of its own: give it as `ckpt_dir=` to average them"
        return folder.passed_over(holds)
    for each in folder.files:
        if isinstance(each, PassedOver):
            return folder.passed_over(f"its `{each.name}` is no use: {each.reason}")
        return folder.passed_over(f"holds only `{each.checkpoint.name}`, which may be another model")
    if any(not folder.inner(child).isdisjoint(WEIGHTS_IN_FOLDER) for child in folder.children):
        return folder.passed_over("holds folders with checkpoints: give it as `ckpt_dir=` to average them")
    half_written = not folder.names.isdisjoint(LEFT_BY_TRAINERS)
    return folder.passed_over("holds no weights") if half_written or names_a_time(folder.path.name) else []
