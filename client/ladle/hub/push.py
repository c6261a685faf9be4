"""A result to the Hub, as one commit: all of it is there, or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ladle._errors import LadleError
from ladle.hub.address import HubAddress
from ladle.hub.benchmark import Benchmark, eval_results
from ladle.hub.result_files import Result
from ladle_contracts.safe_text import one_line

WEIGHTS = re.compile(
    r"(model|diffusion_pytorch_model|adapter_model|statistics)([.-].*)?\.safetensors(\.index\.json)?|.*\.distcp|\.metadata"
)
"""Files of weights that Ladle writes. Those of an earlier model must not stay beside the new one: a loader may take
them."""
AGAIN = "Nothing was committed. Push again when it is mended: what was uploaded is not uploaded again."


class PushError(LadleError):
    """The result is not on the Hub."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How to push."""

    private: bool = False
    create_pr: bool = False
    message: str | None = None
    benchmark: Benchmark | None = None
    show_progress: bool = False
    """By huggingface_hub's own bars."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What is on the Hub now."""

    url: str
    """Where to look at it: the model's page, or the pull request's."""
    commit: str
    changed: bool
    """False if all of it was there already."""
    deleted: tuple[str, ...] = field(default=())
    """Weights of an earlier model that are gone with this commit."""


def push(result: Result, address: HubAddress, wishes: Wishes, say: Callable[[str], None]) -> Pushed:
    """Makes the repository where there is none. Raises `PushError`."""
    hub = _hub()
    token = hub.get_token()
    if not token:
        raise PushError(
            "A token of the Hub is needed. Log in with `hf auth login`, or set HF_TOKEN. "
            "https://huggingface.co/settings/tokens makes one that may write."
        )
    api = hub.HfApi(library_name="ladle")
    with _told(address, api.endpoint, token), _bars(hub, shown=wishes.show_progress):
        before = _repository(hub, api, address, wishes)
        additions = _additions(hub, result, address, wishes)
        say(f"uploading {len(additions)} files to {api.endpoint}/{address.repo} ...")
        revision = None if wishes.create_pr else address.revision
        api.preupload_lfs_files(
            address.repo, additions, revision=address.revision, create_pr=wishes.create_pr, free_memory=False
        )
        _refuse_ignored(additions)
        stale = _stale(hub, api, address, {addition.path_in_repo for addition in additions})
        info = api.create_commit(
            address.repo,
            [*additions, *(hub.CommitOperationDelete(path_in_repo=path) for path in stale)],
            commit_message=one_line(wishes.message or result.title),
            commit_description=result.answer,
            revision=revision,
            create_pr=wishes.create_pr,
        )
    at = f"/tree/{address.revision or 'main'}" if address.revision or address.folder else ""
    page = f"{api.endpoint}/{address.repo}{at}{'/' if address.folder else ''}{address.folder}"
    return Pushed(url=info.pr_url or page, commit=info.oid, changed=info.oid != before, deleted=tuple(stale))


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise PushError(
            "`ladle push` needs the library huggingface_hub. Install it: pip install 'ladle[hub]'."
        ) from error
    return huggingface_hub


def _repository(hub: Any, api: Any, address: HubAddress, wishes: Wishes) -> str | None:
    """Makes the repository and the branch where they are not there. The newest commit there."""
    try:
        info = api.repo_info(address.repo)
    except hub.errors.RepositoryNotFoundError:
        if wishes.create_pr:
            raise PushError(
                f"`{address.repo}` must be there for a pull request, but is not, or your token does not see it."
            ) from None
        # Empty for a moment, and nobody but the owner should see that if it is to be private.
        api.create_repo(address.repo, private=wishes.private or None, exist_ok=True)
        info = api.repo_info(address.repo)
    if wishes.private and not info.private:
        raise PushError(f"`{address.repo}` must be private, but is public. Nothing was uploaded.")
    if address.revision is None:
        return str(info.sha) if info.sha else None
    return _branch(hub, api, address, wishes)


