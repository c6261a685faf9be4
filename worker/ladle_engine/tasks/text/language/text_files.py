"""Plain text of any size, as documents that come in pieces."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.storage.input_paths import entries_of, is_file, is_folder, lies_in
from ladle_engine.tasks.tables.source import Source, refuse_other_kinds

DOCUMENTS = ("file", "paragraph", "line")
SUFFIX = ".txt"
"""Of the documents in a folder."""
CHUNK_BYTES = 1 << 18
WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BLANK_LINES = re.compile(r"\n[ \t]*\n")

TextPiece = tuple[str, bool]
"""A text, and whether its document ends with it."""


def text_files(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of a text set: itself or, of a folder, all `.txt` files in it, in order; and those passed over."""
    return _files_in(path, path) if is_folder(path) else ([path], [])


def _files_in(folder: Path, root: Path) -> tuple[list[Path], list[Path]]:
    found: list[Path] = []
    others: list[Path] = []
    for entry in entries_of(folder):
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_folder:
            inner, passed_over = _files_in(path, root)
            found += inner
            others += passed_over
        elif path.suffix.lower() == SUFFIX and (entry.is_regular or _is_file_inside(path, root)):
            found.append(path)
        else:
            others.append(path)
    return found, others


def _is_file_inside(link: Path, root: Path) -> bool:
    """Raises `DataError` for a link out of the folder."""
    if not lies_in(link, root):
        raise DataError("path-not-allowed", f"Texts must lie inside `{root}`, but `{link}` leads out of it.")
    return is_file(link)


def text_pieces(path: Path, documents: str) -> Iterator[TextPiece]:
    """The documents of a file, which are the whole, its lines, or its paragraphs, with blank lines between.

    Line ends become LF, as when Python reads text. Raises `DataError` (invalid-data) for what is not UTF-8.
    """
    chunks = _chunks(path)
    if documents == "file":
        return _whole(chunks)
    return _split(chunks, re.compile("\n") if documents == "line" else BLANK_LINES)


def _whole(chunks: Iterator[str]) -> Iterator[TextPiece]:
    before: str | None = None
    for chunk in chunks:
        if before is not None:
            yield before, False
        before = chunk
    if before is not None:
        yield before, True


def _split(chunks: Iterator[str], between: re.Pattern[str]) -> Iterator[TextPiece]:
    rest, continues = "", False
    for chunk in chunks:
        *whole, rest = between.split(rest + chunk)
        for document in whole:
            if continues or document.strip():
                yield _trimmed(document, continues).rstrip("\n"), True
            continues = False
        if len(rest) > 2 * CHUNK_BYTES:
            # What may be the beginning of a separator stays.
            cut = len(rest.rstrip())
            if cut:
                yield _trimmed(rest[:cut], continues), False
                continues = True
            rest = rest[cut:]
    if continues or rest.strip():
        yield _trimmed(rest, continues).rstrip("\n"), True


def _trimmed(text: str, continues: bool) -> str:
    return text if continues else text.lstrip("\n")


def _chunks(path: Path) -> Iterator[str]:
    source = Source(path)
    if source.size == 0:
        # An empty document of a folder.
        yield ""
        return
    refuse_other_kinds(source, "a text file", markup=True)
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    for start in range(0, source.size, CHUNK_BYTES):
        content = source.read(start, CHUNK_BYTES)
        if start == 0 and content.startswith(WIDE_MARKS):
            raise DataError(
                "invalid-data",
                f"A text file must be in UTF-8, but `{path}` begins like UTF-16. Convert it: iconv -f UTF-16 -t UTF-8.",
            )
        pending = len(utf8.getstate()[0])
        pulse()
        try:
            yield decoder.decode(content, final=start + CHUNK_BYTES >= source.size)
        except UnicodeDecodeError as error:
            raise DataError(
                "invalid-data",
                f"A text file must be in UTF-8, but `{path}` has the byte 0x{error.object[error.start]:02x} at place "
                f"{start - pending + error.start:,}, where that cannot be. Convert it: iconv -f WINDOWS-1252 -t UTF-8, "
                f"or from whatever it is in.",
            ) from error
