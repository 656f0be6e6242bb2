"""Every key of a recipe: its type, its only default and its meaning. Files, checks, schema and documentation derive from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Split = Text | Annotated[float, Field(gt=0, lt=1)] | None


class _Section(BaseModel):
    # validate_default: rules that join two keys stand on the later key and must also run where that one has its default.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class ModelSpec(_Section):
    """The model that is tuned."""

    path: Text = Field(description="a local folder, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct")
    revision: Text | None = Field(default=None, description="branch, tag or commit of the hub id; null = its main branch")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="bfloat16", description="number format of the frozen weights and the forward pass; auto = what suits the device"
    )
    quantize: Literal["4bit", "8bit"] | None = Field(default=None, description="pack the frozen weights; null = as they are")
    min_pixels: Count | None = Field(default=None, description="enlarge smaller pictures to this area; null = the model's own")
    max_pixels: Count | None = Field(default=None, description="shrink larger pictures to this area; null = the model's own")

    @field_validator("max_pixels")
    @classmethod
    def _above_min(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_pixels")
        if value is not None and least is not None and value < least:
            raise ValueError(f"{value} is below model.min_pixels {least}; raise one or lower the other")
        return value


class Splits(_Section):
    """Where the rows of each part come from: all three names, or all three fractions, or one `all`; null = none."""

    train: Split = Field(
        default="train", description="rows to learn from: a split's name, a fraction between 0 and 1, all, or null"
    )
    validation: Split = Field(
        default="validation", description="rows that pick the best checkpoint: a name, a fraction, all, or null"
    )
    test: Split = Field(default="test", description="rows of the comparison before and after: a name, a fraction, all, or null")

    @field_validator("validation", "test")
    @classmethod
    def _apart(cls, value: Split, info: ValidationInfo) -> Split:
        """Shares of the same rows may not overlap, and a named split may not be part of what is shared out."""
        others = {key: split for key, split in info.data.items() if split is not None}
        for key, other in others.items():
            if value is not None and (_share(value) is None) != (_share(other) is None):
                raise ValueError(
                    f"{value!r} beside data.splits.{key} {other!r}: name all splits, or give all as fractions (null = none)"
                )
        shares = [_share(split) or 0.0 for split in (*others.values(), value) if split is not None]
        if sum(shares) > 1 + 1e-9:
            taken = ", ".join(f"{key} {other}" for key, other in others.items())
            raise ValueError(f"{value} more than what {taken} leaves over; the fractions may sum to 1 at most (all counts as 1)")
        return value


def _share(split: str | float) -> float | None:
    """Share of all rows that a split takes; None for a named split."""
    if split == "all":
        return 1.0
    return split if isinstance(split, float) else None


class Limits(_Section):
    """The most rows that are used of each split."""

    train: Count | None = Field(default=None, description="most training rows; null = no limit")
    validation: Count | None = Field(default=None, description="most validation rows; null = no limit")
    test: Count | None = Field(default=None, description="most test rows; null = no limit")


class DataSpec(_Section):
    """The rows, and how they become questions with answers."""

    task: Text = Field(
        default="chartqa", description="how rows become questions and how answers are scored; see `mlxtune list tasks`"
    )
    path: Text = Field(description="a local file or folder, or a hub id such as HuggingFaceM4/ChartQA")
    config: Text | None = Field(default=None, description="configuration (subset) of the hub data set; null = its only one")
    splits: Splits = Field(default_factory=Splits, description="which rows are for training, validation and test")
    limit: Limits = Field(default_factory=Limits, description="the most rows of each split")
    image_folder: Text | None = Field(default=None, description="folder that image names are relative to; null = beside the rows")
    image: Text | None = Field(default=None, description="column that holds the picture; null = the task's own")
    question: Text | None = Field(default=None, description="column that holds the question; null = the task's own")
    target: Text | None = Field(default=None, description="column that holds the answer; null = the task's own")
    id: Text | None = Field(default=None, description="column that names the row; null = the task's own")
    suffix: str | None = Field(default=None, description="text put behind every question; '' = nothing, null = the task's own")
    seed: Seed = Field(default=0, description="decides which pictures a fraction takes; a limit keeps the first rows")


class LoraSpec(_Section):
    """The adapter: low-rank updates beside frozen weights."""

    rank: Count = Field(default=16, description="rank of the update matrices")
    alpha: float = Field(default=32.0, gt=0, description="scale of the update: alpha / rank, or alpha / sqrt(rank) with rslora")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of the adapter's inputs that is dropped while training")
    rslora: bool = Field(default=False, description="divide alpha by sqrt(rank) instead of rank")
    sites: list[Text] = Field(
        default=["attention", "mlp"], min_length=1, description="which projections of the language model get an adapter"
    )
    layers: Literal["all"] | Count = Field(default="all", description="all layers of the language model, or only the last N")


class TrainSpec(_Section):
    """The optimisation."""

    steps: Count | None = Field(default=None, description="optimizer steps in all; wins over epochs; null = as epochs say")
    epochs: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="passes over the training rows; null = as steps say"
    )
    batch_size: Count = Field(default=8, description="examples of one optimizer step, over all devices and micro-batches")
    micro_batch_size: Count = Field(default=1, description="examples that a device holds at once; it divides batch_size")
    max_tokens: Count = Field(default=2048, description="longest example in tokens, its image tokens included")
    learning_rate: float = Field(default=1e-4, gt=0, description="the highest learning rate, reached after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the rate falls after the warm-up"
    )
    warmup: float = Field(default=0.03, ge=0, description="length of the rise: a fraction of all steps if below 1, else steps")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of AdamW")
    clip: Annotated[float, Field(gt=0)] | None = Field(default=1.0, description="largest global gradient norm; null = unbounded")
    seed: Seed = Field(default=0, description="decides the adapter's first weights, the order of rows and dropout")
    evaluate_every: Count | None = Field(default=100, description="steps between two looks at the validation rows; null = never")
    save_every: Count | None = Field(default=100, description="steps between two checkpoints; null = only at the end")
    best: Text | None = Field(
        default="loss", description="keep the checkpoint best in this validation score (loss or a metric); null = the last"
    )

    @field_validator("epochs")
    @classmethod
    def _some_length(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and "steps" in info.data and info.data["steps"] is None:
            raise ValueError("null, and so is train.steps; set one of the two")
        return value

    @field_validator("micro_batch_size")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch_size")
        if batch is not None and batch % value:
            raise ValueError(f"{value} does not divide train.batch_size {batch}; make batch_size a multiple of it")
        return value

    @field_validator("warmup")
    @classmethod
    def _whole_steps(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError(f"{value} is not a whole number of steps; write a fraction below 1 or whole steps")
        return value


class EvaluateSpec(_Section):
    """The comparison on the test rows, before and after."""

    metrics: list[Text] | None = Field(
        default=None, description="scores to compute, see `mlxtune list metrics`; null = the task's own"
    )
    limit: Annotated[int, Field(ge=0)] | None = Field(
        default=500, description="most test rows; 0 leaves before and after out; null = all"
    )
    batch_size: Count = Field(default=8, description="prompts that are answered at once")
    max_new_tokens: Count = Field(default=16, description="longest answer in tokens")


class SpeedSpec(_Section):
    """Savings that leave the numbers as they are."""

    features: Literal["auto", "off"] = Field(
        default="auto", description="compute the frozen vision tower's features once per picture and reuse them; off = every time"
    )


class ReportSpec(_Section):
    """The report of a run."""

    title: Text | None = Field(default=None, description="headline of the report; null = the recipe's name")


class Recipe(_Section):
    """A fine-tuning run of mlxtune, start to end."""

    model: ModelSpec = Field(description="the model that is tuned")
    data: DataSpec = Field(description="the rows, and how they become questions with answers")
    lora: LoraSpec = Field(default_factory=LoraSpec, description="the adapter")
    train: TrainSpec = Field(default_factory=TrainSpec, description="the optimisation")
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec, description="the comparison on the test rows, before and after")
    speed: SpeedSpec = Field(default_factory=SpeedSpec, description="savings that leave the numbers as they are")
    report: ReportSpec = Field(default_factory=ReportSpec, description="the report of the run")
    backend: Literal["auto", "mlx", "torch"] = Field(default="auto", description="auto = mlx on Apple silicon, torch elsewhere")
    out: Text = Field(default="runs/", description="folder in which every run gets its own folder")


def section_of(model: type[BaseModel] | None, key: object) -> type[BaseModel] | None:
    """The section that `key` of `model` opens; None for a plain value and for an unknown key."""
    field = model.model_fields.get(str(key)) if model else None
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
