"""The recipe: what to train, on what, with which numbers. Read from YAML, checked as a whole, passed on frozen."""

from mlxtune.recipe.load import dump_recipe, load_recipe, recipe_name
from mlxtune.recipe.schema import write_schema
from mlxtune.recipe.spec import (
    DataSpec,
    EvaluateSpec,
    Limits,
    LoraSpec,
    ModelSpec,
    Recipe,
    ReportSpec,
    SpeedSpec,
    Split,
    Splits,
    TrainSpec,
)

__all__ = [
    "DataSpec",
    "EvaluateSpec",
    "Limits",
    "LoraSpec",
    "ModelSpec",
    "Recipe",
    "ReportSpec",
    "SpeedSpec",
    "Split",
    "Splits",
    "TrainSpec",
    "dump_recipe",
    "load_recipe",
    "recipe_name",
    "write_schema",
]
