"""A picture that is known by name and decoded only when it is used."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mlxtune.errors import DataError

_ROTATED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_BASE64_HEADS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")  # PNG, JPEG, GIF, WebP
_PNG_TEXT = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # chunks that may say which side is up
# Pillow lets through whatever its parsers trip on.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)
_BROKEN += (NotImplementedError, struct.error, Image.DecompressionBombError)


class StoredImage(NamedTuple):
    """An encoded picture in hand, and how to read it again once its row is forgotten (`read` must be picklable)."""

    content: bytes
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageRef:
    """A picture by reference; two references are equal when their keys are.

    source: a path, encoded bytes, a function without arguments that reads them, or an opened picture.
    key: stable identity. `image_ref` makes it from the path below the pictures' folder, or else from the content's hash.
    where: the row it stands in, for messages.
    """

    source: Path | bytes | Callable[[], bytes] | Image.Image = field(compare=False, repr=False)
    key: str
    where: str = field(default="", compare=False)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of what `load` returns; reads the header only. Raises DataError."""
        try:
            with self._open() as image:
                width, height = image.size
                return (height, width) if _stored_sideways(image) else (width, height)
        except _BROKEN as error:
            raise self._refusal(error) from error

    def load(self) -> Image.Image:
        """The picture as RGB, upright; transparency is laid over white, of an animation the first frame. Raises DataError."""
        try:
            with self._open() as image:
                return _to_rgb(ImageOps.exif_transpose(image))
        except _BROKEN as error:
            raise self._refusal(error) from error

    @property
    def stamp(self) -> str:
        """`key`, for a file with its size and time of change: the identity to use for what is kept on disk."""
        if not isinstance(self.source, Path):
            return self.key
        try:
            status = self.source.stat()
        except _BROKEN as error:
            raise self._refusal(error) from error
        return f"{self.key}|{status.st_size}|{status.st_mtime_ns}"

    def _open(self) -> Image.Image:
        if isinstance(self.source, Image.Image):
            return self.source.copy()
        content = self.source() if callable(self.source) else self.source
        return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)

    def _refusal(self, error: BaseException) -> DataError:
        where = _at(self.where)
        if isinstance(error, FileNotFoundError):
            name = self.source if isinstance(self.source, Path) else self.key
            return DataError(
                f"{where}picture '{name}' does not exist. Set data.image_folder to the folder that holds the pictures"
            )
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{where}picture '{self.key}' cannot be read ({reason}). Replace the file or remove the row")


def image_ref(value: Any, *, folder: Path | None = None, where: str = "") -> ImageRef:
    """A reference from what data sets hold: a path (relative ones start from `folder`), encoded bytes, base64 text (with or
    without ``data:image/png;base64,``), ``{"bytes", "path"}``, a `StoredImage`, or an opened picture.

    Files are not looked at, and nothing is decoded. Raises DataError for anything else.
    """
    if isinstance(value, ImageRef):
        return value
    if isinstance(value, StoredImage):
        return ImageRef(value.read, key=_content_key(value.content), where=where)
    if isinstance(value, (bytes, bytearray, memoryview)) and len(value):
        return ImageRef(bytes(value), key=_content_key(value), where=where)
    if isinstance(value, Image.Image):
        header = f"{value.mode} {value.size} ".encode()
        return ImageRef(value, key=_content_key(header + value.tobytes()), where=where)
    if isinstance(value, Mapping) and (inner := value.get("bytes") or value.get("path")) and not isinstance(inner, Mapping):
        return image_ref(inner, folder=folder, where=where)
    if isinstance(value, Path) or (isinstance(value, str) and value.strip()):
        return _from_text(str(value), folder=folder, where=where)
    raise DataError(f"{_at(where)}a picture must be a path, bytes, base64 text or {{'bytes', 'path'}}; this is {describe(value)}")


def describe(value: Any) -> str:
    """A value in a few words, short enough for a message."""
    if value is None:
        return "null"
    # repr shows control characters and broken Unicode escaped, so that the message can be printed anywhere.
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _from_text(text: str, *, folder: Path | None, where: str) -> ImageRef:
    if text.startswith("data:") or text.startswith(_BASE64_HEADS):
        content = _base64_bytes(text)
        if content:
            return ImageRef(content, key=_content_key(content), where=where)
        if text.startswith("data:"):
            raise DataError(
                f"{_at(where)}the picture's base64 text is broken ({describe(text)}). Encode it again or remove the row"
            )
    if text.startswith(("http://", "https://")):
        raise DataError(f"{_at(where)}picture '{text}' is a web address. Download the pictures and name their files instead")
    if not text.isprintable():  # a null byte or half a surrogate pair is no file's name, and cannot be hashed or printed
        raise DataError(f"{_at(where)}picture {describe(text)} is not a file name. Mend it or remove the row")
    base = Path(os.path.abspath(folder or Path()))
    path = Path(os.path.normpath(base / text))
    key = path.relative_to(base) if path.is_relative_to(base) else Path(os.path.normpath(text))
    return ImageRef(path, key=key.as_posix(), where=where)


def _base64_bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(
            "".join(text.partition(",")[2].split() if text.startswith("data:") else text.split()), validate=True
        )
    except ValueError:  # a file may well be called "/9j/a.png"
        return None


def _content_key(content: bytes | bytearray | memoryview) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()[:32]


def _stored_sideways(image: Image.Image) -> bool:
    """Whether `image.size` is that of the picture lying on its side, told without decoding pixels wherever possible."""
    if image.format == "TIFF":  # Pillow turns these itself and swaps the size on opening
        return False
    if image.format == "PNG" and not _says_more_behind_pixels(image.fp):
        # PngImageFile.getexif decodes the whole picture to look behind the pixels; the base class does not.
        return Image.Image.getexif(image).get(_ORIENTATION) in _ROTATED
    return image.getexif().get(_ORIENTATION) in _ROTATED


def _says_more_behind_pixels(stream: BinaryIO | None) -> bool:
    """Whether a PNG has EXIF or text behind its pixel data (old exiftool writes it there); steps over chunks."""
    if stream is None:
        return False
    place, seen_pixels = stream.tell(), False
    try:
        stream.seek(8)
        while len(header := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if seen_pixels and kind in _PNG_TEXT:
                return True
            seen_pixels |= kind == b"IDAT"
            stream.seek(length + 4, os.SEEK_CUR)
        return False
    finally:
        stream.seek(place)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image).convert("RGB")
    if image.mode in ("RGBa", "La"):  # premultiplied alpha converts only to its own kind
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """More than 8 bits of grey, scaled to 8. Pillow would clip at 255: a 16-bit chart would be white.

    Modes I and F do not say their range: it is the smallest of 1 (F only), 255, 65535, 2**32 - 1 that holds all values.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)  # [H, W]
    tops = (65535,) if image.mode.startswith("I;16") else ((1,) if image.mode == "F" else ()) + (255, 65535, 2**32 - 1)
    top = next((top for top in tops if values.max(initial=0.0) <= top), tops[-1])
    grey = np.clip(np.rint(values * (255.0 / top)), 0, 255)
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey.astype(np.uint8))
