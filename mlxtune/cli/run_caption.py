"""``mlxtune caption``: a folder of pictures in, an annotation file out."""

from __future__ import annotations

from pathlib import Path

import click

from mlxtune.cli.options import HINT, debug_option, own_name

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Describe new pictures of a folder, for training.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--names", type=_FILE, metavar="FILE", help="JSON: folder to name, or to {name, aliases, cases}.")
@click.option(
    "--with",
    "captioner",
    type=click.Choice(["gigachat", "openai", "local"]),
    help="Who describes them; default: the one whose credentials are set.",
)
@click.option("--model", metavar="NAME", help="Model of the captioner; for local a model folder or hub id.")
@click.option("--base-url", metavar="URL", help="Address of an OpenAI-compatible server, or of GigaChat.")
@click.option("--prompts", metavar="FILE|ru|en", help="JSON of prompts (base_prompts.json), or the built-in ones of a language.")
@click.option("--out", type=_FILE, metavar="FILE", help="Annotation file; default: annotations.jsonl beside FOLDER.")
@click.option("--captions", type=click.IntRange(min=0), default=2, show_default=True, help="Captions per picture.")
@click.option("--questions", type=click.IntRange(min=0), default=3, show_default=True, help="Questions with answers per picture.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Describe N pictures at most; 0 only takes edits over.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Pictures at once; default: openai 4, else 1.")
@click.option("--max-side", type=click.IntRange(min=32), default=1024, show_default=True, help="Pixels; larger ones are shrunk.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds until a request is given up."
)
@click.option("--retry-flagged/--keep-flagged", default=True, help="Ask once more where a caption lacks the name (default).")
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing, ask nobody.")
@debug_option
@click.pass_context
def caption(
    ctx: click.Context,
    folder: Path,
    names: Path | None,
    captioner: str | None,
    model: str | None,
    base_url: str | None,
    prompts: str | None,
    out: Path | None,
    captions: int,
    questions: int,
    limit: int | None,
    concurrency: int | None,
    max_side: int,
    timeout: float,
    retry_flagged: bool,
    dry_run: bool,
) -> None:
    """Describe the new pictures of FOLDER (one folder per class) and append to an annotation file.

    Known pictures are known by their content: renamed or moved ones are not described again.

    \b
    mlxtune caption data/images --names data/character_names.json --with gigachat --model GigaChat-2-Max
    mlxtune caption data/images --names data/character_names.json --dry-run
    """
    from rich.console import Console

    from mlxtune.caption import run
    from mlxtune.caption.registry import open_captioner
    from mlxtune.caption.view import CaptionView
    from mlxtune.errors import MlxtuneError

    ctx.meta[HINT] = ". Every answer that came is saved; the same command goes on"
    ask = run.Ask(captions, questions, retry_flagged, limit, concurrency, max_side)
    view = CaptionView(Console(highlight=False))
    try:
        outcome = run.caption(
            folder,
            captioner=lambda: open_captioner(captioner, model=model, base_url=base_url, timeout_s=timeout),
            names=names,
            prompts=prompts,
            out=out,
            ask=ask,
            dry_run=dry_run,
            watch=view,
        )
        view.finish(outcome, dry_run=dry_run, program=own_name())
    finally:
        view.close()
    if outcome.stopped:
        raise MlxtuneError(outcome.stopped)
