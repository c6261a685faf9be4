"""Far stores: what lies below an address, its bytes by place, and new files. fsspec speaks the protocols."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ladle_engine.errors import CheckpointError
from ladle_engine.far_urls import OVER_HTTP, FarUrl
from ladle_engine.progress import pulse
from ladle_engine.storage.far.faults import WRITABLE, ShortBody, patiently
from ladle_engine.storage.input_paths import is_plain_name

PROTOCOLS = {"az": "abfs"}
"""Scheme -> what fsspec calls it, where that differs."""
TAGS = ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "content_md5", "Digest", "blob_id", "sha256")
TIMES = ("LastModified", "last_modified", "updated", "Last-Modified", "mtime")
MOST_FILES = 1_000_000
MOST_PAGES = 10_000
"""Of an HTTP server's listings."""
CONNECTIONS = 8
PUT_BYTES = 64 << 20
"""What a store gets at once of a large file."""
IN_PARTS = ("s3", "gs")
"""Schemes whose stores let us say how much that is."""
READ_BACK_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class FarFile:
    """A file of a store."""

    name: str
    """Below the address that was listed; empty where that is the file itself."""
    url: FarUrl
    size: int
    tag: str
    """Another one stands for another content. Empty where the store tells nothing of the kind."""
    modified_s: float | None
    in_parts: bool = True
    """Whether the store sends a range of its bytes."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """What the operator allows, and how stores are reached."""

    hosts: tuple[str, ...] = ()
    """The hosts of the allowed addresses."""
    private: tuple[str, ...] = ()
    """Networks that are not public and may be reached all the same."""
    opened: dict[tuple[str, str], Any] = field(default_factory=dict)
    """File systems of fsspec, by scheme and host."""


def list_files(url: FarUrl, access: Access, *, may_be_empty: bool = False) -> list[FarFile]:
    """The file at an address, or all files below the folder there. Raises `EngineError`."""
    system = patiently(lambda: _system(url, access), url)
    if url.scheme in OVER_HTTP:
        return _list_http(system, url)
    path = f"{url.place}/{url.path}".rstrip("/")
    found: Mapping[str, Any] = patiently(lambda: _find(system, path), url)
    pulse()
    files = [_far_file(url, name, info) for name, info in sorted(found.items()) if info.get("type") == "file"]
    if may_be_empty and not files:
        return []
    return _checked(url, [each for each in files if each is not None])


def read_range(file: FarFile, start: int, stop: int, access: Access) -> bytes:
    """These bytes. Raises `EngineError`."""

    def read() -> bytes:
        system = _system(file.url, access)
        content: bytes = system.cat_file(_path(file.url), start=start, end=stop)
        if len(content) != stop - start:
            raise ShortBody(f"it sent {len(content):,} of {stop - start:,} bytes")
        return content

    return patiently(read, file.url)


def read_whole(file: FarFile, target: Path, access: Access) -> None:
    """All of a file into a local one, for stores that send no ranges."""

    def read() -> None:
        _system(file.url, access).get_file(_path(file.url), str(target))
        if target.stat().st_size != file.size:
            raise ShortBody(f"it sent {target.stat().st_size:,} of {file.size:,} bytes")

    patiently(read, file.url)


def put_file(source: Path, url: FarUrl, access: Access, wait: Callable[[], None]) -> None:
    """Writes a file of the store, or what it had before stays. `wait` is called before each request."""

    def put() -> None:
        wait()
        parts = {"chunksize": PUT_BYTES} if url.scheme in IN_PARTS else {}
        _system(url, access).put_file(str(source), _path(url), callback=_waiting(wait), **parts)

    patiently(put, url, WRITABLE)


def put_bytes(content: bytes, url: FarUrl, access: Access, wait: Callable[[], None]) -> None:
    def put() -> None:
        wait()
        _system(url, access).pipe_file(_path(url), content)

    patiently(put, url, WRITABLE)


def remove_file(url: FarUrl, access: Access, wait: Callable[[], None] = lambda: None) -> None:
    """What is no longer there is fine."""

    def remove() -> None:
        wait()
        try:
            _system(url, access).rm_file(_path(url))
        except FileNotFoundError:
            return

    patiently(remove, url, WRITABLE)


def blocks_of(file: FarFile, access: Access) -> Iterator[bytes]:
    for start in range(0, file.size, READ_BACK_BYTES):
        yield read_range(file, start, min(start + READ_BACK_BYTES, file.size), access)
        pulse()


def _system(url: FarUrl, access: Access) -> Any:
    """fsspec's file system. Credentials and endpoints come from the environment of this process."""
    key = (url.scheme, url.place if url.scheme in OVER_HTTP else "")
    if key not in access.opened:
        import fsspec

        protocol = PROTOCOLS.get(url.scheme, url.scheme)
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        access.opened[key] = fsspec.filesystem(
            protocol, **options, **_OPTIONS.get(url.scheme, dict)(), **_http(url, access)
        )
    return access.opened[key]


