"""What an error of the results' disk means for a job: docs/rest.md, the table of reasons."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ladle_contracts import Reason

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)
"""It stays so until somebody changes it. Any other fault of a disk may pass: it came loose, or does not answer."""
NOT_OF_A_DISK = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EINTR)


class DiskFault(Exception):
    """A file of a job could not be written or read back."""

    def __init__(self, reason: Reason, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.is_final = is_final
        """Whether another attempt would only meet it again."""


@contextmanager
def naming_disk_faults(what: str) -> Iterator[None]:
    """An `OSError` of the block becomes a `DiskFault`. `what` follows "Ladle cannot"."""
    try:
        yield
    except OSError as error:
        if error.errno in NOT_OF_A_DISK:
            raise
        raise disk_fault(error, what) from error


def disk_fault(error: OSError, what: str) -> DiskFault:
    cause = error.strerror or str(error)
    place = f" (`{error.filename}`)" if error.filename else ""
    said = f"Ladle cannot {what}: {cause}{place}."
    if error.errno in FULL:
        return DiskFault(Reason.DISK_FULL, f"{said} Make room on the disk of the results.", is_final=True)
    advice = "Look at the disk of the results on this node."
    return DiskFault(Reason.RESULTS_UNWRITABLE, f"{said} {advice}", is_final=error.errno in FORBIDDEN)
