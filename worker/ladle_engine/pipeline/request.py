"""What a job asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ladle_engine.output.recipe import OUTPUT_DTYPES

TRAIN_SET_USES = ("coefficients", "batchnorm")


@dataclass(frozen=True, kw_only=True)
class Request:
    dtype: str
    metric: str | None
    select_fraction: float
    seed: int
    max_shard_bytes: int
    train_set_use: str
    placement: str
    precision: str

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, tuple(OUTPUT_DTYPES)),
            ("train_set_use", self.train_set_use, TRAIN_SET_USES),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}.")
        if not isinstance(self.select_fraction, (int, float)) or not 0 < self.select_fraction < 1:
            raise ValueError(f"`select_fraction` must be between 0 and 1, but is {self.select_fraction!r}.")
        for name, number, least in (("seed", self.seed, 0), ("max_shard_bytes", self.max_shard_bytes, 1)):
            if not isinstance(number, int) or not least <= number < 2**63:
                raise ValueError(f"`{name}` must be a whole number from {least} to 2^63 - 1, but is {number!r}.")
