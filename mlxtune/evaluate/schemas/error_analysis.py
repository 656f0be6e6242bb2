"""error_analysis.json: why answers are wrong, what became of them, and what to do next."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Ids = list[str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CauseShare(_Part):
    n: Count = Field(description="wrong answers with this as their primary cause")
    share: Share = Field(description="of all wrong answers")
    also: Count = Field(description="further wrong answers that the rule fits too, though another cause comes first")
    examples: Ids = Field(description="ids of rows, evenly over all with this primary cause")


class FamilyShare(_Part):
    n: Count = Field(description="wrong answers whose primary cause belongs here")
    share: Share = Field(description="of all wrong answers")


class Side(_Part):
    """One set of answers."""

    n: Count = Field(description="rows")
    right: Count
    wrong: Count
    ungraded: Count = Field(description="rows that could not be graded; neither right nor wrong")
    statuses: dict[str, Count] = Field(description="rows that were graded, empty, cut off, unparseable, or without picture")
    families: dict[str, FamilyShare] = Field(description="causes summed under their headings, the largest first")
    causes: dict[str, CauseShare] = Field(description="causes that occur, the largest first")


class BucketShare(_Part):
    n: Count
    share: Share = Field(description="of all rows that both sides have")
    examples: Ids = Field(description="ids of rows, evenly over the bucket")


class Group(_Part):
    """Rows with one value of a column."""

    n: Count
    right_before: Count | None
    right_after: Count | None
    graded_before: Count | None
    graded_after: Count | None
    fixed: Count | None
    broken: Count | None
    families: dict[str, Count] = Field(description="headings of the wrong answers' primary causes (after; before where alone)")


class Definition(_Part):
    family: str
    description: str


class Advice(_Part):
    rule: str = Field(description="name of the rule that fired")
    text: str = Field(description="what to do and why, with its figures")
    keys: list[str] = Field(description="recipe keys to change; empty where it is the data that needs work")
    figures: dict[str, float] = Field(description="the figures that led to it")
    worth: float = Field(description="what it ranks by: about the share of the test rows at stake, 1 and more = all of them")


class ErrorAnalysis(_Part):
    metric: str = Field(description="the metric that decides right and wrong")
    right_from: Share = Field(description="share of the metric's scale from which an answer counts as right")
    before: Side | None
    after: Side | None
    buckets: dict[str, BucketShare] | None = Field(
        description="fixed, broken, still_right, still_wrong, ungraded; null = one side"
    )
    left_out: dict[str, Count] = Field(description="rows of one side alone, where an intersection was asked for")
    moves: dict[str, dict[str, Count]] = Field(description="cause before (or right) -> cause after (or right) -> rows")
    by: dict[str, dict[str, Group]] = Field(description="column -> value -> rows with it, the commonest value first")
    not_broken_down: list[str] = Field(description="columns with too many values for a table")
    definitions: dict[str, Definition] = Field(description="every cause that there is, in the order in which they are tried")
    advice: list[Advice] = Field(description="what to do next, the most promising first")
