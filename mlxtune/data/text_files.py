"""Rows of text files: JSONL, JSON, CSV and TSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from mlxtune.data.base import SourceRow, listed
from mlxtune.data.json_stream import json_rows
from mlxtune.errors import DataError
from mlxtune.images import describe

OpenFile = Callable[[], BinaryIO]
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t"  # spreadsheets save what is called CSV with what their country uses


def read_jsonl(open_file: OpenFile, *, shown: str) -> Iterator[SourceRow]:
    with open_file() as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.removeprefix(_BOM).strip():
                where = f"{shown}:{number}"
                yield _row(_parse(text, where=where), where=where)


def read_json(open_file: OpenFile, *, shown: str) -> Iterator[SourceRow]:
    for number, item in enumerate(json_rows(open_file, shown=shown), start=1):
        yield _row(item, where=f"{shown}#{number}")


def read_csv(open_file: OpenFile, *, shown: str) -> Iterator[SourceRow]:
    yield from _separated(open_file, shown=shown, delimiters=_DELIMITERS)


def read_tsv(open_file: OpenFile, *, shown: str) -> Iterator[SourceRow]:
    yield from _separated(open_file, shown=shown, delimiters="\t")


def _separated(open_file: OpenFile, *, shown: str, delimiters: str) -> Iterator[SourceRow]:
    """delimiters: cells are parted by the one that is commonest in the first line."""
    csv.field_size_limit(2**31 - 1)  # 131,072 characters by default: too short for a picture as base64 text
    with io.TextIOWrapper(open_file(), encoding="utf-8-sig", newline="") as text:
        line = 0
        try:
            first = text.readline()
            rows = csv.reader(chain([first], text), delimiter=max(delimiters, key=first.count), strict=True)
            header = next(rows, [])
            if len(set(header)) != len(header):
                raise DataError(f"{shown}:1: a column's name stands twice in {listed(header)}. Give each column its own name")
            line = rows.line_num
            for cells in rows:
                where, line = f"{shown}:{line + 1}", rows.line_num
                if cells and len(cells) != len(header):
                    raise DataError(
                        f"{where}: {len(cells)} cells, but the header has {len(header)}. Mend the row; quote cells with commas"
                    )
                if cells:
                    yield SourceRow(where, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            raise DataError(
                f"{shown}:{line + 1}: not CSV ({error}). Quote cells that hold quotes, commas or line breaks"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{shown}: after line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8") from error


def _parse(text: bytes, *, where: str) -> Any:
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}). Mend or remove it") from error


def _row(value: Any, *, where: str) -> SourceRow:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object with named fields, not {describe(value)}. Mend or remove it")
    return SourceRow(where, value)
