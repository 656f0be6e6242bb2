"""``mlxtune finetune`` and ``mlxtune evaluate``: a recipe in, a run folder out."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mlxtune.cli.options import HINT, adapter_option, backend_option, debug_option, out_option, own_name, set_option


@click.command(short_help="Train an adapter, with the comparison before and after.")
@click.argument("recipe")
@backend_option
@click.option("--resume", is_flag=True, help="Go on with the last run of this recipe that did not end.")
@out_option
@set_option
@debug_option
@click.pass_context
def finetune(
    ctx: click.Context, recipe: str, backend: str | None, resume: bool, out: Path | None, overrides: tuple[str, ...]
) -> None:
    """Train an adapter by RECIPE (a YAML file), with the comparison before and after.

    \b
    mlxtune finetune recipes/charts-tiny.yaml
    mlxtune finetune recipes/charts-tiny.yaml --backend mlx --set train.epochs=1
    """
    from mlxtune.recipe import load_recipe, recipe_name

    spec = load_recipe(recipe, overrides=overrides)
    ctx.meta[HINT] = f". Go on with: {_resuming(recipe, backend=backend, out=out, overrides=overrides)}"
    from mlxtune import finetune as library
    from mlxtune.ui import watch

    with watch(program=own_name()) as observe:
        library.finetune(
            spec, name=recipe_name(recipe), recipe_path=Path(recipe), backend=backend, out=out, resume=resume, observe=observe
        )


@click.command(short_help="Score a model, or an adapter beside it, on the test rows.")
@click.argument("recipe")
@adapter_option
@backend_option
@out_option
@set_option
@debug_option
def evaluate(recipe: str, adapter: Path | None, backend: str | None, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Score RECIPE's model on the test rows. With --adapter it is asked without the adapter ("before") and with it
    ("after"), and both are compared. Nothing is trained.

    \b
    mlxtune evaluate recipes/charts-tiny.yaml
    mlxtune evaluate recipes/charts-tiny.yaml --adapter runs/NAME/adapter
    """
    from mlxtune.recipe import load_recipe, recipe_name

    spec = load_recipe(recipe, overrides=overrides)
    from mlxtune import finetune as library
    from mlxtune.ui import watch

    with watch(program=own_name()) as observe:
        library.evaluate_only(
            spec, name=recipe_name(recipe), recipe_path=Path(recipe), backend=backend, out=out, adapter=adapter, observe=observe
        )


def _resuming(recipe: str, *, backend: str | None, out: Path | None, overrides: tuple[str, ...]) -> str:
    options = ["--backend", backend] if backend else []
    options += ["--out", str(out)] if out else []
    options += [part for override in overrides for part in ("--set", override)]
    return shlex.join([own_name(), "finetune", recipe, *options, "--resume"])
