"""benchmark_results.json: the scores before and after. Further keys may join; those here keep their meaning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mlxtune.evaluate.schemas.error_analysis import Advice

Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class Value(_Part):
    """A metric over one set of answers, on its own scale."""

    value: float | None = Field(description="null where nothing could be graded")
    low: float | None = Field(description="95 % interval; null where the answers cannot tell")
    high: float | None
    n: Count = Field(description="graded rows")
    ungraded: Count


class Change(_Part):
    """After minus before on the same rows."""

    difference: float | None
    low: float | None = Field(description="95 % interval")
    high: float | None
    p_value: float | None = Field(description="two-sided")
    fixed: Count
    broken: Count
    method: str = Field(description="of the p-value, then of the interval")
    detectable: bool = Field(description="whether test and interval agree that there is a change")
    text: str = Field(description="the change in words, in points of a hundred")


class Metric(_Part):
    before: Value | None
    after: Value | None
    change: Change | None
    scale: float = Field(description="what a perfect answer scores: 1 or 100")
    higher_is_better: bool


class Controls(_Part):
    """The score of the same few rows asked in four ways; null where it was not tried."""

    metric: str
    rows: Count
    full: float | None = Field(description="as they were asked")
    blank: float | None = Field(description="with grey pictures")
    shuffled: float | None = Field(description="with the pictures of other rows")
    majority: float | None = Field(description="the commonest training answer to this kind of question")


class SetResults(_Part):
    task: str
    rows: Count
    pictures: Count
    items_sha256: str = Field(description="identity of the questions; compare only where it is the same")
    metric: str = Field(description="the one that decides right and wrong")
    metrics: dict[str, Metric]
    status: dict[str, dict[str, Count] | None] = Field(description="before, after: rows graded, empty, cut off, …")
    controls: Controls | None
    speed: dict[str, dict[str, Any] | None]


class BenchmarkResults(_Part):
    name: str | None
    kind: str | None = Field(description="finetune or evaluate")
    model: str
    adapter: str | None
    task: str
    backend: str | None
    device: str | None
    precision: str
    seed: int | None
    wall_s: float | None
    best_step: int | None
    steps: Count
    peak_bytes: Count | None
    sets: dict[str, SetResults] = Field(description='"test" = the recipe\'s own test rows; others by the names of evaluate.sets')
    advice: list[Advice] = Field(default=[], description="what to do next, the most promising first")
