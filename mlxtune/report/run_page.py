"""The page of a run: contents into the template."""

from __future__ import annotations

from typing import Any

from mlxtune.metrics import METRICS
from mlxtune.report.answer import OWN, change_words, interval_words, set_answer, tone_of
from mlxtune.report.contents import BUCKETS, CONTROLS, Contents
from mlxtune.report.examples import filters, spoken
from mlxtune.report.page import render
from mlxtune.report.plots import run_plots
from mlxtune.text import memory, name, rate, value


def run_page(told: Contents) -> str:
    """HTML; `render` says what holds for every page."""
    scales = {metric.name: metric.scale for metric in METRICS.values()}
    best = told.results.get("best_step")
    return render(
        "report.html.j2",
        told=told,
        plots=run_plots(told.steps, told.looks, best_step=best, checkpoints=told.checkpoints, scales=scales),
        filters=filters(told.examples),
        **words(),
    )


def words() -> dict[str, Any]:
    """What templates of reports call."""
    return {
        "OWN": OWN,
        "BUCKETS": BUCKETS,
        "CONTROLS": CONTROLS,
        "METRICS": METRICS,
        "metric_name": name,
        "value": value,
        "memory": memory,
        "rate": rate,
        "spoken": spoken,
        "tone_of": tone_of,
        "change_words": change_words,
        "interval_words": interval_words,
        "set_answer": set_answer,
    }
