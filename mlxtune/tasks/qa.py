"""Questions and answers under any column names, with pictures or without."""

from mlxtune.tasks.base import Task

QA_METRICS = ("exact_match", "contains", "token_f1", "rouge1", "rouge2", "rougeL", "bleu")

QA = Task(
    name="qa",
    description="a question and its answer; set data.question, data.target and data.image to your column names",
    metrics=QA_METRICS,
    meta=("kind", "category"),
)
