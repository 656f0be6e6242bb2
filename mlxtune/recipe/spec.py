"""Every key of a recipe: its type, its only default and its meaning. Files, checks, schema and documentation derive from here."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
SetName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Seed = Annotated[int, Field(ge=0)]
Split = Text | Annotated[float, Field(gt=0, lt=1)] | None
_PATH = {"format": "path"}  # marks a key that may hold a local path, see `is_path`


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(_Section):
    """The model that is tuned."""

    path: Text = Field(description="a local folder, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct", json_schema_extra=_PATH)
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
    """Where the rows of each part come from: names, fractions, or one `all`; `auto` = as the data has it; null = none."""

    train: Split = Field(
        default="auto",
        description="rows to learn from: a split's name, a fraction between 0 and 1, all, null, or auto = the data's own split, "
        "and what is left of it where others are cut out",
    )
    validation: Split = Field(
        default="auto",
        description="rows that pick the best checkpoint: a name, a fraction, all, null, or auto = the data's own split, else a "
        "tenth of the training rows",
    )
    test: Split = Field(
        default="auto",
        description="rows of the comparison before and after: a name, a fraction, all, null, or auto = the data's own split, "
        "else a tenth of the training rows",
    )

    @field_validator("validation", "test")
    @classmethod
    def _apart(cls, value: Split, info: ValidationInfo) -> Split:
        """Shares of the same rows may not overlap, and a named split may not be part of what is shared out."""
        if value in (None, "auto"):
            return value
        others = {key: split for key, split in info.data.items() if split not in (None, "auto")}
        for key, other in others.items():
            if (_share(value) is None) != (_share(other) is None):
                raise ValueError(
                    f"{value!r} beside data.splits.{key} {other!r}: name all splits, or give all as fractions (null = none)"
                )
        shares = [_share(split) or 0.0 for split in (*others.values(), value)]
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


class PicturesSpec(_Section):
    """A table of pictures that rows refer to by a key, as GQA-ru keeps them."""

    path: Text | None = Field(
        default=None,
        description="file, folder or hub id that holds the pictures; null = that of the rows",
        json_schema_extra=_PATH,
    )
    config: Text | None = Field(default=None, description="its configuration on the hub; null = its only one")
    split: Text | None = Field(default=None, description="its split; null = all of it")
    key: Text = Field(default="id", description="column of the pictures' table that the rows' picture column names")
    image: Text = Field(default="image", description="column of the pictures' table that holds the picture")


class RowsSpec(_Section):
    """Rows of one data set, and how they become questions with answers."""

    task: Text = Field(
        default="chartqa", description="how rows become questions and how answers are scored; see `mlxtune list tasks`"
    )
    path: Text = Field(description="a local file or folder, or a hub id such as HuggingFaceM4/ChartQA", json_schema_extra=_PATH)
    config: Text | None = Field(default=None, description="configuration (subset) of the hub data set; null = its only one")
    revision: Text | None = Field(default=None, description="branch, tag or commit of the hub id; null = its main branch")
    streaming: bool = Field(default=False, description="read the hub data set row by row instead of downloading it whole")
    filter: dict[Text, list[str | int | float | bool]] = Field(
        default={}, description="keep only rows whose column has one of these values, for example {type: [conversation]}"
    )
    image_folder: Text | None = Field(
        default=None,
        description="folder or .zip that image names are relative to; null = beside the rows",
        json_schema_extra=_PATH,
    )
    images: PicturesSpec | None = Field(
        default=None, description="a table of pictures that rows name by a key; null = the task's own"
    )
    image: Text | None = Field(default=None, description="column that holds the picture; null = the task's own")
    question: Text | None = Field(default=None, description="column that holds the question; null = the task's own")
    target: Text | None = Field(default=None, description="column that holds the answer; null = the task's own")
    id: Text | None = Field(default=None, description="column that names the row; null = the task's own")
    prompt: Text | None = Field(
        default=None,
        description="what is asked, with columns of the row in braces, for example '{question}'; null = the task's own",
    )
    suffix: str | None = Field(default=None, description="text put behind every question; '' = nothing, null = the task's own")
    system: Text | None = Field(default=None, description="system message before every question; null = none of ours")
    names: Text | None = Field(
        default=None,
        description="JSON file of display names: class (folder) to name, or to {name, aliases}",
        json_schema_extra=_PATH,
    )
    text_only: Literal["keep", "skip"] | None = Field(
        default=None, description="rows that name no picture; null = the task's own"
    )
    missing_image: Literal["skip", "text_only"] = Field(
        default="skip", description="rows whose picture is missing or broken: leave out and count, or ask without the picture"
    )
    max_skipped: float = Field(
        default=0.05, ge=0, le=1, description="largest share of rows that may be left out because they cannot be used"
    )


class MixSpec(RowsSpec):
    """Further rows to train on, from another data set."""

    split: Text = Field(default="auto", description="split that the rows are taken from; auto = its training split, else all")
    limit: Count | None = Field(default=None, description="most rows; null = no limit")
    weight: float = Field(default=1.0, gt=0, description="how often its rows come in a pass: 0.5 = a drawn half, 2 = each twice")


class TestSetSpec(RowsSpec):
    """A further data set that is scored before and after."""

    split: Text = Field(default="auto", description="split that is asked; auto = its test split, else validation, else all")
    limit: Count | None = Field(default=200, description="most rows; null = all")
    metrics: list[Text] | None = Field(default=None, description="scores to compute; null = the task's own")
    max_new_tokens: Count | None = Field(default=None, description="longest answer in tokens; null = evaluate.max_new_tokens")


class DataSpec(RowsSpec):
    """The rows to train on, and which of them are kept to ask."""

    splits: Splits = Field(default_factory=Splits, description="which rows are for training, validation and test")
    limit: Limits = Field(default_factory=Limits, description="the most rows of each split")
    balance: Text | None = Field(
        default=None, description="column (such as class) whose values train equally often, the rarer ones repeated; null = as is"
    )
    weight: float = Field(default=1.0, gt=0, description="how often the training rows come in a pass beside those of data.mix")
    mix: list[MixSpec] = Field(default=[], description="further data sets to train on")
    seed: Seed = Field(default=0, description="decides what a fraction, a weight or a mix draws; a limit keeps the first rows")


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
    rows_per_image: Count = Field(
        default=4,
        description="questions about one picture that follow each other in the shuffled order, so that a step can share the "
        "picture's tokens among them; 1 = every row is shuffled on its own",
    )
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
    validation_metrics: list[Text] | None = Field(
        default=None, description="scores to follow on the validation rows; null = the task's first, [] = only the loss"
    )
    validation_limit: Count | None = Field(
        default=48, description="most validation rows that are answered at a look, for these scores; null = all"
    )
    patience: Count | None = Field(
        default=None, description="stop after this many looks in a row that bring no better value of train.best; null = never"
    )
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
    num_beams: Count = Field(
        default=1,
        description="answers that are followed at once in search of the likeliest whole one, each a row of the batch; "
        "1 = greedy, token by token",
    )
    controls: Annotated[int, Field(ge=0)] = Field(
        default=64, description="rows that are asked again with a blank and with another row's picture; 0 = none"
    )
    answer_mode: Literal["generate", "options"] = Field(
        default="generate", description="options = multiple-choice answers are the likeliest letter instead of generated text"
    )
    sets: dict[SetName, TestSetSpec] = Field(
        default={},
        description="further data sets, by a name of yours, scored before and after: benchmarks, or what must not be forgotten",
    )


class SpeedSpec(_Section):
    """Savings that leave the numbers as they are."""

    features: Literal["auto", "memory", "off"] = Field(
        default="auto",
        description="send each picture through the frozen vision tower once and keep its features, on disk for later runs too; "
        "memory = for this run alone; off = every time",
    )
    features_gb: float = Field(
        default=20.0, gt=0, description="most that the features on disk may take, in GiB; the least recently used go first"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="keep only the input of each layer during a step and run the layer again on the way back: about a third more "
        "time for much less memory",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="let the framework compile training steps, once for each rounded length; auto = MLX on a GPU; on = in any "
        "case, which on a CPU takes a C++ compiler",
    )
    shared_prefix: Literal["auto", "off"] = Field(
        default="auto",
        description="questions of a batch about one picture share its tokens; off = each reads them again",
    )
    packing: Literal["auto", "off"] = Field(
        default="auto",
        description="short rows of a step stand end to end beside its longest one, where that leaves less padding",
    )


class ReportSpec(_Section):
    """The report of a run."""

    title: Text | None = Field(default=None, description="headline of the report; null = the recipe's name")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="experiment trackers that are told every step too; each is an extra to install"
    )


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
    out: Text = Field(default="runs/", description="folder in which every run gets its own folder", json_schema_extra=_PATH)


def inside(kind: Any, key: object) -> Any:
    """What stands behind `key` of a value of type `kind`: a section's field, an entry of a list or of a mapping; else None."""
    kind = _without_none(kind)
    if is_section(kind):
        field = kind.model_fields.get(str(key))
        return _without_none(field.annotation) if field else None
    entries = get_args(kind)
    if get_origin(kind) is list and isinstance(key, int):
        return entries[0]
    return entries[1] if get_origin(kind) is dict else None


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def is_path(kind: Any, key: object) -> bool:
    """Whether `key` of a section holds a path that may be written relative to the recipe's file."""
    field = kind.model_fields.get(str(key)) if is_section(kind) else None
    return field is not None and field.json_schema_extra == _PATH


def _without_none(kind: Any) -> Any:
    if get_origin(kind) is UnionType:
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return kinds[0] if len(kinds) == 1 else kind
    return kind
