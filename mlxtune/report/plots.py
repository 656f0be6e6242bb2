"""Curves of a run as inline SVG: the same bytes for the same numbers, and colours that the page gives them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from markupsafe import Markup

from mlxtune.text import clean, name

_SIZE = (4.2, 2.3)  # inches; a page shows it as wide as its column
_POINTS = 600  # more steps than this are averaged before they are drawn
# Stand-ins for the page's colours: matplotlib knows no `currentColor`, and a page has two schemes.
_INK, _QUIET, _LINE, _MAIN, _SECOND = "#010101", "#010102", "#010103", "#010104", "#010105"
_THIRD, _FOURTH = "#010106", "#010107"
_COLOURS = {
    _INK: "var(--ink)",
    _QUIET: "var(--quiet)",
    _LINE: "var(--line)",
    _MAIN: "var(--plot1)",
    _SECOND: "var(--plot2)",
    _THIRD: "var(--plot3)",
    _FOURTH: "var(--plot4)",
}
_SERIES = (_MAIN, _SECOND, _THIRD, _FOURTH)
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

Line = Mapping[str, Any]


class Plot(NamedTuple):
    """svg: markup without foreign text in it, but for names that matplotlib has escaped. told: the plot in words."""

    title: str
    svg: Markup
    told: str


def run_plots(
    steps: Sequence[Line],
    looks: Sequence[Line],
    *,
    best_step: int | None,
    checkpoints: Sequence[int],
    scales: Mapping[str, float],
) -> list[Plot]:
    """Plots of train.jsonl and validation.jsonl: loss, learning rate, gradient norm, and the scores on the validation rows.

    best_step: whose adapter was kept. scales: of each metric, what a perfect answer scores.
    """
    if not steps:
        return []
    with _styled():
        return _run_plots(steps, looks, best_step=best_step, checkpoints=checkpoints, scales=scales)


def _run_plots(
    steps: Sequence[Line],
    looks: Sequence[Line],
    *,
    best_step: int | None,
    checkpoints: Sequence[int],
    scales: Mapping[str, float],
) -> list[Plot]:
    plots = [_loss(steps, looks, best_step=best_step, checkpoints=checkpoints)]
    if scored := _validation_scores(looks):
        plots.append(_scores(scored, scales=scales, best_step=best_step))
    plots.append(_single(steps, "learning_rate", "Learning rate", log=False))
    if any(step.get("grad_norm") is not None for step in steps):
        plots.append(_single(steps, "grad_norm", "Gradient norm before clipping", log=True))
    return plots


def compared_losses(runs: Sequence[tuple[str, Sequence[Line], Sequence[Line]]]) -> list[Plot]:
    """Losses of several runs in one plot each, for training and for validation. runs: (label, train.jsonl, validation.jsonl)."""
    with _styled():
        return _compared_losses(runs)


def _compared_losses(runs: Sequence[tuple[str, Sequence[Line], Sequence[Line]]]) -> list[Plot]:
    plots = []
    for place, key, title in ((1, "train", "Training loss"), (2, "validation", "Validation loss")):
        told = [(run[0], [(line["step"], line["loss"]) for line in run[place]]) for run in runs if run[place]]
        if not told:
            continue
        figure, axes = _figure()
        for number, (label, points) in enumerate(told):
            where, values = zip(*points, strict=True)
            if key == "train":
                where, values = _binned(where, smooth(values))
            style = {"marker": "o"} if key == "validation" else {}
            # Neighbours differ in dashes too: two backends that learn the same lie on top of each other.
            dashes = ("-", "--", ":", "-.")[(number + number // len(_SERIES)) % 4]
            colour = _SERIES[number % len(_SERIES)]
            axes.plot(where, values, color=colour, linestyle=dashes, label=f"run {name(label)}", **style)
        axes.set_xlabel("step")
        axes.legend()
        ends = "; ".join(f"run {label} ends at {points[-1][1]:.4f}" for label, points in told)
        plots.append(Plot(title, _svg(figure, f"compare-{key}"), ends))
    return plots


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about a thirtieth of the values, which forgets the older ones; it starts with the first.

    What is not finite leaves it where it was: one broken step would blot out all that follow.
    """
    share = 1 / max(3.0, len(values) / 30)
    kept: list[float] = []
    for value in values:
        if not kept or not math.isfinite(kept[-1]):
            kept.append(value)
        else:
            kept.append((1 - share) * kept[-1] + share * value if math.isfinite(value) else kept[-1])
    return kept


