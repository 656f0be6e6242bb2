"""Options that several commands share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

DEBUG = "mlxtune.debug"
HINT = "mlxtune.hint"  # what to add to "interrupted", ": go on with …"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _keep_debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    # `meta` is one mapping for a command and its group: the option counts before and after the command's name.
    ctx.meta[DEBUG] = ctx.meta.get(DEBUG, False) or wanted


debug_option: Decorator = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_keep_debug, help="Show the stack trace of an error."
)
backend_option: Decorator = click.option(
    "--backend",
    type=click.Choice(["auto", "mlx", "torch"]),
    help="Instead of the recipe's; auto: MLX on Apple silicon, else torch.",
)
out_option: Decorator = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the run's folder is made, instead of the recipe's out.",
)
set_option: Decorator = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the recipe: --set train.steps=100. Repeatable.",
)
adapter_option: Decorator = click.option(
    "--adapter", type=click.Path(path_type=Path), metavar="DIR", help="A trained adapter; a run folder holds one in adapter/."
)


def own_name() -> str:
    """How this user calls the program: a command that is suggested should work when it is pasted."""
    called = Path(sys.argv[0])
    if shutil.which("mlxtune") or called.name != "mlxtune":
        return "mlxtune"
    return str(called)
