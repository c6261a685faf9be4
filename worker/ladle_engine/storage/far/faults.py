"""What a far store's errors mean, in one line each, and which of them may pass."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ladle_engine.errors import EngineError
from ladle_engine.far_urls import FarUrl
from ladle_engine.progress import pulse

T = TypeVar("T")

WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Between attempts at one request, give or take a half."""
READABLE, WRITABLE = "readable", "writable"
"""What an address must be."""
LIBRARY = {"gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
"""What a scheme needs besides the extra `far`."""
PASSING_STATUSES = (408, 425, 429)
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound")
"""Classes of botocore, which need not be installed."""
WRONG_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure")
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
MISTAKES = (ValueError, TypeError, NotImplementedError, ImportError, AttributeError, EngineError)

stopping = threading.Event()
"""Set while the process gives up: then nothing is tried again."""


class ShortBody(OSError):
    """A store sent fewer bytes, or more, than were asked for."""


class Refused(Exception):
    """An address that a store led to must not be reached."""


def patiently(call: Callable[[], T], url: FarUrl, use: str = READABLE) -> T:
    """What `call` returns, tried again with growing pauses while its error may pass. Raises `EngineError`."""
    for wait_s in (*WAITS_S, None):
        try:
            return call()
        except Exception as error:
            if wait_s is None or stopping.is_set() or not may_pass(error):
                raise translated(error, url, use) from _cause(error)
        _pause(wait_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads requests
    raise AssertionError("the last attempt returns or raises")


def may_pass(error: BaseException) -> bool:
    if isinstance(error, ShortBody):
        return True
    if _found(error, Refused) or isinstance(error, (*FINAL, *MISTAKES)) or _is_named(error, NO_CREDENTIALS):
        return False
    if (status := _status(error)) is not None:
        return status >= 500 or status in PASSING_STATUSES
    return not (isinstance(error, OSError) and error.errno == errno.EINVAL)


def translated(error: Exception, url: FarUrl, use: str = READABLE) -> EngineError:
    """One line for people, with what to do."""
    if isinstance(error, EngineError):
        return error
    if refused := _found(error, Refused):
        return EngineError("path-not-allowed", f"`{url}` must not be read: {refused}")
    if isinstance(error, ImportError):
        package = LIBRARY.get(url.scheme)
        more = f" and `pip install {package}`" if package else ""
        return EngineError(
            "missing-library",
            f"`{url}` needs a library that is not installed. Run `pip install 'ladle[far]'`{more}.",
        )
    if (known := _known(error, url, use)) is not None:
        return EngineError("unreadable-input", known)
    why = "" if not str(error) else f": {error}"
    return EngineError(
        "unreadable-input",
        f"`{url}` must answer, but does not, after {len(WAITS_S) + 1} attempts ({type(error).__name__}{why}). Try "
        f"again later.",
    )


def is_missing(error: Exception) -> bool:
    """Whether it says that there is nothing at the address."""
    return _found(error, FileNotFoundError) is not None or _status(error) in (404, 410)


def _known(error: Exception, url: FarUrl, use: str) -> str | None:
    status, code = _status(error), _code(error)
    if _is_named(error, NO_CREDENTIALS):
        return f"`{url}` needs credentials, and there are none. The operator sets them in the environment."
    if code in WRONG_CREDENTIALS or status == 401:
        return (
            f"`{url}` must be {use} with the operator's credentials, but the store does not know them "
            f"({code or status}). Ask the operator."
        )
    if isinstance(error, PermissionError) or status == 403:
        return (
            f"`{url}` must be {use} with the operator's credentials, but the store answers: "
            f"{_words(error) or 'forbidden'}. Either they are wrong, or they do not allow it."
        )
    if code == "NoSuchBucket" or "bucket does not exist" in str(error):
        return f"`{url}` must exist, but there is no bucket `{url.place}`."
    if is_missing(error):
        return f"`{url}` must exist, but there is nothing at this address."
    if status is not None and 400 <= status < 500 and status not in PASSING_STATUSES:
        return f"`{url}` must be {use}, but the server answers with status {status}."
    return None


def _cause(error: Exception) -> BaseException:
    """What may pass counts as a fault of the machine, which another attempt may not meet."""
    if may_pass(error):
        fault = OSError(errno.EHOSTUNREACH, str(error))
        fault.__cause__ = error
        return fault
    return error


def _pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stopping.wait(min(left, 0.5)):
        pulse()


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found


def _found(error: BaseException, kind: type[T]) -> T | None:
    return next((each for each in _chain(error) if isinstance(each, kind)), None)


def _is_named(error: BaseException, names: tuple[str, ...]) -> bool:
    return any(type(each).__name__ in names for each in _chain(error))


def _status(error: BaseException) -> int | None:
    """Of HTTP, as aiohttp, botocore, gcsfs or azure keep it."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(each, "status", None) or getattr(each, "status_code", None) or getattr(each, "code", None)
            status = status or getattr(response, "status_code", None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def _code(error: BaseException) -> str:
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
    return ""


def _words(error: BaseException) -> str:
    return str(error).strip().rstrip(".")