def _loss(steps: Sequence[Line], looks: Sequence[Line], *, best_step: int | None, checkpoints: Sequence[int]) -> Plot:
    figure, axes = _figure()
    where, values = [step["step"] for step in steps], [step["loss"] for step in steps]
    axes.plot(*_binned(where, values), color=_LINE, linewidth=1.0, zorder=1)
    axes.plot(*_binned(where, smooth(values)), color=_MAIN, label="training, smoothed", zorder=2)
    told = f"Training loss from {values[0]:.4f} to {smooth(values)[-1]:.4f} over {where[-1]:,} steps."
    if looks:
        seen, losses = zip(*((look["step"], look["loss"]) for look in looks), strict=True)
        axes.plot(seen, losses, color=_SECOND, marker="o", label="validation", zorder=3)
        told += f" Validation loss {losses[0]:.4f} at step {seen[0]:,}, {losses[-1]:.4f} at step {seen[-1]:,}."
    if best_step is not None:
        axes.axvline(best_step, color=_QUIET, linewidth=0.8, linestyle=(0, (3, 3)), label=f"kept: step {best_step:,}", zorder=0)
        told += f" The adapter of step {best_step:,} was kept."
    if checkpoints:
        bottom = axes.get_ylim()[0]
        axes.plot(checkpoints, [bottom] * len(checkpoints), "^", color=_QUIET, clip_on=False, label="checkpoint", zorder=4)
        axes.set_ylim(bottom=bottom)
    axes.set_xlabel("step")
    axes.legend()
    return Plot("Loss, nats per learned token", _svg(figure, "loss"), told)


def _validation_scores(looks: Sequence[Line]) -> dict[str, list[tuple[int, float]]]:
    scored: dict[str, list[tuple[int, float]]] = {}
    for look in looks:
        for metric, value in (look.get("scores") or {}).items():
            if value is not None:
                scored.setdefault(metric, []).append((look["step"], value))
    return scored


def _scores(scored: Mapping[str, list[tuple[int, float]]], *, scales: Mapping[str, float], best_step: int | None) -> Plot:
    figure, axes = _figure()
    ends = []
    for number, (metric, points) in enumerate(scored.items()):
        scale = scales.get(metric, 1.0)
        where, values = [step for step, _ in points], [100 * value / scale for _, value in points]
        axes.plot(where, values, color=_SERIES[number % len(_SERIES)], marker="o", label=name(metric))
        ends.append(f"{name(metric)} {values[-1]:.1f} at step {where[-1]:,}")
    if best_step is not None:
        axes.axvline(best_step, color=_QUIET, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    axes.set_xlabel("step")
    axes.legend()
    return Plot("Scores on the validation sample, points of 100", _svg(figure, "scores"), "; ".join(ends) + ".")


def _single(steps: Sequence[Line], key: str, title: str, *, log: bool) -> Plot:
    figure, axes = _figure()
    points = [(step["step"], step[key]) for step in steps if step.get(key) is not None]
    where, values = zip(*points, strict=True)
    axes.plot(*_binned(where, values), color=_MAIN)
    if log and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # its own are TeX, which would be shown as it is
    axes.set_xlabel("step")
    return Plot(
        title, _svg(figure, key.replace("_", "-")), f"From {values[0]:.3g}, at most {max(values):.3g}, to {values[-1]:.3g}."
    )


def _binned(where: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of equally long stretches where there are more points than a plot can show."""
    size = -(-len(where) // _POINTS)
    if size == 1:
        return list(where), list(values)
    starts = range(0, len(where), size)
    mean = [sum(values[i : i + size]) / len(values[i : i + size]) for i in starts]
    return [sum(where[i : i + size]) / len(where[i : i + size]) for i in starts], mean


@contextmanager
def _styled() -> Iterator[None]:
    """Nothing of the user's own settings for matplotlib reaches a report, and nothing of ours stays behind."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axes.yaxis.get_major_locator().set_params(nbins=5)
    return figure, axes


def _svg(figure: Any, key: str) -> Markup:
    """The figure without all that a page has no use for: prolog, metadata, sizes in points, a style sheet of its own."""
    import matplotlib as mpl

    stream = io.StringIO()
    # The salt makes ids the same in every run; the date would change with it.
    with mpl.rc_context({"svg.hashsalt": key}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>\s*", r"<style[^>]*>.*?</style>\s*", r"<!--.*?-->\s*"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib writes a viewBox"
    text = re.sub(
        r"<svg[^>]*>", f'<svg class="plot" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} aria-hidden="true">', text, count=1
    )
    # Several plots stand in one page: "figure_1" would be the id of each.
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{key}-", text)
    for colour, meaning in _COLOURS.items():
        text = text.replace(colour, meaning)
    return Markup(clean(text))  # matplotlib escapes the text that it is given
