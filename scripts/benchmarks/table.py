"""The Markdown page of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.figures import Line, Results, above, against, peers, same_answers, shares, step, whole
from benchmarks.sides import ANSWERERS, SIDES, TRAINERS

_NONE = "not measured"
_FAMILY = {"qwen2_5_vl": "Qwen2.5-VL", "smolvlm": "SmolVLM (Idefics3)"}


def page(
    results: Results, *, machine: Mapping[str, Any], families: Sequence[str], least: Mapping[str, Mapping[str, float]], cut: bool
) -> str:
    """cut: whether works were shortened; then the page says that it shows nothing."""
    parts = ["**A cut for trying the script out; no figure here means anything.**"] if cut else []
    parts += [_machine(machine, results)]
    for family in families:
        parts += [f"### {_FAMILY[family]}", _losses(results, family)]
        parts += [_training(results, family, work) for work in ("W1", "W2", "W3")]
        parts += [_answers(results, family), _targets(results, family, least[family])]
    parts += [_start(results), _growth(results), _failures(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _machine(machine: Mapping[str, Any], results: Results) -> str:
    versions = ", ".join(f"{name} {version or 'not there'}" for name, version in machine["versions"].items())
    rates = {name: results.flops(name) for name in ("mlx", "torch")}
    told = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items() if rate)
    loads = [line["load"] for line in results.of("time")]
    busy = f"load while timing {min(loads):.1f} to {max(loads):.1f}, median {median(loads):.1f}" if loads else "no timings"
    return (
        f"Machine: {machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['platform']}; Python {machine['python']}; threads: {machine['threads'] or 'as each library takes'}; "
        f"MLX with {machine['mlx_blas']}; {busy}. Matrix product in the same run: {told or _NONE}. {versions}."
    )


def _losses(results: Results, family: str) -> str:
    rows = []
    for side in TRAINERS:
        found = results.of("check", side=side, family=family)
        if found:
            line = found[-1]
            rows.append([_named(side), f"{line['losses'][0]:.5f}", f"{line['trainable']:,}"])
    text = table(["first loss on the same four rows", "nats", "trained weights"], rows) if rows else ""
    return "\n\n".join([text, *(_leak(line) for line in results.of("leak", family=family))])


def _leak(line: Line) -> str:
    change, largest = (line["figures"][key] for key in ("change", "largest"))
    verdict = "its model is causal" if change < 1e-4 else "**its model reads what it is to answer**: no mask keeps it back"
    return (
        f"{SIDES[line['side']].title}, another last word in the answer: logits before it change by {change:.2g} at most "
        f"(the largest is {largest:.2g}); {verdict}."
    )


def _named(side: str) -> str:
    framework = {"mlx": "MLX", "torch": "torch"}[SIDES[side].framework]
    name = f"{SIDES[side].title} ({framework})"
    return f"**{name}**" if SIDES[side].ours else name


def _training(results: Results, family: str, work: str) -> str:
    rows = []
    for side in TRAINERS:
        times = [whole(line) for line in results.of("time", side=side, family=family, work=work)]
        if times:
            span = f"{min(times):.1f} – {max(times):.1f} ({len(times)})"
            first = results.middle(side, family, work, lambda line: line["first_step_s"])
            row = [
                _named(side),
                f"{median(times):.1f}",
                span,
                _number(first),
                _number(results.middle(side, family, work, step), 3),
            ]
            rows.append([*row, _mega(results.middle(side, family, work, above)), _mega(_lean(results, side, family, work))])
    heads = [f"{work}: whole run, s", "median", "range (runs)", "first step after", "a step, s", "MB above the model"]
    return table([*heads, "with gradient checkpointing"], rows) if rows else ""


def _lean(results: Results, side: str, family: str, work: str) -> float | None:
    found = [above(line) for line in results.of("lean", side=side, family=family, work=work)]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _answers(results: Results, family: str) -> str:
    rows = []
    for side in ANSWERERS:
        seconds = results.middle(side, family, "G1", whole)
        if seconds is not None:
            same = same_answers(results, side, "transformers-one", family)
            told = f"{same[0]} of {same[1]}" if same else _NONE
            rows.append([_named(side), f"{seconds:.1f}", _mega(results.middle(side, family, "G1", above)), told])
    heads = ["G1: 200 questions, 50 pictures", "whole run, s", "MB above the model", "answers as transformers one by one"]
    return table(heads, rows) if rows else ""


def _targets(results: Results, family: str, least: Mapping[str, float]) -> str:
    rows = [
        _ratio(results, f"{label}, {work}, {what}", side, TRAINERS, family, work, figure, wanted)
        for label, side, wants in (
            ("MLX", "mlxtune-mlx", {"W1": 3.0, "W2": 5.0, "W3": 2.0}),
            ("torch", "mlxtune-torch", {"W1": 1.6, "W2": 3.0, "W3": 1.4, "W2 step": 5.0}),
        )
        for key, wanted in wants.items()
        for work, what, figure in [(key[:2], "a step" if "step" in key else "whole run", step if "step" in key else whole)]
    ]
    for side in ("mlxtune-mlx", "mlxtune-torch"):
        rows += [_memory(results, side, family, work) for work in ("W2", "W3")]
    for side, other, wanted in (
        ("mlxtune-mlx-answers", "mlx-vlm-one", 4.0),
        ("mlxtune-mlx-answers", "mlx-vlm-batch", 3.0),
        ("mlxtune-torch-answers", "transformers-one", 2.5),
        ("mlxtune-torch-answers", "transformers-batch", 1.8),
    ):
        found = against(results, side, [other], family, "G1", whole)
        label = f"{SIDES[side].framework}, G1 against {SIDES[other].title}"
        rows.append([label, f"≥ {wanted}×", f"{found[0]:.1f}×" if found else _NONE])
    for side in ("mlxtune-mlx", "mlxtune-torch"):
        rows += _shares(results, side, family, least)
    return table(["figure", "wanted", "measured"], rows)


def _ratio(
    results: Results, label: str, side: str, among: Sequence[str], family: str, work: str, figure: Callable, wanted: float
) -> list[str]:
    found = against(results, side, peers(side, among), family, work, figure)
    return [label, f"≥ {wanted}× faster", f"{found[0]:.1f}× (than {SIDES[found[1]].title})" if found else _NONE]


def _memory(results: Results, side: str, family: str, work: str) -> list[str]:
    """Everybody's leanest run, with gradient checkpointing or without."""

    def leanest(name: str) -> float | None:
        found = (results.middle(name, family, work, above), _lean(results, name, family, work))
        return min((value for value in found if value is not None), default=None)

    ours = leanest(side)
    theirs = {name: value for name in peers(side, TRAINERS) if (value := leanest(name)) is not None}
    told = _NONE
    if ours and theirs:
        other = min(theirs, key=lambda name: theirs[name])
        told = f"{100 * ours / theirs[other]:.0f} % ({_mega(ours)} MB; {SIDES[other].title} {_mega(theirs[other])})"
    return [f"{SIDES[side].framework}, {work}, leanest run's memory above the model, of the leanest peer's", "≤ 45 %", told]


