"""Style sheets, scripts and pictures. An address has the hash of its file, so browsers may keep what they got."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from ladle_report.styles import PALETTE_FILE
from ladle_service.problems import not_found

FOLDER = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class StaticFile:
    """One file, as it was when the service started."""

    content: bytes
    media_type: str
    digest: str


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return StaticFile(content=content, media_type=media_type, digest=hashlib.sha256(content).hexdigest()[:16])


FILES = {path.relative_to(FOLDER).as_posix(): _read(path) for path in FOLDER.rglob("*") if path.is_file()} | {
    PALETTE_FILE.name: _read(PALETTE_FILE)
}


def static_url(name: str) -> str:
    """The address of a file. Raises KeyError if there is none."""
    return f"/static/{FILES[name].digest}/{name}"


@router.get("/static/{digest}/{name:path}")
async def get_static(request: Request, digest: str, name: str) -> Response:
    """A file. Under the address of another version it is sent as it is now, and not kept."""
    file = FILES.get(name)
    if file is None:
        raise not_found("such file")
    tag = f'"{file.digest}"'
    headers = {"Cache-Control": FOREVER if digest == file.digest else ASK_AGAIN, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
