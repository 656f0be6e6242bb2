"""The files that other programs read, as types; the published JSON schemas beside this file are made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mlxtune.evaluate.schemas.benchmark_results import BenchmarkResults
from mlxtune.evaluate.schemas.error_analysis import ErrorAnalysis

__all__ = ["SCHEMAS", "BenchmarkResults", "ErrorAnalysis", "schema_of", "write_schemas"]

SCHEMAS: dict[str, type[BaseModel]] = {"error_analysis.json": ErrorAnalysis, "benchmark_results.json": BenchmarkResults}


def schema_of(file: str) -> dict[str, Any]:
    """The JSON schema of a file of the run folder, "error_analysis.json" or "benchmark_results.json"."""
    schema = SCHEMAS[file].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": file}


def write_schemas(folder: str | Path = Path(__file__).parent) -> None:
    """Writes error_analysis.schema.json and benchmark_results.schema.json into the folder."""
    for file in SCHEMAS:
        text = json.dumps(schema_of(file), ensure_ascii=False, indent=2) + "\n"
        (Path(folder) / file.replace(".json", ".schema.json")).write_text(text, encoding="utf-8")
