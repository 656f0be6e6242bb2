"""``mlxtune ask``: one picture, one question, the answer as it is made."""

from __future__ import annotations

from pathlib import Path

import click

from mlxtune.cli.options import adapter_option, backend_option, debug_option


@click.command(short_help="Answer a question about a picture.")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--model", required=True, metavar="PATH", help="Model folder or hub id.")
@adapter_option
@backend_option
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer in tokens.")
@debug_option
def ask(image: Path, question: str, model: str, adapter: Path | None, backend: str | None, max_new_tokens: int) -> None:
    """Answer QUESTION about IMAGE; the answer alone goes to standard output.

    \b
    mlxtune ask chart.png "Which bar is the highest?" --model models/tiny-charts
    """
    from mlxtune.errors import DataError

    if not image.is_file():  # told before a model of gigabytes is loaded
        raise DataError(f"{image}: no such picture. Give the path of a PNG, JPEG or WebP file")
    if not question.strip():
        raise DataError("the question is empty. Ask about something that the picture shows")
    from mlxtune import inference
    from mlxtune.ui.text import clean

    runner = inference.load(model, adapter=adapter, backend=backend or "auto")
    for piece in runner.stream(image, question, max_new_tokens=max_new_tokens):
        click.echo(clean(piece), nl=False)
    click.echo()
