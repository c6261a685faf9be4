"""Image files of strangers: decoded by one of four decoders, within bounds, and upright."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from ladle_engine.errors import DataError, EngineError
from ladle_engine.storage.input_paths import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
DECODERS = ("PNG", "JPEG", "BMP", "WEBP")
"""No other decoder looks at a stranger's file: PIL would go by its contents, and start Ghostscript for some."""
MODES = {1: "L", 3: "RGB"}
"""PIL's name of an image with so many channels."""
MAX_PIXELS = 64_000_000
"""A larger image is refused before it is decoded: its file may be a bomb."""
MAX_EDGE = 1_000_000
"""Pixels. To resize an edge takes memory by its length."""
MAX_FILE_BYTES = 512 << 20
"""What 64 million pixels of three times 16 bits have, and more."""


def decode(path: Path, mode: str | None) -> Image.Image:
    """The image in `mode`, or as it is stored with None; turned upright as its EXIF orientation says.

    Raises `DataError` (invalid-data) that names the file.
    """
    return decode_bytes(read_image(path), f"`{path}`", mode)


def read_image(path: Path) -> bytes:
    """Raises `DataError` (invalid-data)."""
    try:
        content = read_bytes(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise DataError("invalid-data", f"`{path}` must be a readable image file, but is not ({error}).") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(
            "invalid-data", f"An image file must have at most {MAX_FILE_BYTES:,} bytes, but `{path}` has more."
        )
    return content


def decode_bytes(content: bytes, place: str, mode: str | None) -> Image.Image:
    """The same for the content of a file. `place` is where it stands, for messages."""
    try:
        # From memory: PIL allocates what a damaged length says before it reads from a file.
        with Image.open(io.BytesIO(content), formats=DECODERS) as opened:
            _refuse_size(place, opened)
            upright = opened.getexif().get(Base.Orientation, 1) == 1
            image = _in_mode(opened if upright else ImageOps.exif_transpose(opened), mode)
            image.load()
            return image
    except (EngineError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        # Its own words name the descriptor.
        raise DataError(
            "invalid-data", f"{place} must be an image, but does not decode: it is none of {', '.join(DECODERS)}."
        ) from error
    except Exception as error:
        # What a damaged file raises depends on where it is damaged: ValueError, struct.error, EOFError and more.
        raise DataError(
            "invalid-data", f"{place} must be an image, but does not decode ({type(error).__name__}: {error})."
        ) from error


def _refuse_size(place: str, image: Image.Image) -> None:
    if not 1 <= image.width * image.height <= MAX_PIXELS:
        raise DataError(
            "invalid-data",
            f"An image must have 1 to {MAX_PIXELS:,} pixels, but {place} has {image.width} x {image.height}.",
        )
    if max(image.size) > MAX_EDGE:
        raise DataError(
            "invalid-data",
            f"An image must have at most {MAX_EDGE:,} pixels on each side, but {place} has {image.width} x "
            f"{image.height}.",
        )


def _in_mode(image: Image.Image, mode: str | None) -> Image.Image:
    if image.mode.startswith("I;16"):
        # PIL would cut off at 255 what has 16 bits per pixel.
        image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if mode is None or image.mode == mode:
        return image
    if "transparency" in image.info:
        # A palette with transparent colours is converted in two steps, as PIL asks for.
        image = image.convert("RGBA")
    return image.convert(mode)
