"""The group of all commands: options they share, and one place that turns errors into a line and an exit status."""

from __future__ import annotations

import traceback
from typing import Any

import click

from mlxtune import __version__
from mlxtune.cli.options import DEBUG, HINT, debug_option
from mlxtune.cli.run_ask import ask
from mlxtune.cli.run_caption import caption
from mlxtune.cli.run_data import data
from mlxtune.cli.run_list import list_group
from mlxtune.cli.run_recipe import evaluate, finetune
from mlxtune.cli.run_report import compare, report
from mlxtune.cli.run_score import score
from mlxtune.errors import MlxtuneError
from mlxtune.process import set_up_libraries

_USER_ERROR = 2
_INTERRUPTED = 130


class _Program(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MlxtuneError as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            _say_error(error)
            ctx.exit(_USER_ERROR)
        except KeyboardInterrupt:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            click.echo(f"\ninterrupted{ctx.meta.get(HINT, '')}", err=True)
            ctx.exit(_INTERRUPTED)


def _say_error(error: MlxtuneError) -> None:
    from mlxtune.ui.text import clean

    for line in str(error).splitlines():  # a recipe names all its problems at once
        click.echo(f"error: {clean(line)}", err=True)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mlxtune")
@debug_option
def program() -> None:
    """Fine-tunes vision-language models with LoRA on MLX and PyTorch, and compares before and after."""
    set_up_libraries()


for command in (finetune, evaluate, report, compare, score, data, caption, ask, list_group):
    program.add_command(command)
