"""What of a job's inputs its nodes do not see alike, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ladle_contracts import JobSpec
from ladle_contracts.safe_text import one_line
from ladle_worker.inputs_seen import MOST_TOLD

NARROWING = ("pattern", "exclude", "component", "last", "steps", "like")
"""With one of these options, files that differ need not be the job's."""
FAR = "far"
Seen = Mapping[str, Any]


def difference(seen: Mapping[str, Seen], spec: JobSpec) -> str | None:
    """What the nodes do not see alike, in words; None if they do. `seen` is by node, and the first one runs rank 0."""
    looked = [(node, its) for node, its in seen.items() if its]
    if not looked:
        return None
    (head, known), *others = looked
    is_narrowed = any(getattr(spec.checkpoints, name) for name in NARROWING)
    for name, one in known.items():
        # Which of other files are the job's, only the ranks can tell.
        counts_only = is_narrowed and name.startswith("ckpt_dir")
        odd = {node: its[name] for node, its in others if name in its and _differ(one, its[name], counts_only)}
        if odd:
            return _explain(name, spec, head, one, odd)
    return None


def _differ(one: Seen, other: Seen, counts_only: bool) -> bool:
    if counts_only:
        return bool(one["files"]) != bool(other["files"])
    return bool(one["digest"] != other["digest"])


def _explain(name: str, spec: JobSpec, head: str, one: Seen, odd: Mapping[str, Seen]) -> str:
    other = next(iter(odd.values()))
    here, there = f"node `{head}`", " and ".join(f"node `{node}`" for node in list(odd)[:3])
    if not one["files"] or not other["files"]:
        here, there, full = (here, there, one) if one["files"] else (there, here, other)
        what = f"{here} sees {full['files']} files in {_shown(name, spec)} and {there} sees none"
    else:
        what = _first_difference(name, spec, here, one, there, other)
    return f"The nodes of a job must see the same files, but {what}. Mount the same folder on each, or copy it anew."


def _first_difference(name: str, spec: JobSpec, here: str, one: Seen, there: str, other: Seen) -> str:
    # Both lists may be cut off at the end.
    for part in sorted({*one["parts"], *other["parts"]})[:MOST_TOLD]:
        mine, its = one["parts"].get(part), other["parts"].get(part)
        if mine == its:
            continue
        what = f"`{part}` of {_shown(name, spec)}"
        if mine is None or its is None:
            return f"{what} is on {here if mine else there} and not on {there if mine else here}"
        if mine[:2] == its[:2]:
            return f"{what} holds other bytes on {here} than on {there}"
        return f"{what} has {_size(mine)} on {here} and {_size(its)} on {there}"
    return f"the {one['files']} files of {_shown(name, spec)} on {here} are not the {other['files']} on {there}"


def _size(part: Sequence[Any]) -> str:
    files, size, _ = part
    return f"{size:,} bytes" if files == 1 else f"{files} files of {size:,} bytes"


def _shown(name: str, spec: JobSpec) -> str:
    given = {field: path for field, path, _ in inputs_of(spec)}
    return "the far files" if name == FAR else f"`{one_line(given[name])}`"


def inputs_of(spec: JobSpec) -> Iterator[tuple[str, str, bool]]:
    """Each input's field and path, and whether it holds weights."""
    yield from ((field, path, True) for field, path in spec.ckpt_dirs.items())
    yield from ((field, path, False) for field, path in spec.val_sets.items())
    if spec.train_set is not None:
        yield "train_set.path", spec.train_set.path, False
    if spec.adapters.base_model is not None:
        yield "adapters.base_model", spec.adapters.base_model, True
    if spec.base is not None:
        yield "base", spec.base, True
