"""Pairs of a source and its target, and which of two languages is which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ladle_engine.errors import DataError


class Pair(NamedTuple):
    """Empty where a row has no value."""

    source: str
    target: str

    @property
    def is_whole(self) -> bool:
        return bool(self.source.strip() and self.target.strip())


class Pairs(Protocol):
    """What is read is bounded, however long the files are."""

    @property
    def remarks(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> list[Pair]:
        """In the order of the indices. Raises `DataError` that names the place."""
        ...

    def place(self, index: int) -> str:
        """For messages."""
        ...


def chosen(names: Sequence[str], source: str | None, target: str | None, what: str) -> tuple[str, str]:
    """The names of source and target among those that are there. One that is known decides between two.

    Raises `DataError` that lists them; `what` is the beginning of that list.
    """
    found = [next((code for code in codes_of(language) if code in names), None) for language in (source, target)]
    for one, other in ((0, 1), (1, 0)):
        if found[one] is None and found[other] is not None and len(names) == 2:
            found[one] = next(name for name in names if name != found[other])
    if found[0] is None or found[1] is None or found[0] == found[1]:
        said = ", ".join(f"`{language}`" for language in (source, target) if language is not None)
        raise DataError(
            "invalid-data",
            f"Source and target must be known, but {what} {', '.join(f'`{name}`' for name in names) or 'none'}"
            f"{f', and what is asked for is {said}' if said else ''}. Say which is which with the task options "
            f"`source_lang` and `target_lang`.",
        )
    return found[0], found[1]


def codes_of(language: str | None) -> tuple[str, ...]:
    """How a language may be named in data: `en_XX` and `en`."""
    if language is None:
        return ()
    return tuple(dict.fromkeys((language, language.partition("_")[0], language.partition("-")[0])))
