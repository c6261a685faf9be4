"""What a node may offer."""

from __future__ import annotations

from ladle_contracts import Catalog, MethodInfo, OptionInfo, TaskInfo


def option(name: str, of_type: str, default: object = None) -> OptionInfo:
    return OptionInfo(name=name, type=of_type, default=default, help=f"what {name} is")  # type: ignore[arg-type]


TWA = MethodInfo(
    name="twa",
    summary="Trains one coefficient per checkpoint.",
    reference="Li et al. 2023",
    reference_url="https://arxiv.org/abs/2205.13104",
    options=(
        option("steps", "int | null"),
        option("learning_rate", "float", 0.1),
        option("prior", "float | str | null", "learned"),
        option("shared", "bool", True),
        option("groups", "str | int | list[str]", "model"),
        option("coefficients", "list[float] | list[list[float]] | dict[str, float]", []),
    ),
)
UNIFORM = MethodInfo(name="uniform", summary="The mean.", reference="Izmailov et al. 2018", reference_url="")
IMAGES = TaskInfo(
    name="image-classification",
    summary="Classifies images.",
    metrics=("accuracy", "loss"),
    options=(option("batch_size", "int", 128), option("columns", "dict[str, str]", {}), option("split", "str | null")),
)
TEXTS = TaskInfo(name="causal-lm", summary="Predicts tokens.", metrics=("loss", "perplexity"))
CATALOG = Catalog(methods=(TWA, UNIFORM), tasks=(IMAGES, TEXTS))
NOTHING = Catalog(methods=(), tasks=())
