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
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mlxtune.errors import RowError

_ROTATED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_CONTENT = "sha256:"  # what keys made from content start with
_BASE64_HEADS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")  # PNG, JPEG, GIF, WebP
_LONGEST_PATH = 4096  # characters, on Linux; longer text can only be base64, whatever it begins with
_PNG_TEXT = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # chunks that may say which side is up
# Pillow lets through whatever its parsers trip on.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)
_BROKEN += (NotImplementedError, struct.error, Image.DecompressionBombError)


class StoredImage(NamedTuple):
    """An encoded picture in hand, and how to read it again once its row is forgotten.

    read: picklable; None where the picture cannot be read again, or at the price of tens of megabytes only. Whoever keeps such
    a picture must keep its bytes: the reference that `image_ref` makes of it has them as its `source`.
    """

    content: bytes
    read: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class ImageRef:
    """A picture by reference; two references are equal when their keys and folders are.

    source: a path, encoded bytes, a function without arguments that reads them, or an opened picture.
    key: stable name, wherever the data set lies. `image_ref` makes it from the path below `folder`, or else from the content.
    where: the row it stands in, for messages. folder: the folder or archive that `key` is relative to; "" for content keys.
    """

    source: Path | bytes | Callable[[], bytes] | Image.Image = field(compare=False, repr=False)
    key: str
    where: str = field(default="", compare=False)
    folder: str = field(default="", repr=False)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of what `load` returns; reads the header only. Raises RowError."""
        try:
            with self._open() as image:
                return _upright_size(image)
        except _BROKEN as error:
            raise self._refusal(error) from error

    def load(self) -> Image.Image:
        """The picture as RGB, upright; transparency is laid over white, of an animation the first frame. Raises RowError."""
        try:
            with self._open() as image:
                return _to_rgb(ImageOps.exif_transpose(image))
        except _BROKEN as error:
            raise self._refusal(error) from error

    def check(self) -> None:
        """Raises RowError ("picture missing", "picture unreadable") for what `load` would refuse, mostly without decoding it.

        A header that can be read and the format's own end mark are enough for PNG, JPEG, GIF and WebP; other forms, and files
        with something else at their end, are decoded. What was seen is remembered, `size` too.
        """
        if self._fault is not None:
            message, reason = self._fault
            raise RowError(f"{_at(self.where)}{message}", reason=reason)

    def digest(self) -> str:
        """The first 32 hex digits of SHA-256 over the encoded content (of an opened picture: over its pixels)."""
        return self._digest

    @property
    def identity(self) -> str:
        """Tells apart pictures of two data sets that have one name: `key` and what it is relative to."""
        return f"{self.folder}/{self.key}" if self.folder else self.key

    @property
    def stamp(self) -> str:
        """`identity`, for a file with its size and time of change: what to call the picture in what is kept on disk."""
        if not isinstance(self.source, Path):
            return f"{self.identity}{getattr(self.source, 'stamp', '')}"
        try:
            status = self.source.stat()
        except _BROKEN as error:
            raise self._refusal(error) from error
        return f"{self.identity}|{status.st_size}|{status.st_mtime_ns}"

    @cached_property
    def _digest(self) -> str:
        if self.key.startswith(_CONTENT) and not self.folder:
            return self.key.removeprefix(_CONTENT)
        try:
            if isinstance(self.source, Path):
                with self.source.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()[:32]
            content = self.source() if callable(self.source) else self.source
        except _BROKEN as error:
            raise self._refusal(error) from error
        return _content_key(_pixels(content) if isinstance(content, Image.Image) else content).removeprefix(_CONTENT)

    @cached_property
    def _fault(self) -> tuple[str, str] | None:
        """Message and reason of the refusal."""
        try:
            with self._open() as image:
                self.__dict__["size"] = _upright_size(image)
                if not _ends_well(image):
                    image.load()
        except _BROKEN as error:
            refusal = self._refusal(error)
            return str(refusal).removeprefix(_at(self.where)), refusal.reason
        return None

    def at(self, where: str) -> ImageRef:
        """The same picture, named by another row."""
        return ImageRef(self.source, self.key, where, self.folder)._seen_as(self)

    def kept(self, source: Path | Callable[[], bytes]) -> ImageRef:
        """The same picture, read from another place."""
        return ImageRef(source, self.key, self.where, self.folder)._seen_as(self)

    def _seen_as(self, other: ImageRef) -> ImageRef:
        """This reference with what the other one, of the same content, has seen."""
        self.__dict__.update({name: other.__dict__[name] for name in ("size", "_fault", "_digest") if name in other.__dict__})
        return self

    def _open(self) -> Image.Image:
        if isinstance(self.source, Image.Image):
            return self.source.copy()
        content = self.source() if callable(self.source) else self.source
        return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)

    def _refusal(self, error: BaseException) -> RowError:
        where = _at(self.where)
        if isinstance(error, FileNotFoundError):
            name = self.source if isinstance(self.source, Path) else self.key
            return RowError(
                f"{where}picture '{name}' does not exist. Set data.image_folder to the folder that holds the pictures",
                reason="picture missing",
            )
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # Pillow names a buffer's address, or the file once more
            reason = "no picture, or of a form such as HEIC that must be converted to JPEG first"
        return RowError(
            f"{where}picture '{self.key}' cannot be read ({reason}). Replace the file or remove the row",
            reason="picture unreadable",
        )


class FindPicture(Protocol):
    """Turns what a row's picture column holds into a reference. Raises RowError where there is no such picture."""

    def __call__(self, value: Any, *, where: str) -> ImageRef: ...


