"""Functions that take paths take addresses too: far inputs become local ones, and a far output is uploaded."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, is_dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from ladle_engine.errors import EngineError
from ladle_engine.far_urls import BadUrl, FarUrl, as_url, is_url, local_path, parse_url, shown_url
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.storage.far import presence
from ladle_engine.storage.far.cache import DEFAULT_BYTES, Cache
from ladle_engine.storage.far.fetch import Mirror
from ladle_engine.storage.far.stores import Access
from ladle_engine.storage.far.upload import uploaded

P = ParamSpec("P")
T = TypeVar("T")

FOLDERS = ("ckpt_dir", "source")
"""Arguments of which not all is read."""
DATA = ("val_set", "train_set", "base_model", "base", "curve_earlier", "coefficients")
OUTPUT = "output"
MAGIC = re.compile(r"[*\[]")
CACHE, CACHE_BYTES, PRIVATE = "LADLE_FAR_CACHE", "LADLE_FAR_CACHE_BYTES", "LADLE_FAR_PRIVATE"


@dataclass(frozen=True, kw_only=True)
class FarSettings:
    """What an operator says of far folders; for the library, whoever runs it."""

    cache: Path
    cache_bytes: int = DEFAULT_BYTES
    private: tuple[str, ...] = ()
    roots: tuple[str, ...] | None = None
    """Addresses at or below which everything must be; None for a caller who may read what the process may."""

    def root_urls(self) -> list[FarUrl]:
        return [parse_url(each) for each in self.roots or ()]

    @classmethod
    def from_environment(cls) -> FarSettings:
        """Raises `ValueError`."""
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        most = os.environ.get(CACHE_BYTES) or str(DEFAULT_BYTES)
        if not most.isdecimal() or int(most) < 1:
            raise ValueError(f"`{CACHE_BYTES}` must be a whole number of bytes above 0, but is {most!r}.")
        return cls(
            cache=Path(os.environ.get(CACHE) or f"{home}/ladle/far").expanduser(),
            cache_bytes=int(most),
            private=tuple(each for each in os.environ.get(PRIVATE, "").split(",") if each),
        )


def with_far_folders(call: Callable[P, T], *, data: Sequence[str] = DATA) -> Callable[P, T]:
    """The same function; `FOLDERS`, `DATA` and `output` may be addresses, such as `s3://bucket/runs/7`. `data` are the
    arguments that it reads whole."""
    signature = inspect.signature(call)

    @wraps(call)
    def near(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        if not any(_has_url(given.get(name)) for name in (*FOLDERS, *DATA, OUTPUT)):
            return call(*args, **kwargs)
        on_event = given.get("progress") or ignore
        with opened_mirror(FarSettings.from_environment(), _urls(given), on_event) as mirror:
            given.update(near_arguments(mirror, given, data))
            if not _has_url(given.get(OUTPUT)):
                return call(*bound.args, **bound.kwargs)
            url = far_url(as_url(given[OUTPUT]) or "", OUTPUT)
            with uploaded(url, mirror.store_access, mirror.cache.folder / "uploads", on_event) as folder:
                given[OUTPUT] = folder
                result = call(*bound.args, **bound.kwargs)
            return _at(result, folder, url)

    return cast(Callable[P, T], near)


@contextmanager
def opened_mirror(settings: FarSettings, urls: Sequence[FarUrl], on_event: ProgressCallback) -> Iterator[Mirror]:
    """A mirror, which whoever reads inside the block asks. Raises `EngineError`."""
    hosts = urls if settings.roots is None else settings.root_urls()
    access = Access(hosts=tuple(url.place for url in hosts), private=settings.private)
    with ExitStack() as resources:
        try:
            cache = Cache(settings.cache, settings.cache_bytes)
        except OSError as error:
            raise EngineError(
                "results-unwritable", f"`{CACHE}` must be a folder to write to, but is `{settings.cache}`: {error}."
            ) from error
        resources.callback(cache.close)
        mirror = Mirror(cache, access, on_event, settings.roots)
        resources.callback(mirror.close)
        resources.enter_context(presence.installed(mirror))
        yield mirror


def near_arguments(mirror: Mirror, given: Mapping[str, Any], data: Sequence[str] = DATA) -> dict[str, Any]:
    """The inputs as local paths: listed, with all of `data` and the small files of other folders fetched."""
    places: dict[str, Any] = {}
    for name in (*FOLDERS, *DATA):
        if name in given:
            places[name] = each_path(given[name], partial(_place, mirror, argument=name))
    folders = _paths(*(place for name, place in places.items() if name not in data))
    small = [path for folder in folders for path in mirror.small_below(folder)]
    whole = [path for each in _paths(*(places.get(name) for name in data)) for path in mirror.files_below(each)]
    mirror.fetch(dict.fromkeys([*small, *whole]))
    return places


def far_url(text: str, argument: str) -> FarUrl:
    """Raises `ValueError`."""
    try:
        return parse_url(text)
    except BadUrl as error:
        raise ValueError(
            f"`{argument}` must be an address that Ladle can use, but is `{shown_url(text)}`: {error}."
        ) from None


def each_path(value: Any, change: Callable[[str], Any]) -> Any:
    """A path, or several in a list or by name, with addresses changed."""
    if isinstance(value, Mapping):
        return {name: each_path(each, change) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(each_path(each, change) for each in value)
    return value if (text := as_url(value)) is None else change(text)


def _place(mirror: Mirror, text: str, argument: str) -> Path:
    try:
        if (local := local_path(text)) is not None:
            return Path(local)
    except BadUrl as error:
        raise ValueError(f"`{argument}` must be a path, but {error}.") from None
    url = far_url(text, argument)
    mirror.add(_without_glob(url), argument)
    return mirror.cache.path_of(url)


def _without_glob(url: FarUrl) -> FarUrl:
    parts = url.path.split("/")
    first = next((index for index, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    return FarUrl(url.scheme, url.place, "/".join(parts[:first]))


def _has_url(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_url, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_url, value))
    return is_url(value)


def _urls(given: Mapping[str, Any]) -> list[FarUrl]:
    found: list[FarUrl] = []

    def add(text: str, argument: str) -> None:
        if not text.lower().startswith("file:"):
            found.append(far_url(text, argument))

    for name in (*FOLDERS, *DATA, OUTPUT):
        each_path(given.get(name), partial(add, argument=name))
    return found


def _paths(*values: Any) -> list[Path]:
    found: list[Path] = []
    for value in values:
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
        found += [each for each in inner if isinstance(each, Path)]
    return found


def _at(result: T, folder: Path, url: FarUrl) -> T:
    """The result's folder, or each of several, is where it was uploaded to."""
    if is_dataclass(result) and hasattr(result, "folder"):
        return replace(result, folder=str(url))  # type: ignore[type-var]
    if isinstance(result, tuple):
        return cast(T, tuple(_at(each, folder, url) for each in result))
    if not isinstance(result, Path):
        return result
    return cast(T, str(url.below(result.relative_to(folder).as_posix()) if result != folder else url))