def _shares(results: Results, side: str, family: str, least: Mapping[str, float]) -> list[list[str]]:
    framework = SIDES[side].framework
    rate = results.flops(framework)
    vision = [
        line["rows"] / 4 * least["picture"] / line["vision_s"]
        for line in results.of("time", side=side, family=family, work="W2")
        if line["vision_s"]
    ]
    beside, fastest = shares(results, framework, family, least["step"])
    told = _NONE
    if beside:
        told = f"{_percent(median(beside))} ({_percent(median(fastest))} of the fastest product; {len(beside)} steps)"
    pass_told = _percent(median(vision) / rate) if rate and vision else _NONE
    return [
        [f"{framework}, share of the limit, a step of W2, by the products before and after it", "≥ 55 %", told],
        [f"{framework}, share of the limit, vision pass of W2 (decoding and writing included)", "≥ 45 %", pass_told],
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _start(results: Results) -> str:
    rows = []
    for backend in ("mlx", "torch"):
        found = [line["seconds"] for line in results.of("start", key=backend)]
        if found:
            rows.append([backend, f"{median(found):.1f}", f"{min(found):.1f} – {max(found):.1f} ({len(found)})", "≤ 6 s"])
    return table(["time to first step, default recipe", "median, s", "range (runs)", "wanted"], rows) if rows else ""


def _growth(results: Results) -> str:
    rows = []
    for side in ("mlxtune-mlx", "mlxtune-torch"):
        before = None
        for line in sorted(results.of("growth", side=side), key=lambda line: line["rows"]):
            own = line["done_s"] - line["loaded_s"]
            row = [_named(side), f"{line['rows']:,}", f"{line['done_s']:.1f}", f"{own:.1f}"]
            peak = line["memory"]["peak"]
            row += [
                f"{own / before[0]:.2f}×" if before else "",
                _mega(peak),
                f"{100 * (peak / before[1] - 1):+.1f} %" if before else "",
            ]
            rows.append([*row, _mega(line["memory"]["peak_resident"])])
            before = (own, peak)
    heads = [
        "growth",
        "rows",
        "whole run, s",
        "after loading, s",
        "against half the rows",
        "peak, MB",
        "against half",
        "resident, MB",
    ]
    return table(heads, rows) if rows else ""


def _failures(results: Results) -> str:
    found = {(line["part"], line["key"]): line["error"].strip().splitlines()[-1:] for line in results.errors()}
    rows = [[part, key, (error or ["no word"])[0][:160].replace("|", "/")] for (part, key), error in found.items()]
    return table(["does not run", "what", "last line"], rows) if rows else ""


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mega(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:,.0f}"
