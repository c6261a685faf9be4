"""Which class a name stands for: as the model's config writes it or nearly so, or by the class's number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

Labels = Mapping[str, int]


def by_name(names: Sequence[str], known: Labels, num_classes: int) -> Labels | None:
    return known if all(name in known for name in names) else None


def by_loose_name(names: Sequence[str], known: Labels, num_classes: int) -> Labels | None:
    """Whatever the case, and with spaces, `_` and `-` alike; or by one of several names, as in `tench, Tinca tinca`."""
    ways = [(loose_name(way), label) for name, label in known.items() for way in {name, *name.split(",")}]
    labels_of: dict[str, set[int]] = {}
    for way, label in ways:
        labels_of.setdefault(way, set()).add(label)
    found = {name: labels_of.get(loose_name(name), set()) for name in names}
    if any(len(labels) != 1 for labels in found.values()):
        return None
    return {name: min(labels) for name, labels in found.items()}


def loose_name(name: str) -> str:
    # A Mac decomposes accented letters in names of files.
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def by_default_name(names: Sequence[str], known: Labels, num_classes: int) -> Labels | None:
    """`LABEL_3`, as transformers names a label without a name."""
    return _numbered([re.fullmatch(r"label[ _-]?(\d+)", name, re.ASCII | re.IGNORECASE) for name in names], num_classes)


def by_number(names: Sequence[str], known: Labels, num_classes: int) -> Labels | None:
    return _numbered([re.fullmatch(r"(\d+)", name, re.ASCII) for name in names], num_classes)


def _numbered(matches: Sequence[re.Match[str] | None], num_classes: int) -> Labels | None:
    labels = {match[0]: int(match[1]) for match in matches if match is not None}
    fits = len(labels) == len(matches) and all(label < num_classes for label in labels.values())
    return labels if fits else None


SCHEMES: tuple[Callable[[Sequence[str], Labels, int], Labels | None], ...] = (
    by_name,
    by_loose_name,
    by_default_name,
    by_number,
)
"""Each gives the labels of all names, or None. The first that does is taken."""


def labels_of(names: Sequence[str], known: Labels, num_classes: int) -> Labels | None:
    """Name -> label, by one scheme for all names. None where none of the schemes names all."""
    return next((labels for scheme in SCHEMES if (labels := scheme(names, known, num_classes)) is not None), None)
