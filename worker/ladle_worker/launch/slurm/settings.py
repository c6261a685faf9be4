"""What the operator configures with environment variables that begin with `LADLE_SLURM_`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SLURM_PREFIX = "LADLE_SLURM_"
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:+-]{1,200}$")]


def read_time(value: Any) -> Any:
    """Slurm's `30` (minutes), `30:00`, `4:00:00`, `2-0`, `2-12:00` and `2-12:00:00` as minutes. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = TIME.fullmatch(value.strip())
    if not found:
        raise ValueError(f"must be a time as Slurm writes it, such as `4:00:00` or `2-12:00:00`, but is {value!r}")
    days, first, second, third = (int(part) if part else None for part in found.groups())
    assert first is not None, "the pattern has it"
    if days is not None:
        minutes = days * 1440 + first * 60 + (second or 0) + -(-(third or 0) // 60)
    elif third is not None:
        minutes = first * 60 + (second or 0) + -(-third // 60)
    else:
        minutes = first + -(-(second or 0) // 60)
    return minutes


class SlurmSettings(BaseSettings):
    """How a dispatcher uses its Slurm. No job can go beyond these limits."""

    model_config = SettingsConfigDict(env_prefix=SLURM_PREFIX, frozen=True, env_ignore_empty=True)

    partition: Name | None = None
    """By default the partition that Slurm takes by default."""
    account: Name | None = None
    qos: Name | None = None
    constraint: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:+&|*()\[\]-]{1,200}$")] | None = None
    """Features that the nodes must have: `a100&ib`."""
    reservation: Name | None = None
    time: Annotated[int, BeforeValidator(read_time), Field(ge=1)] = 1440
    """The longest time of one allocation, as Slurm writes it: `4:00:00`. A job that needs longer goes on in another.
    A job with `resources.timeout_s` asks for no more than that. By default a day."""
    max_nodes: Annotated[int, Field(ge=1, le=1024)] = 16
    """The most nodes that a job may ask for."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 0
    """How many GPUs of a node a job gets. 0: none is asked for. A job with `resources.ranks_per_node` gets so many, and
    must not ask for more."""
    cpus_per_node: Annotated[int, Field(ge=1)] | None = None
    """By default what the partition gives: often a single core."""
    mem: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] | None = None
    """The memory of a node: `64G`. By default what the partition gives; `0` is all of the node's."""
    signal_s: Annotated[int, Field(ge=1, le=3600)] = 90
    """How long before the end of an allocation its ranks are ended."""
    poll_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """How often Slurm is asked about each job."""
    setup: Path | None = None
    """A shell script on a shared disk that each job reads first: `module load cuda`."""
    python: Path = Path(sys.executable)
    """The Python with Ladle on Slurm's nodes. By default the dispatcher's own path."""
