"""Pages: one self-contained HTML file each, made from templates that see foreign text as text only."""

from __future__ import annotations

from mlxtune.report.page import Thumbnail, clean_text, picture, render, thumbnail
from mlxtune.report.write import write_report

__all__ = ["Thumbnail", "clean_text", "picture", "render", "thumbnail", "write_report"]
