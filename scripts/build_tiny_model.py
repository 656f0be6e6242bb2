"""Trains a 2.5 M-parameter Qwen2.5-VL from random weights on drawn charts, and writes it in the published layout.

The model answers questions about charts in whole sentences, never with a single word, and never sees the question kind
`threshold`: both are left for fine-tuning to teach. Rows are packed: one image prefix, then several questions; a token
sees the prefix and its own question. The data of step k depend on the seed and on k alone: `--resume` goes on exactly.

    python scripts/build_tiny_model.py --out models/tiny-charts
"""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import tiny_model_files as files
import torch
from draw_charts import COLORS, HEIGHT, HELD_BACK, KINDS, SERIES, WIDTH, WORDS, Chart, Question, describe, draw, places
from rich.console import Console
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

COLUMNS, ROWS, SINGLE, TURN = files.COLUMNS, files.ROWS, files.SINGLE, files.TURN
PATCH, MERGE = files.PATCH, files.MERGE
SCHOOLED = {kind: weight for kind, weight in KINDS.items() if kind != HELD_BACK}
console = Console()


class Rows(NamedTuple):
    """A step's rows. Positions are M-RoPE's (time, height, width); `group` is 0 in the prefix, -1 in padding."""

    pixels: torch.Tensor  # [B * 192, 1176] float32
    ids: torch.Tensor  # [B, S] int64
    positions: torch.Tensor  # [3, B, S] int64
    group: torch.Tensor  # [B, S] int64, question number from 1
    targets: torch.Tensor  # [B, S] int64: the next token where it is supervised, else -100
    hints: torch.Tensor  # [B, 48, N_HINTS] int64, see `Hints`
    kinds: list[list[str]]  # [B][question]


