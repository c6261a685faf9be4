"""Whatever somebody names or exchanges meanwhile: what is opened lies in a root."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ladle_contracts import beneath
from ladle_contracts.beneath import has_openat2, open_beneath
from ladle_contracts.roots import ATTEMPTS, PathNotAllowed, Roots, resolve_inside

SECRET = "secret"


@pytest.fixture(params=["openat2", "step by step"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With the system call, and as on a kernel, or in a container, that does not have it."""
    has_openat2.cache_clear()
    if request.param == "step by step":
        monkeypatch.setattr(beneath, "_openat2", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no")))
    elif not has_openat2():
        pytest.skip("this kernel has no openat2")
    assert has_openat2() == (request.param == "openat2")
    yield request.param
    has_openat2.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two roots and what lies outside of them."""
    for name in ("one/run/deep", "two", "outside"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("one/run/deep/file", "one/file", "two/file"):
        (tmp_path / name).write_text(name)
    (tmp_path / "outside" / "file").write_text(SECRET)
    return tmp_path


@pytest.fixture
def roots(folder: Path) -> Iterator[Roots]:
    with Roots([folder / "one", folder / "two"]) as roots:
        yield roots


def content(roots: Roots, path: Path | str) -> str:
    with os.fdopen(roots.open(path)) as file:
        return file.read()


def refused(roots: Roots, path: Path | str) -> None:
    for look in (roots.open, roots.status, roots.resolve):
        with pytest.raises(PathNotAllowed):
            look(path)


def test_files_and_folders_below_a_root_are_opened(folder: Path, roots: Roots) -> None:
    assert content(roots, folder / "one/run/deep/file") == "one/run/deep/file"
    assert content(roots, f"{folder}/one/./run//deep/../deep/file") == "one/run/deep/file"
    assert content(roots, f"//{folder}/one/file") == "one/file"
    assert stat.S_ISDIR(roots.status(folder / "one" / "run").st_mode)
    assert roots.resolve(folder / "one") == folder / "one"
    assert roots.resolve(f"{folder}/one/run/../run/") == folder / "one" / "run"


@pytest.mark.parametrize(
    "path",
    [
        *("outside/file", "outside/missing", "outside", "one-more", "."),
        *("one/..", "one/../outside/file", "one/../../../etc/passwd"),
    ],
)
def test_what_is_outside_is_refused_whether_or_not_it_is_there(folder: Path, roots: Roots, path: str) -> None:
    (folder / "one-more").mkdir()
    refused(roots, f"{folder}/{path}")


@pytest.mark.parametrize(
    "target", ["../outside/file", "../outside/missing", "{}/outside/file", "/proc/self/root{}/outside/file"]
)
def test_a_link_that_leads_out_is_refused_whether_or_not_there_is_something(
    folder: Path, roots: Roots, target: str
) -> None:
    (folder / "one" / "link").symlink_to(target.format(folder))
    refused(roots, folder / "one" / "link")
    (folder / "one" / "out").symlink_to(folder / "outside")
    refused(roots, folder / "one" / "out" / "file")
    refused(roots, folder / "one" / "out" / "missing")


def test_links_that_stay_inside_are_followed(folder: Path, roots: Roots) -> None:
    links = {
        "relative": "run/deep/file",
        "absolute": folder / "one/run/deep/file",
        "chain": "relative",
        "to-another-root": folder / "two" / "file",
        "up-and-down": "../two/../one/file",
        "folder": "run",
    }
    for name, target in links.items():
        (folder / "one" / name).symlink_to(target)
    read = {name: content(roots, folder / "one" / name) for name in list(links)[:-1]}
    assert read == dict.fromkeys(("relative", "absolute", "chain"), "one/run/deep/file") | {
        "to-another-root": "two/file",
        "up-and-down": "one/file",
    }
    assert roots.resolve(folder / "one" / "folder" / "deep" / "file") == folder / "one/run/deep/file"
    assert roots.resolve(folder / "one" / "to-another-root") == folder / "two" / "file"


def test_a_link_from_outside_that_leads_in_is_followed(folder: Path, roots: Roots) -> None:
    (folder / "outside" / "in").symlink_to(folder / "one")
    assert content(roots, folder / "outside" / "in" / "file") == "one/file"


def test_a_link_to_nothing_or_to_itself_is_not_there(folder: Path, roots: Roots) -> None:
    (folder / "one" / "gone").symlink_to("nothing")
    (folder / "one" / "loop").symlink_to("loop")
    for name, number in (("gone", errno.ENOENT), ("loop", errno.ELOOP), ("file/x", errno.ENOTDIR)):
        with pytest.raises(OSError, match=os.strerror(number)):
            roots.open(folder / "one" / name)
        with pytest.raises(PathNotAllowed):
            roots.resolve(folder / "one" / name)


def test_a_chain_of_links_without_end_is_not_there(folder: Path, roots: Roots) -> None:
    for number in range(sys.getrecursionlimit() + 100):
        (folder / "one" / f"link-{number}").symlink_to(f"link-{number + 1}")
    with pytest.raises(OSError, match=r"No such file|Too many levels"):
        roots.open(folder / "one" / "link-0")
    with pytest.raises(PathNotAllowed):
        roots.resolve(folder / "one" / "link-0")


def test_a_hard_link_is_a_file_like_any_other(folder: Path, roots: Roots) -> None:
    os.link(folder / "outside" / "file", folder / "one" / "hard")
    assert content(roots, folder / "one" / "hard") == SECRET


def test_a_root_may_be_a_link_and_stays_what_it_was_when_it_is_replaced(folder: Path) -> None:
    (folder / "root").symlink_to(folder / "one")
    with Roots([folder / "root"]) as roots:
        assert content(roots, folder / "root" / "file") == "one/file"
        assert content(roots, folder / "one" / "file") == "one/file"
        (folder / "root").unlink()
        (folder / "root").symlink_to(folder / "outside")
        refused(roots, folder / "root" / "file")
        (folder / "one").rename(folder / "moved")
        (folder / "one").symlink_to(folder / "outside")
        refused_or_old(roots, folder / "one" / "file", "one/file")
        (folder / "one").unlink()
        (folder / "outside").rename(folder / "one")
        refused_or_old(roots, folder / "one" / "file", "one/file")


def refused_or_old(roots: Roots, path: Path, expected: str) -> None:
    """By the descriptor the root is still the folder that it was."""
    with suppress(PathNotAllowed):
        assert content(roots, path) == expected


def test_a_root_that_is_not_there_allows_nothing(folder: Path) -> None:
    with Roots([folder / "absent"]) as roots:
        (folder / "absent").mkdir()
        refused(roots, folder / "absent")


def test_a_root_that_is_a_file_allows_that_file_alone(folder: Path) -> None:
    (folder / "one" / "other").write_text("other")
    with Roots([folder / "one" / "file"]) as roots:
        assert content(roots, folder / "one" / "file") == "one/file"
        for path in (folder / "one", folder / "one" / "other", folder / "one" / "file" / ".." / "other"):
            refused(roots, path)
        (folder / "one" / "file").rename(folder / "one" / "away")
        (folder / "one" / "file").symlink_to(folder / "outside" / "file")
        refused(roots, folder / "one" / "file")


def swaps(folder: Path) -> dict[str, Callable[[], None]]:
    """What somebody may do to `one/run/deep/file` between two looks."""

    def by_link(place: Path, target: Path) -> None:
        place.rename(place.with_name("away"))
        place.symlink_to(target)

    return {
        "the file": lambda: by_link(folder / "one/run/deep/file", folder / "outside" / "file"),
        "its folder": lambda: by_link(folder / "one/run/deep", folder / "outside"),
        "a folder above": lambda: by_link(folder / "one/run", folder / "outside"),
    }


@pytest.mark.parametrize("what", ["the file", "its folder", "a folder above"])
def test_what_is_exchanged_between_resolving_and_opening_does_not_lead_out(
    folder: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (folder / "one" / "deep-link").symlink_to("run/deep")
    (folder / "outside" / "deep").mkdir()
    (folder / "outside" / "deep" / "file").write_text(SECRET)
    original, done = os.path.realpath, []

    def resolved_then_exchanged(path: object, **options: object) -> object:
        found = original(path, **options)  # type: ignore[call-overload]  # whatever it was called with
        if not done:
            done.append(path)
            swaps(folder)[what]()
        return found

    monkeypatch.setattr(os.path, "realpath", resolved_then_exchanged)
    with pytest.raises(PathNotAllowed):
        roots.open(folder / "one" / "deep-link" / "file")
    assert done


def test_somebody_who_exchanges_links_for_ever_gets_a_refusal(
    folder: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that the path was resolved, there is a link in it again."""
    (folder / "one" / "link").symlink_to("run")
    again = str(folder / "one" / "link" / "deep" / "file")
    resolved = []
    monkeypatch.setattr(os.path, "realpath", lambda path, strict=False: resolved.append(path) or again)
    with pytest.raises(PathNotAllowed):
        roots.open(again)
    assert ATTEMPTS <= len(resolved) <= ATTEMPTS + 1


def test_magic_links_are_not_followed_even_below_a_root_that_has_them() -> None:
    with Roots(["/proc"]) as roots:
        assert roots.status(f"/proc/{os.getpid()}/status")
        for name in ("root/etc/passwd", "cwd", "fd/0"):
            refused(roots, f"/proc/{os.getpid()}/{name}")
    top = os.open("/proc", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            open_beneath(top, f"{os.getpid()}/root/etc")
    finally:
        os.close(top)


def test_pipes_sockets_and_devices_are_no_paths_of_a_job_and_never_block(folder: Path, roots: Roots) -> None:
    os.mkfifo(folder / "one" / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "one" / "socket"))
    for name in ("pipe", "socket"):
        with pytest.raises(PathNotAllowed, match="must be a regular file or a folder"):
            roots.resolve(folder / "one" / name)
        with suppress(OSError):
            os.close(roots.open(folder / "one" / name))
    with Roots(["/dev"]) as devices, pytest.raises(PathNotAllowed):
        devices.resolve("/dev/null")
    listening.close()


def test_the_answer_for_a_job_is_the_same_for_missing_outside_and_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "one" / "pipe")
    (folder / "one" / "link").symlink_to(folder / "outside")
    messages = set()
    for path in (
        *(folder / "one" / name for name in ("missing", "pipe", "link", "link/missing", "a\0b", "\ud800")),
        *(folder / "outside", folder / "outside" / "missing", Path("relative")),
    ):
        with pytest.raises(PathNotAllowed) as caught:
            resolve_inside(path, [folder / "one"], field="val_set")
        messages.add(str(caught.value).split("but")[0])
    assert messages == {"`val_set` must be an existing file or folder inside the allowed folders, "}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_does_not_answer_is_not_taken_for_a_path_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ladle_contracts.roots.open_beneath", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        resolve_inside(folder / "one" / "file", [folder / "one"])
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        Roots([folder / "one"])


def test_a_name_that_would_control_a_terminal_is_escaped_in_the_message(folder: Path) -> None:
    with pytest.raises(PathNotAllowed) as caught:
        resolve_inside("/a\x1b[31m\nb\udcff", [folder])
    assert r"`/a\x1b[31m\nb\udcff`" in str(caught.value)
