"""Signatures of Standard Webhooks (https://www.standardwebhooks.com), which libraries of many languages check."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)
"""How long a secret may be, as the standard says."""
ADVICE = "Make one with `python -m ladle_service webhook-secret > FILE`, and let nobody else read the file."


class Secret:
    """A key that signs."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __str__(self) -> str:
        """As the standard writes it. Whoever has it can sign too."""
        return PREFIX + base64.b64encode(self._key).decode()

    def of_owner(self, owner: str) -> Secret:
        """The secret of one token's jobs: its holder can check what is sent for these, and sign for nobody else."""
        return Secret(hmac.digest(self._key, b"owner " + owner.encode(), hashlib.sha256))

    def headers(self, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """What the receiver checks."""
        signed = f"{message_id}.{timestamp_s}.".encode() + body
        signature = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": f"v1,{signature}",
        }


def new_secret() -> Secret:
    return Secret(secrets.token_bytes(32))


def read_secret(path: Path) -> Secret:
    """That of a file. Raises OSError or ValueError, which does not repeat what is in the file."""
    text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(PREFIX) or len(key) not in KEY_BYTES:
        raise ValueError(f"{path} must hold `whsec_` and 24 to 64 bytes in base64, but does not. {ADVICE}")
    return Secret(key)
