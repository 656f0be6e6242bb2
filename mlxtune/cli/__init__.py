"""The command line. Each command's imports stand inside it, so that `--help` and wrong arguments answer at once."""

from __future__ import annotations

from mlxtune.cli.program import program as main

__all__ = ["main"]
