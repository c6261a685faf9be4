"""A folder of data files: which of them are a data set, and in which splits.

Known are folders of shards, folders as the Hugging Face Hub keeps them, and what `save_to_disk` of datasets writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.options import did_you_mean
from ladle_engine.storage.input_paths import Entry, entries_of, is_folder, is_plain_name, read_json

GROUPS: Sequence[Sequence[str]] = (
    (".parquet",), (".arrow", ".feather", ".ipc"), (".tar",), (".jsonl", ".ndjson"), (".csv",), (".tsv",), (".json",),
    (".txt",),
)  # fmt: skip
"""Suffixes of files of one kind. The last two may be notes beside data of another kind."""
NOTES = GROUPS[-2:]
SUFFIXES = tuple(suffix for group in GROUPS for suffix in group)
NO_DATA = re.compile(
    r"(dataset_infos?|dataset_dict|state|metadata|config|package)\.json|cache-.*\.arrow|(readme|license|notice|"
    r"requirements)(\..*)?",
    re.IGNORECASE,
)
"""Files beside data."""
MAX_DEPTH = 3
FAMILIES = (
    ("train", "training"),
    ("validation", "valid", "val", "dev", "eval", "evaluation"),
    ("test", "testing"),
)
"""Names of the same split."""
NUMBERED = re.compile(r"(?:^|-)([\w.]+)-\d{5}-of-\d{5}\.", re.ASCII)
KEYWORD = re.compile(rf"(?<![a-z])({'|'.join(name for family in FAMILIES for name in family)})(?![a-z])", re.IGNORECASE)
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """The files of one data set, in order."""

    files: Sequence[Path]
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class _Splits:
    """Name -> files; of files that belong to no split the name is empty."""

    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def find_files(folder: Path, split: str | None) -> DataFiles:
    """The data files of a folder, of the split that is asked for.

    Raises `OSError`, and `DataError`: no data, no such split, several splits and none asked for, or several data sets.
    """
    names = {entry.name for entry in entries_of(folder)}
    if SAVED_SPLITS in names:
        found = _saved_splits(folder)
        return _saved_files(folder / choose_split(folder, found, split))
    if SAVED in names:
        return _saved_files(folder, split)
    splits = _splits_in(folder, MAX_DEPTH)
    if not splits.files:
        raise DataError(
            "empty-data",
            f"A data set must be a file or a folder of files of {', '.join(SUFFIXES)}, but `{folder}` holds none.",
        )
    chosen = choose_split(folder, list(splits.files), split)
    files, remarks = _of_one_kind(folder, splits.files[chosen])
    return DataFiles(files=files, remarks=(*splits.remarks, *remarks))


def choose_split(folder: Path, there: Sequence[str], split: str | None) -> str:
    """One of those that are there; "" is the whole. Raises `DataError` that lists them."""
    if split in there or (split is None and len(there) == 1):
        return split or there[0]
    listed = ", ".join(f"`{name}`" for name in there if name) or "none, but files without one"
    if split is None:
        raise DataError(
            "invalid-data",
            f"`split` must say which split of `{folder}` is meant, because it has several: {listed}. Give the task "
            f"option `split`.",
        )
    near = [name for name in there if split_family(name) == split_family(split)]
    if len(near) == 1:
        return near[0]
    hint = did_you_mean(split, there)
    raise DataError("invalid-data", f"`split` must be one of those of `{folder}` ({listed}), but is `{split}`.{hint}")


def split_family(name: str) -> str:
    """`validation` for `valid` and `dev`, say; other names stand for themselves."""
    return next((family[0] for family in FAMILIES if name.casefold() in family), name)


def split_of(name: str) -> str:
    """Which split a file or folder is by its name; none is "": `train-00000-of-00002.parquet`, `wiki.valid.txt`."""
    if numbered := NUMBERED.search(name):
        return numbered[1]
    found = KEYWORD.search(name)
    return found[1].lower() if found else ""


def _splits_in(folder: Path, depth: int) -> _Splits:
    """Of the files in it or, where there are none, in its sub-folders."""
    entries = [entry for entry in entries_of(folder) if not entry.name.startswith((".", "_"))]
    files = [entry.name for entry in entries if _is_data(entry)]
    if files:
        return _by_name(folder, files)
    inner = {name: _splits_in(folder / name, depth - 1) for name in _sub_folders(folder, entries)} if depth else {}
    inner = {name: splits for name, splits in inner.items() if splits.files}
    named = {name: splits for name, splits in inner.items() if split_of(name)}
    if named:
        remarks = (*_passed_over(folder, sorted(inner.keys() - named)), *_remarks_of(named))
        return _Splits({name: _all_files(splits) for name, splits in named.items()}, remarks)
    if len(inner) > 1:
        raise DataError(
            "invalid-data",
            f"A folder must hold one data set, but `{folder}` holds {len(inner)} folders with data: "
            f"{', '.join(f'`{name}`' for name in list(inner)[:20])}. Give one of them.",
        )
    return next(iter(inner.values()), _Splits())


def _by_name(folder: Path, files: Sequence[str]) -> _Splits:
    splits: dict[str, list[Path]] = {}
    for name in files:
        splits.setdefault(split_of(name), []).append(folder / name)
    rest = splits.pop("", []) if len(splits) > 1 else []
    return _Splits(splits, _passed_over(folder, [path.name for path in rest]))


def _of_one_kind(folder: Path, files: Sequence[Path]) -> tuple[Sequence[Path], tuple[str, ...]]:
    """Raises `DataError` for files of several kinds."""
    found = [(group, [path for path in files if path.suffix.lower() in group]) for group in GROUPS]
    found = [(group, paths) for group, paths in found if paths]
    strong = [(group, paths) for group, paths in found if group not in NOTES] or found[:1]
    if len(strong) > 1:
        kinds = " and ".join("/".join(group) for group, _ in strong)
        raise DataError(
            "invalid-data",
            f"The files of a data set must be of one kind, but `{folder}` holds {kinds}. Give one file, or a folder of "
            f"one kind.",
        )
    chosen = strong[0][1]
    return chosen, _passed_over(folder, [path.name for path in files if path not in chosen])


def _passed_over(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    listed = ", ".join(f"`{name}`" for name in names[:10])
    return (f"Of `{folder}` these are passed over, because they do not belong to the data set: {listed}.",)


def _remarks_of(splits: Mapping[str, _Splits]) -> tuple[str, ...]:
    return tuple(remark for found in splits.values() for remark in found.remarks)


def _all_files(splits: _Splits) -> list[Path]:
    return [path for files in splits.files.values() for path in files]


def _is_data(entry: Entry) -> bool:
    has_suffix = entry.name.lower().endswith(SUFFIXES)
    return has_suffix and (entry.is_regular or entry.is_link) and not NO_DATA.fullmatch(entry.name)


def _sub_folders(folder: Path, entries: Sequence[Entry]) -> list[str]:
    return [entry.name for entry in entries if entry.is_folder or (entry.is_link and is_folder(folder / entry.name))]


def _saved_splits(folder: Path) -> list[str]:
    """Of a `DatasetDict`: each is a folder. Raises `DataError`."""
    return _plain_names(_read_json(folder / SAVED_SPLITS).get("splits"), folder / SAVED_SPLITS)


def _saved_files(folder: Path, split: str | None = None) -> DataFiles:
    """Of a `Dataset`. Raises `DataError` where files are not as they were saved."""
    described = _read_json(folder / SAVED)
    own = described.get("_split") or ""
    if split is not None and split_family(split) != split_family(own):
        choose_split(folder, [own], split)
    named = described.get("_data_files")
    inner = [each.get("filename") for each in named if isinstance(each, dict)] if isinstance(named, list) else []
    names = _plain_names(inner, folder / SAVED)
    if described.get("_indices_data_files") or described.get("_indices_files"):
        raise DataError(
            "invalid-data",
            f"`{folder}` must hold its rows as they are, but keeps an order of its own beside them. Save it again with "
            f"a newer version of datasets.",
        )
    return DataFiles(files=[folder / name for name in names])


def _plain_names(names: Any, path: Path) -> list[str]:
    """Raises `DataError`: a name may lead nowhere else."""
    if isinstance(names, list) and names and all(isinstance(name, str) and is_plain_name(name) for name in names):
        return names
    raise DataError("invalid-data", f"`{path}` must name the files or folders of a data set, but does not.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise DataError("invalid-data", f"`{path}` must be JSON, but does not parse: {error}.") from error
    return content if isinstance(content, dict) else {}