def patches(chart: Chart) -> np.ndarray:
    """[192, 1176] float32: normalised patches in the order of Qwen2VLImageProcessor (2 x 2 patches lie together)."""
    image = (np.asarray(chart.image, np.float32) / 255 - np.float32(files.MEAN)) / np.float32(files.STD)  # [H, W, C]
    image = np.broadcast_to(image.transpose(2, 0, 1), (2, 3, HEIGHT, WIDTH))
    grid = image.reshape(2, 3, ROWS // MERGE, MERGE, PATCH, COLUMNS // MERGE, MERGE, PATCH)
    return grid.transpose(2, 5, 3, 6, 1, 0, 4, 7).reshape(ROWS * COLUMNS, 3 * 2 * PATCH * PATCH)


HINT_WEIGHT = 0.5
HINTS = {"word": len(WORDS + SERIES), "color": len(COLORS)}  # number of classes
HINTS |= {f"value {row}": 11 for row in range(3)} | {f"extreme {row}": 4 for row in range(3)}


def hints_of(chart: Chart) -> np.ndarray:
    """[48, 8] int64: what the words in the image's cells stand for, -100 where there is nothing to say."""
    content, found = chart.content, np.full((files.N_IMAGE, len(HINTS)), -100)
    for index, (word, x, y) in enumerate(places(content)):
        cell = found[y // (PATCH * MERGE) * (COLUMNS // MERGE) + x // (PATCH * MERGE)]
        cell[0] = (WORDS + SERIES).index(word)
        column = index < len(content.categories)
        if content.form in ("bar", "pie") or not column:
            cell[1] = list(COLORS).index(content.colors[index if column else index - len(content.categories)])
        for row, values in enumerate(content.values if column else ()):
            cell[2 + row] = values[index] // 10
            cell[5 + row] = (values[index] == max(values)) + 2 * (values[index] == min(values))
    return found


class Packer:
    """Turns charts into packed rows; picklable, so that a worker process can draw the next step's charts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad = tokenizer.token_to_id("<|endoftext|>")
        self.image = tokenizer.token_to_id("<|image_pad|>")
        self.head = self.encode(files.HEAD)
        self.prefix = [*self.head, *[self.image] * files.N_IMAGE, tokenizer.token_to_id("<|vision_end|>")]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prefix_positions(self) -> np.ndarray:
        """[3, P]: text counts up, the image's tokens share one time, text after it goes on past the longest side."""
        start, height, width = len(self.head), ROWS // MERGE, COLUMNS // MERGE
        cell = np.indices((1, height, width)).reshape(3, -1) + start
        text = np.broadcast_to(np.arange(start), (3, start))
        return np.concatenate([text, cell, np.full((3, 1), start + max(height, width))], axis=1)

    def row(self, chart: Chart, rng: random.Random) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """ids [S], positions [3, S], group [S], targets [S] of one image with its description and questions."""
        series = rng.randrange(len(chart.content.values))
        subject = chart.content.series[series] if chart.content.series else "the chart"
        turns = [(f"Describe {subject}.", describe(chart.content, series, rng))]
        suffixes = ("", "", SINGLE, SINGLE, files.BRIEF)
        turns += [(q.query + rng.choice(suffixes), q.sentence) for q in chart.questions]
        before = self.prefix_positions()
        ids, positions, group, targets = [self.prefix], [before], [0] * before.shape[1], [-100] * before.shape[1]
        for number, (query, answer) in enumerate(turns, start=1):
            asked, said = self.encode(query + TURN), self.encode(answer + "<|im_end|>")
            ids.append(asked + said)
            place = before[:, -1:] + 1 + np.arange(len(asked) + len(said))
            positions.append(np.broadcast_to(place, (3, place.shape[1])))
            group += [number] * len(ids[-1])
            targets += [-100] * (len(asked) - 1) + said + [-100]
        return np.concatenate(ids), np.concatenate(positions, axis=1), np.array(group), np.array(targets)

    def pack(self, charts: list[Chart], rng: random.Random) -> Rows:
        rows = [self.row(chart, rng) for chart in charts]
        width = -(-max(len(row[0]) for row in rows) // 16) * 16

        def stack(part: int, fill: int) -> torch.Tensor:
            padded = [np.pad(r[part], [(0, 0)] * (r[part].ndim - 1) + [(0, width - len(r[0]))],
                             constant_values=fill) for r in rows]  # fmt: skip
            return torch.from_numpy(np.stack(padded).astype(np.int64))

        pixels = torch.from_numpy(np.concatenate([patches(chart) for chart in charts]))
        kinds = [["describe", *(q.kind for q in chart.questions)] for chart in charts]
        hints = torch.from_numpy(np.stack([hints_of(chart) for chart in charts]))
        return Rows(pixels, stack(0, self.pad), stack(1, 0).transpose(0, 1), stack(2, -1), stack(3, -100), hints, kinds)


class Schooling(torch.utils.data.Dataset[Rows]):
    """Item k is step k's rows: a function of the seed and k alone."""

    def __init__(self, packer: Packer, *, seed: int, split: str, images: int, questions: int, steps: int) -> None:
        self.packer, self.seed, self.split = packer, seed, split
        self.images, self.questions, self.steps = images, questions, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Rows:
        rng = random.Random(f"{self.seed}-{self.split}-{step}")
        kinds = {"split": self.split, "questions": self.questions, "kinds": SCHOOLED}
        return self.packer.pack([draw(rng, **kinds) for _ in range(self.images)], rng)


class Seen(NamedTuple):
    """Logits [N, V] and targets [N] of the supervised places only; image features [B * 48, 160]."""

    logits: torch.Tensor
    targets: torch.Tensor
    features: torch.Tensor


def answer_rows(model: Qwen2_5_VLForConditionalGeneration, rows: Rows) -> Seen:
    # The 3-d convolution is a matrix product, which CPUs do much faster (its backward above all).
    model.model.visual.patch_embed.forward = lambda x: functional.linear(x, patch_weight)
    patch_weight = model.model.visual.patch_embed.proj.weight.flatten(1)
    grid = torch.tensor([[1, ROWS, COLUMNS]]).expand(len(rows.ids), 3)
    features = torch.cat(list(model.model.get_image_features(rows.pixels, grid).pooler_output))
    embedded = model.get_input_embeddings()(rows.ids)
    is_image = (rows.ids == model.config.image_token_id)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(is_image, features.to(embedded.dtype))
    group = rows.group
    seen = (group[:, None, :] == 0) | (group[:, None, :] == group[:, :, None])
    mask = torch.tril(seen)[:, None]
    hidden = model.model.language_model(
        inputs_embeds=embedded, position_ids=rows.positions, attention_mask={"full_attention": mask}, use_cache=False
    ).last_hidden_state
    supervised = rows.targets != -100
    return Seen(model.lm_head(hidden[supervised]), rows.targets[supervised], features)


def hint_loss(features: torch.Tensor, hints: torch.Tensor, words: torch.Tensor, probe: torch.nn.Linear) -> torch.Tensor:
    """Teaches the vision tower directly what the words of the picture stand for; `probe` is thrown away afterwards.

    `words` are the embeddings of the words [16, 160]: an image token comes to resemble the word drawn in it, so the
    language model finds the place that a question names with the attention it uses for text.
    """
    logits = torch.cat([features @ words.T, probe(features)], dim=-1).float().split(list(HINTS.values()), dim=-1)
    losses = [functional.cross_entropy(part, hints[..., k].flatten(), ignore_index=-100) for k, part in enumerate(logits)]
    return torch.stack([loss for loss in losses if loss.isfinite()]).mean()


def make_optimizers(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks and merger; AdamW for embeddings, the patch projection, norms and biases."""
    inner = re.compile(r"(layers|blocks|merger)\..*weight")
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and inner.search(name)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def lr_scale(step: int, steps: int, warmup: int = 100) -> float:
    """Warm-up, a plateau, then half a cosine down to 0 over the last 60 % of the steps."""
    falling = max(0.0, step / steps - 0.4) / 0.6
    return float(min(1.0, (step + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * falling)))


@torch.no_grad()
def sentence_accuracy(model: Qwen2_5_VLForConditionalGeneration, packer: Packer) -> dict[str, float]:
    """Share of held-out answers that greedy decoding would give word for word, per kind."""
    held_out = Schooling(packer, seed=1, split="validation", images=48, questions=6, steps=4)
    right: dict[str, list[bool]] = defaultdict(list)
    for rows in (held_out[step] for step in range(len(held_out))):
        logits, targets, _ = answer_rows(model, rows)
        hit = torch.zeros_like(rows.targets)
        hit[rows.targets != -100] = (logits.argmax(-1) == targets).long()
        for row, kinds in enumerate(rows.kinds):
            for number, kind in enumerate(kinds, start=1):
                place = (rows.group[row] == number) & (rows.targets[row] != -100)
                right[kind].append(bool(hit[row][place].all()))
    kinds = {kind: float(np.mean(right[kind])) for kind in SCHOOLED}
    return kinds | {"all questions": float(np.mean([x for kind in SCHOOLED for x in right[kind]]))}


def say(label: str, scores: dict[str, float]) -> None:
    console.print(f"{label}  " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()), highlight=False)


class Run:
    """Model, optimizers and step count, with checkpoints in `work`."""

    def __init__(self, packer: Packer, *, work: Path, layout: Path, lr: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(layout)).float()
        self.packer, self.work, self.lr, self.seed, self.step = packer, work, lr, seed, 0
        self.probe = torch.nn.Linear(self.model.config.text_config.hidden_size, sum(HINTS.values()) - HINTS["word"])
        self.words = torch.tensor([packer.encode(" " + word) for word in WORDS + SERIES])[:, 0]
        self.optimizers = make_optimizers(torch.nn.ModuleList([self.model, self.probe]), lr)

    def save(self) -> None:
        state = {"step": self.step, "model": self.model.state_dict(), "probe": self.probe.state_dict()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save(state, self.work / "latest.tmp")
        (self.work / "latest.tmp").replace(self.work / "latest.pt")

    def load(self) -> None:
        state = torch.load(self.work / "latest.pt", weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.probe.load_state_dict(state["probe"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def update(self, rows: Rows, scale: float) -> tuple[float, float]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * scale
        with torch.autocast("cpu", torch.bfloat16):
            seen = answer_rows(self.model, rows)
            hint = hint_loss(seen.features, rows.hints, self.model.get_input_embeddings()(self.words), self.probe)
        loss = functional.cross_entropy(seen.logits.float(), seen.targets)
        (loss + HINT_WEIGHT * hint).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item(), hint.item()

    def train(self, steps: int, *, images: int, questions: int, time_limit: float, every: int) -> None:
        data = Schooling(self.packer, seed=self.seed, split="schooling", images=images, questions=questions, steps=steps)
        ahead = torch.utils.data.DataLoader(data, batch_size=None, sampler=range(self.step, steps), num_workers=1)
        begin, losses = time.monotonic(), []
        for rows in ahead:
            losses.append(self.update(rows, lr_scale(self.step, steps)))
            if self.step % 50 == 0:
                loss, hint = np.mean(losses[-50:], axis=0)
                say(f"step {self.step}", {"loss": loss, "hint": hint, "s": time.monotonic() - begin})
            if self.step % every == 0 or self.step == steps:
                say(f"step {self.step}", sentence_accuracy(self.model, self.packer))
                self.save()
            if time.monotonic() - begin > time_limit:
                break
        self.save()


def content_of(answer: str, label: str) -> str | None:
    """The short answer inside a sentence: its first number, color or category, whichever kind `label` is."""
    words = re.findall(r"\w+", answer.lower())
    kinds = ([str(n) for n in range(101)], [c.lower() for c in COLORS], [w.lower() for w in WORDS], ["yes", "no"])
    kind = next(kind for kind in kinds if label.lower() in kind)
    return next((word for word in words if word in kind), None)


def generate(model: Qwen2_5_VLForConditionalGeneration, packer: Packer, charts: list[Chart]) -> Iterator[str]:
    """Greedy answers to the single question of each chart, asked with ChartQA's suffix."""
    prompts = [packer.prefix + packer.encode(chart.questions[0].query + SINGLE + TURN) for chart in charts]
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[packer.pad] * (width - len(prompt)) + prompt for prompt in prompts])
    written = model.generate(
        input_ids=ids, attention_mask=(ids != packer.pad).long(), mm_token_type_ids=(ids == packer.image).int(),
        pixel_values=torch.from_numpy(np.concatenate([patches(chart) for chart in charts])),
        image_grid_thw=torch.tensor([[1, ROWS, COLUMNS]] * len(charts)), max_new_tokens=24, do_sample=False,
    )  # fmt: skip
    return (packer.tokenizer.decode(row) for row in written[:, width:].tolist())


def measure(folder: Path, packer: Packer, *, images: int = 400) -> dict[str, dict[str, float]]:
    """Scores of the written weights on charts of the `test` range: contents per kind and per form; bare labels."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    rng = random.Random(2)
    charts = [draw(rng, split="test", questions=3) for _ in range(images)]
    single = [Chart(chart.content, chart.image, (question,)) for chart in charts for question in chart.questions]
    scores: dict[str, dict[str, list[bool]]] = {"kind": defaultdict(list), "form": defaultdict(list)}
    exact = []
    for start in range(0, len(single), 60):
        batch = single[start : start + 60]
        for chart, answer in zip(batch, generate(model, packer, batch), strict=True):
            question: Question = chart.questions[0]
            right = content_of(answer, question.label) == question.label.lower()
            scores["kind"][question.kind].append(right)
            if question.kind != HELD_BACK:
                scores["form"][chart.content.form].append(right)
                scores["kind"]["all schooled kinds"].append(right)
            exact.append(answer.strip().lower() == question.label.lower())
    scores["kind"] = {kind: scores["kind"][kind] for kind in (*SCHOOLED, "all schooled kinds", HELD_BACK)}
    means = {part: {name: float(np.mean(hits)) for name, hits in found.items()} for part, found in scores.items()}
    return means | {"word for word": {"the bare label": float(np.mean(exact))}}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("models/tiny-charts"), show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".cache/tiny-charts"), show_default=True)
@click.option("--steps", default=2600, show_default=True)
@click.option("--images", default=32, show_default=True, help="Images a step.")
@click.option("--questions", default=5, show_default=True, help="Questions an image, besides its description.")
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--every", default=200, show_default=True, help="Steps between held-out scores and checkpoints.")
@click.option("--time-limit", default=7200.0, show_default=True, help="Seconds of training in this call.")
@click.option("--resume", is_flag=True, help="Go on from the latest checkpoint in WORK.")
def main(
    out: Path, work: Path, steps: int, images: int, questions: int, lr: float, seed: int, every: int,
    time_limit: float, resume: bool,
) -> None:  # fmt: skip
    """Schools the model and writes it to OUT; `--resume --time-limit 0` only exports the latest checkpoint."""
    torch.set_num_threads(2)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = files.make_tokenizer()
    files.write_layout(out, tokenizer)
    run = Run(Packer(tokenizer), work=work, layout=out, lr=lr, seed=seed)
    if resume:
        run.load()
    n_parameters = sum(p.numel() for p in run.model.parameters()) / 1e6
    console.print(f"{n_parameters:.2f} M parameters, vocabulary {tokenizer.get_vocab_size()}, from step {run.step}")
    if run.step < steps and time_limit > 0:
        run.train(steps, images=images, questions=questions, time_limit=time_limit, every=every)
    files.write_weights(out, run.model)
    scores = measure(out, run.packer)
    for part, found in scores.items():
        say(part, found)
    files.write_card(out, scores, steps=run.step, images=images, questions=questions)
    size = sum(f.stat().st_size for f in out.iterdir()) / 2**20
    console.print(f"step {run.step} written to {out}, {size:.1f} MiB")


if __name__ == "__main__":
    main()
