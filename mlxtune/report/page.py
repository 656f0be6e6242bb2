"""Templates to pages. Foreign text is escaped and cleaned wherever it is put out; no template has to remember it."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup
from PIL import Image

from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.text import NOTHING, clean, count, duration, one_line, percent, place

clean_text = clean

_QUALITY = 80  # of JPEG thumbnails
_PLACEHOLDER = (240, 160)  # width, height in pixels
# Grey on nothing, so that it suits light and dark pages. The reason stands beside it in HTML, never in the drawing.
_DRAWING = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 160"><g fill="none" stroke="#8a8f98" stroke-width="3">'
    b'<rect x="82" y="50" width="76" height="60" rx="5"/><path d="M82 98l22-22 18 18 12-10 24 20M76 122l88-84"/></g></svg>'
)


class Thumbnail(NamedTuple):
    """A small picture for a page. width, height in pixels. problem: why the picture cannot be shown, else None."""

    uri: str
    width: int
    height: int
    problem: str | None


def render(template: str, **values: Any) -> str:
    """The page that `template` (a file of report/templates) makes of `values`: one file, no network, no script from data.

    Every text is cleaned (`mlxtune.text.clean`) and escaped, None is shown as "—", and a value that the template names but was
    not given raises jinja2.UndefinedError. A template that sets ``script`` to a file of report/templates gets that file as the
    page's only script; the page's security policy lets nothing else run.
    """
    return _environment().get_template(template).render(**values)


def thumbnail(image: ImageRef, *, side: int = 320) -> str:
    """`picture(image, side=side).uri`: a data URI."""
    return picture(image, side=side).uri


def picture(image: ImageRef, *, side: int = 320) -> Thumbnail:
    """`image` with at most `side` pixels a side, encoded anew (nothing of the file's EXIF, comments or profiles is left).

    JPEG or PNG, whichever is smaller. A picture that cannot be read gives a drawing and the reason in `problem`.
    """
    try:
        small = image.load()
    except DataError as error:
        return Thumbnail(_uri(_DRAWING, kind="svg+xml"), *_PLACEHOLDER, one_line(str(error), longest=400))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info = {}  # Pillow would write comments and colour profiles that the file brought along
    kinds = {"png": _encoded(small, format="PNG", optimize=True), "jpeg": _encoded(small, format="JPEG", quality=_QUALITY)}
    kind = min(kinds, key=lambda kind: len(kinds[kind]))
    return Thumbnail(_uri(kinds[kind], kind=kind), *small.size, None)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mlxtune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(clean=clean, count=count, duration=duration, one_line=one_line, percent=percent, place=place)
    environment.globals.update(asset=_asset, script_policy=_script_policy, picture_of=picture, NOTHING=NOTHING)
    return environment


def _shown(value: Any) -> Any:
    """What stands for a value in a page; Jinja escapes it afterwards unless it is Markup, which only our own files are."""
    if value is None:
        return NOTHING
    if isinstance(value, (Markup, Undefined)):
        return value
    return clean(value if isinstance(value, str) else str(value))


def _asset(name: str) -> Markup:
    """A file of report/templates as it is; never foreign text."""
    return Markup(files("mlxtune.report").joinpath("templates", name).read_text(encoding="utf-8"))


def _script_policy(name: str | None) -> str:
    """The ``script-src`` of a page: this one script, known by its hash, or nothing."""
    if not name:
        return "'none'"
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _encoded(image: Image.Image, **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, **settings)
    return out.getvalue()


def _uri(content: bytes, *, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
