"""Where on the Hub a result goes: `hf://user/repo[/folder][@revision]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

FORM = "hf://user/repo[/folder][@revision]"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,254}")
_REFS = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/(.*))?")
_KINDS = ("models", "datasets", "spaces", "buckets")


class BadAddress(ValueError):
    """Goes on from "must be hf://..., but"."""


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """A place in a repository of models."""

    repo: str
    """`user/repo`"""
    folder: str = ""
    """Without a slash at either end; empty for the repository itself."""
    revision: str | None = None
    """A branch; None for the main one."""

    def path(self, name: str) -> str:
        """A file's path in the repository."""
        return f"{self.folder}/{name}" if self.folder else name


def parse_address(text: str) -> HubAddress:
    """A revision may also stand after the repository, as in huggingface_hub's own addresses. Raises `BadAddress`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise BadAddress("it has no `hf://`")
    if scheme.lower() != "hf":
        web = re.match(r"(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)", rest)
        raise BadAddress(f"it is a web page. Write hf://{web[1]}" if web else f"`{scheme}` is not the Hub")
    if rest.partition("/")[0] in _KINDS:
        raise BadAddress(f"`{rest.partition('/')[0]}/` must be left out: a result is always pushed as a model")
    place, at, told = rest.partition("@")
    parts = place.rstrip("/").split("/")
    folder, revision = _revision(told, after_repo=len(parts) == 2) if at else ("", None)
    repo = "/".join(parts[:2])
    if len(parts) < 2 or not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise BadAddress("it does not begin with a user, or an organization, and a repository")
    return HubAddress(repo=repo, folder=_folder("/".join([*parts[2:], *filter(None, [folder])])), revision=revision)


def _revision(told: str, *, after_repo: bool) -> tuple[str, str]:
    """Folder and revision. A branch with a slash that stands before a folder is written with `%2F`."""
    folder = ""
    if after_repo:
        refs = _REFS.fullmatch(told)
        told, folder = (refs[1], refs[2] or "") if refs else (told.partition("/")[0], told.partition("/")[2])
    revision = unquote(told)
    if not _REVISION.fullmatch(revision) or ".." in revision or revision.endswith(("/", ".lock")):
        raise BadAddress("what stands after `@` is not the name of a branch")
    return folder, revision


def _folder(path: str) -> str:
    folder = path.rstrip("/")
    parts = folder.split("/") if folder else []
    if any(part in ("", ".", "..") or part.startswith(".") or not part.isprintable() for part in parts):
        raise BadAddress("a part of its folder is empty or begins with a dot")
    if re.search(r"[\\?#]", folder):
        raise BadAddress("its folder has a backslash, a `?` or a `#`")
    return folder