def image_ref(value: Any, *, folder: Path | None = None, where: str = "") -> ImageRef:
    """A reference from what data sets hold: a path (relative ones start from `folder`), encoded bytes, base64 text (with or
    without ``data:image/png;base64,``), ``{"bytes", "path"}``, a `StoredImage`, or an opened picture.

    Files are not looked at. A `StoredImage` is checked while its bytes are in hand, without a word: `check` and `size` then
    know, and read nothing. Raises RowError for anything else.
    """
    if isinstance(value, ImageRef):
        return value
    if isinstance(value, StoredImage):
        return _from_stored(value, where=where)
    if isinstance(value, (bytes, bytearray, memoryview)) and len(value):
        return ImageRef(bytes(value), key=_content_key(value), where=where)
    if isinstance(value, Image.Image):
        return ImageRef(value, key=_content_key(_pixels(value)), where=where)
    if isinstance(value, Mapping) and (inner := value.get("bytes") or value.get("path")) and not isinstance(inner, Mapping):
        return image_ref(inner, folder=folder, where=where)
    if isinstance(value, Path) or (isinstance(value, str) and value.strip()):
        return _from_text(str(value), folder=folder, where=where)
    raise RowError(
        f"{_at(where)}a picture must be a path, bytes, base64 text or {{'bytes', 'path'}}; this is {describe(value)}. "
        "Mend or remove the row",
        reason="field wrong",
    )


def describe(value: Any) -> str:
    """A value in a few words, short enough for a message."""
    if value is None:
        return "null"
    # repr shows control characters and broken Unicode escaped, so that the message can be printed anywhere.
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes, or a very deep list
        return f"{type(value).__name__} that is too long to show"
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _from_stored(value: StoredImage, *, where: str) -> ImageRef:
    in_hand = ImageRef(bytes(value.content), key=_content_key(value.content), where=where)
    _ = in_hand._fault
    return in_hand if value.read is None else in_hand.kept(value.read)


def embedded(text: str, *, where: str) -> bytes | None:
    """The bytes of a picture that stands in the row as base64 text; None where the text can only be a path. Raises RowError."""
    is_no_path = text.startswith("data:") or len(text) > _LONGEST_PATH
    if is_no_path or text.startswith(_BASE64_HEADS):
        content = _base64_bytes(text)
        if content:
            return content
        if is_no_path:
            raise RowError(
                f"{_at(where)}the picture's base64 text is broken ({describe(text)}). Encode it again or remove the row",
                reason="picture unreadable",
            )
    if text.startswith(("http://", "https://")):
        raise RowError(
            f"{_at(where)}picture '{text}' is a web address. Download the pictures and name their files instead",
            reason="picture missing",
        )
    if not text.isprintable():  # a null byte or half a surrogate pair is no file's name, and cannot be hashed or printed
        raise RowError(
            f"{_at(where)}picture {describe(text)} is not a file name. Mend it or remove the row", reason="field wrong"
        )
    return None


def _from_text(text: str, *, folder: Path | None, where: str) -> ImageRef:
    if content := embedded(text, where=where):
        return ImageRef(content, key=_content_key(content), where=where)
    base = Path(os.path.abspath(folder or Path()))
    path = Path(os.path.normpath(base / text))
    key = path.relative_to(base) if path.is_relative_to(base) else Path(os.path.normpath(text))
    return ImageRef(path, key=key.as_posix(), where=where, folder=str(base))


def _base64_bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(
            "".join(text.partition(",")[2].split() if text.startswith("data:") else text.split()), validate=True
        )
    except ValueError:  # a file may well be called "/9j/a.png"
        return None


def _content_key(content: bytes | bytearray | memoryview) -> str:
    return _CONTENT + hashlib.sha256(content).hexdigest()[:32]


def _pixels(image: Image.Image) -> bytes:
    return f"{image.mode} {image.size} ".encode() + image.tobytes()


def _ends_well(image: Image.Image) -> bool:
    """Whether the file ends as its format says; False where that cannot be told, too."""
    if image.format not in ("PNG", "JPEG", "MPO", "GIF", "WEBP") or image.fp is None:
        return False
    place = image.fp.tell()
    try:
        length = image.fp.seek(0, os.SEEK_END)
        image.fp.seek(max(0, length - 12))
        end = image.fp.read(12)
        if image.format == "WEBP":
            image.fp.seek(4)
            return struct.unpack("<I", image.fp.read(4))[0] + 8 <= length
    finally:
        image.fp.seek(place)
    return end.endswith({"PNG": b"\0\0\0\0IEND\xaeB`\x82", "GIF": b";"}.get(image.format, b"\xff\xd9"))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _stored_sideways(image) else (width, height)


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