def _branch(hub: Any, api: Any, address: HubAddress, wishes: Wishes) -> str | None:
    try:
        return str(api.repo_info(address.repo, revision=address.revision).sha)
    except hub.errors.RevisionNotFoundError:
        if wishes.create_pr or str(address.revision).startswith("refs/"):
            raise PushError(f"`{address.repo}` must have the branch `{address.revision}`, but has not.") from None
        api.create_branch(address.repo, branch=address.revision, exist_ok=True)
        return str(api.repo_info(address.repo, revision=address.revision).sha)


def _additions(hub: Any, result: Result, address: HubAddress, wishes: Wishes) -> list[Any]:
    additions = []
    for name, digest in result.files.items():
        addition = hub.CommitOperationAdd(path_in_repo=address.path(name), path_or_fileobj=result.folder / name)
        if digest is not None:
            # What was compared with the report is what the Hub takes: it compares the digest too.
            addition.upload_info.sha256 = bytes.fromhex(digest)
        additions.append(addition)
    if wishes.benchmark is not None:
        score = eval_results(wishes.benchmark, result.report)
        additions.append(hub.CommitOperationAdd(path_in_repo=wishes.benchmark.file, path_or_fileobj=score))
    return additions


def _refuse_ignored(additions: list[Any]) -> None:
    """huggingface_hub leaves these out without a word."""
    ignored = [addition.path_in_repo for addition in additions if getattr(addition, "_should_ignore", False)]
    if ignored:
        raise PushError(
            f"The repository's `.gitignore` leaves out `{ignored[0]}`"
            f"{f' and {len(ignored) - 1} more' if len(ignored) > 1 else ''}. Change that file first. {AGAIN}"
        )


def _stale(hub: Any, api: Any, address: HubAddress, new: set[str]) -> list[str]:
    """Weights of an earlier model where the new one goes."""
    with suppress(hub.errors.EntryNotFoundError):
        entries = api.list_repo_tree(address.repo, address.folder or None, revision=address.revision)
        paths = [entry.path for entry in entries if isinstance(entry, hub.hf_api.RepoFile)]
        return [path for path in paths if path not in new and WEIGHTS.fullmatch(path.rpartition("/")[2])]
    return []


@contextmanager
def _bars(hub: Any, *, shown: bool) -> Iterator[None]:
    if shown:
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()


@contextmanager
def _told(address: HubAddress, endpoint: str, token: str) -> Iterator[None]:
    """Whatever fails, in our words, and without the token: some libraries repeat a header that they refuse."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except PushError:
        raise
    except errors.HfHubHTTPError as error:
        words = _of_status(error.response.status_code, address, error.server_message or "")
    except errors.OfflineModeIsEnabled:
        words = "The Hub must be reachable, but HF_HUB_OFFLINE is set."
    except httpx2.HTTPError as error:
        words = f"The Hub at {endpoint} cannot be reached ({type(error).__name__}: {error}). {AGAIN}"
    except (OSError, RuntimeError, ValueError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        words = f"The Hub did not take the result: {error}{cause}. {AGAIN}"
    else:
        return
    # Not `from error`: its text may have the token.
    raise PushError(one_line(words.replace(token, "***"))) from None


def _of_status(status: int, address: HubAddress, server_words: str) -> str:
    told = f" It says: {server_words.strip()}" if server_words.strip() else ""
    match status:
        case 401:
            return f"The Hub refuses the token. Log in again with `hf auth login`, or set HF_TOKEN.{told}"
        case 403:
            return (
                f"The token may not write to `{address.repo}`. It must have the right to write there. With --create-pr "
                f"a pull request is made instead.{told}"
            )
        case 404:
            return f"`{address.repo}` is not there, or your token does not see it.{told}"
        case 409 | 412:
            return f"Somebody else has changed `{address.repo}` in the meantime. Push again.{told}"
        case 429:
            return f"The Hub has had too many requests from you. {AGAIN}{told}"
        case _ if status >= 500:
            return f"The Hub has a fault (status {status}). {AGAIN}{told}"
        case _:
            return f"The Hub refuses the result (status {status}). {AGAIN}{told}"