def _waiting(wait: Callable[[], None]) -> Any:
    """What fsspec tells of each part that it has sent."""
    from fsspec import Callback

    class Waiting(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            pulse()
            wait()

    return Waiting()


def _find(system: Any, path: str) -> Mapping[str, Any]:
    """fsspec finds nothing both where there is nothing and where a bucket is missing; asking tells which."""
    found: Mapping[str, Any] = system.find(path, detail=True)
    if not found:
        try:
            system.ls(path.partition("/")[0], detail=False)
        except FileNotFoundError as error:
            raise FileNotFoundError("The specified bucket does not exist") from error
    return found


def _http(url: FarUrl, access: Access) -> dict[str, Any]:
    if url.scheme not in OVER_HTTP:
        return {}
    from ladle_engine.storage.far.http_guard import session_maker

    return {"get_client": session_maker(access.hosts, access.private, secure=url.scheme == "https")}


def _s3() -> dict[str, Any]:
    return {"config_kwargs": {"connect_timeout": 20, "read_timeout": 120, "retries": {"max_attempts": 1}}}


_OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {"s3": _s3}


def _path(url: FarUrl) -> str:
    if url.scheme in OVER_HTTP:
        return f"{url.scheme}://{url.place}/{quote(url.path)}"
    return f"{url.place}/{url.path}"


def _far_file(url: FarUrl, path: str, info: Mapping[str, Any]) -> FarFile | None:
    """None for the empty objects that stand for folders."""
    base = f"{url.place}/{url.path}".strip("/")
    name = path.strip("/").removeprefix(base).strip("/")
    is_below = path.strip("/") == base or path.strip("/").startswith(f"{base}/")
    if path.endswith("/") or info.get("size") is None or not is_below:
        return None
    return FarFile(name=name, url=url.below(name), size=int(info["size"]), tag=_tag(info), modified_s=_modified(info))


def _tag(info: Mapping[str, Any]) -> str:
    given = {**info, **(info.get("lfs") or {})}
    parts = [str(given[name]) for name in TAGS if given.get(name)]
    if parts:
        return parts[0].removeprefix("W/").strip('"')
    return "" if (modified := _modified(info)) is None else f"modified {modified:.6f}"


def _modified(info: Mapping[str, Any]) -> float | None:
    value = next((info[name] for name in TIMES if info.get(name)), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if re.match(r"\d{4}-", value) else parsedate_to_datetime(value)
        except ValueError:
            return None
    return value.timestamp() if isinstance(value, datetime) else value if isinstance(value, float) else None


def _checked(url: FarUrl, files: Sequence[FarFile]) -> list[FarFile]:
    if len(files) > MOST_FILES:
        raise CheckpointError("unreadable-input", f"`{url}` has {len(files):,} files, of {MOST_FILES:,} at most.")
    if not files:
        raise CheckpointError("unreadable-input", f"`{url}` must exist, but there is nothing at this address.")
    for file in files:
        if file.name and not all(is_plain_name(part) and "\n" not in part for part in file.name.split("/")):
            raise CheckpointError("unreadable-input", f"`{file.url}` has a name that no local file can have.")
    return list(files)


def _list_http(system: Any, url: FarUrl) -> list[FarFile]:
    """The file, or what the pages of a server list below a folder."""
    info = patiently(lambda: system.info(_path(url)), url)
    is_page = info.get("mimetype") in ("text/html", "application/xhtml+xml") or str(info.get("url", "")).endswith("/")
    if not is_page:
        return _checked(url, [_http_file(url, "", info)])
    names = _linked(system, url)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        infos = pool.map(lambda name: patiently(lambda: system.info(_path(url.below(name))), url.below(name)), names)
        return _checked(url, [_http_file(url, name, each) for name, each in zip(names, infos, strict=True)])


def _http_file(url: FarUrl, name: str, info: Mapping[str, Any]) -> FarFile:
    pulse()
    if info.get("size") is None:
        raise CheckpointError(
            "unreadable-input", f"The server must tell the size of `{url.below(name)}`, but does not."
        )
    return FarFile(
        name=name,
        url=url.below(name),
        size=int(info["size"]),
        tag=_tag(info),
        modified_s=_modified(info),
        in_parts=info.get("partial", True),
    )


def _linked(system: Any, url: FarUrl) -> list[str]:
    """Files below a folder, by the links of its pages."""
    base = f"{_path(url)}/"
    waiting, seen, names = [base], {base}, set()
    while waiting:
        page = waiting.pop()
        pulse()
        links: list[str] = patiently(lambda page=page: system.ls(page, detail=False), url)  # type: ignore[misc]
        for link in links:
            # Links that sort a listing have a query; others lead elsewhere.
            if not link.startswith(base) or re.search(r"[?#]|/\.\.?(/|$)", link) or link in seen:
                continue
            seen.add(link)
            if link.endswith("/"):
                waiting.append(link)
            else:
                names.add(unquote(link.removeprefix(base)))
        if len(seen) > MOST_FILES or len(waiting) > MOST_PAGES:
            raise CheckpointError("unreadable-input", f"`{url}` lists more files than Ladle takes.")
    return sorted(names)
