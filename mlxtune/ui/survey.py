"""What `mlxtune data` shows: tables, warnings and a few examples on a terminal, the same as plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlxtune.survey import Frequent, Sample, SplitFacts, Spread, Survey, messages_text
from mlxtune.ui.text import NOTHING, clean, count, name, one_line, percent, place
from mlxtune.ui.thumbnail import Thumbnail, shows_pictures

_NARROW = 80  # columns below which pictures stand above their text
_MOST = 6  # values of a column that are told
_LONGEST = 40  # characters of such a value
_PICTURES = 4  # of one row


def show(survey: Survey, console: Console, *, examples: int = 3, files: Mapping[str, Path] | None = None) -> None:
    """examples: how many samples of the first split are shown. files: those that were written, by what they hold; told last."""
    chosen = _spread_over(survey.splits, examples)
    if console.is_interactive:
        _Terminal(console).show(survey, chosen, files=files or {})
    else:
        _Lines(console).show(survey, chosen, files=files or {})


# -- what is told ------------------------------------------------------------------------------------------------------


def heading(survey: Survey) -> str:
    return f"{one_line(survey.name)}: {one_line(place(survey.data))} (task {one_line(survey.task)})"


def numbers(survey: Survey) -> list[tuple[str, list[str]]]:
    """(label, a cell for each split), without the rows that are 0 everywhere."""
    splits = survey.splits
    rows: list[tuple[str, list[str]]] = [("from", [one_line(survey.origins[split.name]) for split in splits])]
    counts = {
        "rows": [split.rows for split in splits],
        "drawn again": [split.redrawn for split in splits],
        "pictures": [split.pictures.count for split in splits],
        "without a picture": [split.text_only for split in splits],
        "several pictures": [split.several_pictures for split in splits],
        "several answers": [split.several_answers for split in splits],
        "with options": [split.with_choices for split in splits],
        "several turns": [split.several_turns for split in splits],
        "asked again": [split.repeated for split in splits],
    }
    rows += [(label, [f"{number:,}" for number in cells]) for label, cells in counts.items() if label == "rows" or any(cells)]
    rows.append(("different answers", [_distinct(split.answers) for split in splits]))
    rows += [
        ("question, words", [_spread(split.question.words) for split in splits]),
        ("question, characters", [_spread(split.question.characters) for split in splits]),
        ("answer, words", [_spread(split.answer.words) for split in splits]),
        ("answer, characters", [_spread(split.answer.characters) for split in splits]),
    ]
    if any(split.pictures.width for split in splits):
        rows += [
            ("picture, width", [_spread(split.pictures.width) for split in splits]),
            ("picture, height", [_spread(split.pictures.height) for split in splits]),
        ]
    if tokens := survey.model.tokens:
        told = [tokens[split.name] for split in splits]
        rows += [
            ("tokens of a picture", [_spread(one.pictures) for one in told]),
            ("tokens of a sampled row", [_spread(one.whole) for one in told]),
            ("tokens of a sampled answer", [_spread(one.answers) for one in told]),
        ]
    return rows


def shares(survey: Survey) -> Iterator[tuple[str, str, str]]:
    """(what is counted, the split, its most frequent values with their shares)."""
    groups = [("answers", lambda split: split.answers)]
    groups += [(one_line(key, longest=_LONGEST), lambda split, key=key: split.meta.get(key)) for key in survey.kinds]
    groups += [
        ("picture shapes", lambda split: split.pictures.shapes),
        ("picture sizes", lambda split: split.pictures.frequent_sizes),
        ("picture formats", lambda split: split.pictures.kinds),
    ]
    for label, values_of in groups:
        for split in survey.splits:
            values = values_of(split)
            if values and values.values:
                yield label, name(split.name), _frequent(values)


def facts_of(sample: Sample) -> list[tuple[str, str]]:
    example = sample.example
    lines = [("question", one_line(example.question, longest=600))]
    lines += [(f"  {one_line(letter)}", one_line(text, longest=200)) for letter, text in example.choices.items()]
    lines.append(("answer", one_line(example.target, longest=600)))
    if len(example.references) > 1:
        lines.append(("also right", one_line(" · ".join(example.references[1:]), longest=300)))
    if example.meta:
        lines.append(("about", one_line(" · ".join(f"{key} {value}" for key, value in example.meta.items()), longest=200)))
    where = f" ({sample.where})" if sample.where and sample.where != example.id else ""
    return [*lines, ("row", one_line(f"{example.id}{where}", longest=300))]


def prompt_of(survey: Survey) -> tuple[str, str]:
    """(heading, text)."""
    if survey.model.prompt is not None:
        return "a prompt as the model gets it", clean(survey.model.prompt).rstrip()
    first = survey.splits[0].samples[0].example
    return "a row as it goes to the chat template", clean(messages_text(first))


def _spread_over(splits: Sequence[SplitFacts], number: int) -> list[Sample]:
    samples = splits[0].samples if splits else ()
    number = min(number, len(samples))
    return [samples[place * len(samples) // number] for place in range(number)]


def _spread(numbers: Spread | None) -> str:
    if numbers is None:
        return NOTHING
    if numbers.least == numbers.most:
        return f"{numbers.median:,}"
    return f"{numbers.median:,} ({numbers.least:,}–{numbers.most:,}, p95 {numbers.p95:,})"


def _distinct(values: Frequent) -> str:
    return "very many" if values.distinct is None else count(values.distinct)


def _frequent(values: Frequent) -> str:
    told = [f"{one_line(item.value, longest=_LONGEST)} ({percent(item.share)})" for item in values.values[:_MOST]]
    rest = None if values.distinct is None else values.distinct - len(told)
    more = " · and many more" if rest is None else f" · and {rest:,} more" if rest else ""
    return " · ".join(told) + more


# -- a terminal --------------------------------------------------------------------------------------------------------


class _Terminal:
    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, survey: Survey, samples: Sequence[Sample], *, files: Mapping[str, Path]) -> None:
        self._print(Text(heading(survey), style="bold"))
        self._print(self._table(survey))
        self._print(self._shares(survey))
        title, text = prompt_of(survey)
        self._print(Text())
        self._print(Panel(Text(text), title=title, title_align="left", border_style="dim", box=box.ROUNDED))
        for sample in samples:
            self._print(self._sample(sample))
        self._print(Text())
        if survey.model.note:
            self._print(Text.assemble(("note ", "yellow"), one_line(survey.model.note, longest=1000)))
        for skips in survey.skipped:
            self._print(Text.assemble(("left out ", "bold yellow"), f"{skips.count:,}: {one_line(skips.reason)}"))
            for message in skips.messages:
                self._print(Padding(Text(one_line(message, longest=400), style="dim"), (0, 0, 0, 9)))
        for advice in survey.advice:
            self._print(Text.assemble(("warning ", "bold yellow"), one_line(advice.text, longest=1000)))
            self._print(Padding(Text(one_line(advice.remedy, longest=1000), style="dim"), (0, 0, 0, 8)))
        if not survey.advice and not survey.skipped:
            self._print(Text("nothing stands out", style="green"))
        for what, file in files.items():
            # soft_wrap: a path that is broken over two lines cannot be copied.
            self._console.print(Text.assemble((f"{what:<9}", "bold"), place(file)), soft_wrap=True)

    def _print(self, what: RenderableType) -> None:
        self._console.print(what, highlight=False)

    def _table(self, survey: Survey) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for split in survey.splits:
            table.add_column(Text(name(split.name)), justify="right", overflow="fold")
        for label, cells in numbers(survey):
            table.add_row(Text(label, style="dim"), *map(Text, cells))
        return table

    def _shares(self, survey: Survey) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        told = ""
        for label, split, text in shares(survey):
            grid.add_row(Text("" if label == told else label), Text(split), Text(text))
            told = label
        return grid

    def _sample(self, sample: Sample) -> RenderableType:
        words = Table.grid(padding=(0, 1))
        words.add_column(style="dim", no_wrap=True)
        words.add_column(overflow="fold")
        for label, text in facts_of(sample):
            words.add_row(Text(label), Text(text, style="bold" if label == "answer" else ""))
        if not sample.example.images or not shows_pictures(self._console):
            return Padding(words, (1, 0, 0, 0))
        narrow = self._console.width < _NARROW
        columns = max(8, (self._console.width - 2) if narrow else self._console.width // 3)
        shots = [Thumbnail(image, columns=min(columns, 44), rows=12) for image in sample.example.images[:_PICTURES]]
        if narrow:
            return Padding(Group(*shots, words), (1, 0, 0, 0))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=min(columns, 44))
        grid.add_column(overflow="fold")
        grid.add_row(Group(*shots), words)
        return Padding(grid, (1, 0, 0, 0))


# -- a log or a pipe ---------------------------------------------------------------------------------------------------


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, survey: Survey, samples: Sequence[Sample], *, files: Mapping[str, Path]) -> None:
        self._line(heading(survey))
        self._table(
            [("", *(name(split.name) for split in survey.splits)), *((label, *cells) for label, cells in numbers(survey))]
        )
        self._line()
        for label, split, text in shares(survey):
            self._line(f"{label} of {split}: {text}")
        self._line()
        title, text = prompt_of(survey)
        self._line(f"{title}:")
        for line in text.splitlines():
            self._line(f"    {one_line(line, longest=1000)}")
        for sample in samples:
            self._line()
            for label, words in facts_of(sample):
                self._line(f"{label:<12}{words}")
        self._line()
        if survey.model.note:
            self._line(f"note: {one_line(survey.model.note, longest=1000)}")
        for skips in survey.skipped:
            self._line(f"left out {skips.count:,}, {one_line(skips.reason)}:")
            for message in skips.messages:
                self._line(f"    {one_line(message, longest=400)}")
        for advice in survey.advice:
            self._line(f"warning: {one_line(advice.text, longest=1000)}. {one_line(advice.remedy, longest=1000)}")
        if not survey.advice and not survey.skipped:
            self._line("nothing stands out")
        for what, file in files.items():
            self._line(f"{what}: {place(file)}")

    def _line(self, text: str = "") -> None:
        # soft_wrap: a log's lines are as long as they are. highlight, markup: numbers and "[bold]" are only text here.
        self._console.print(Text(text), soft_wrap=True, highlight=False, markup=False)

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *rest in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
            self._line("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
