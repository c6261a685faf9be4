"""What the operator configures with environment variables that begin with `LADLE_`."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ladle_contracts.environment import PREFIX, check_absolute, split_paths, split_roots
from ladle_contracts.far_urls import OVER_HTTP, BadUrl, parse_url
from ladle_contracts.job_spec import TrackerName
from ladle_contracts.redis_address import complete_address, socket_of
from ladle_contracts.web_addresses import read_networks
from ladle_worker.confinement.choose import AUTO, read_choice
from ladle_worker.stall import DEFAULT_STALL_S, read_limits


def read_names(value: Any) -> Any:
    """`tensorboard,mlflow` as two."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def read_results_url(value: Any) -> Any:
    """Raises ValueError, which does not repeat what may be a secret."""
    if not value:
        return None
    try:
        url = parse_url(str(value))
    except BadUrl as error:
        raise ValueError(f"must be an address such as `s3://bucket/results`, but {error}") from None
    if url.scheme in OVER_HTTP:
        raise ValueError("must be an address that can be written to, such as `s3://bucket/results`, but is one of HTTP")
    return str(url)


def read_ports(value: Any) -> Any:
    """`29400-29499` or `29400` as the first and the last one. Raises ValueError."""
    if not isinstance(value, str):
        return value
    first, _, last = value.partition("-")
    try:
        ports = int(first), int(last or first)
    except ValueError:
        ports = 0, 0
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise ValueError(f"must be a port or a range of them, such as `29400-29499`, but is {value!r}")
    return ports


class Settings(BaseSettings):
    """The configuration of one node. With a wrong value it does not start, and says which variable is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` or `unix://`, possibly with a password."""
    redis_password_file: Path | None = None
    """A file that holds the password of Redis, and nothing else."""
    redis_ca_file: Path | None = None
    """The authority that signed the certificate of a `rediss://` address, in PEM. By default those of the system."""
    node_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,100}$")] = Field(
        default_factory=lambda: re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())
    )
    """Unique in the cluster, and the same after a restart."""
    roots: Annotated[tuple[Path, ...], NoDecode]
    """Checkpoints and data sets must be in one of these folders, or at an address below one of `far_roots`."""
    far_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """The addresses in `LADLE_ROOTS`, such as `s3://bucket/runs`."""
    results_dir: Path
    """The folder of jobs' working files, and of results. In a cluster it must be the same folder on every node."""
    results_url: Annotated[str | None, BeforeValidator(read_results_url)] = None
    """The address that results are uploaded to, such as `s3://bucket/results`. By default they are not."""
    ranks: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many ranks this node can run. By default one per GPU, or one per core if there is no GPU."""
    slots: Annotated[int, Field(ge=1, le=64)] = 1
    """Into how many nodes this machine is divided, each with its share of the GPUs, or of the cores, and of the memory.
    They are called `<LADLE_NODE_ID>-1` and so on."""
    host_bytes: Annotated[int, Field(gt=0)] | None = None
    """How much of the machine's memory the ranks of this node may take together. By default all that is free."""
    address: str | None = None
    """Where the other nodes of a job reach this one: a name or an address. By default that which leads to Redis."""
    ports: Annotated[tuple[int, int], NoDecode, BeforeValidator(read_ports)] = (29400, 29499)
    """The first and the last port at which the ranks of several nodes may meet: `29400-29499`. On the first node one of
    them is opened."""
    launcher: Literal["torchrun", "slurm", "kubernetes", "process"] = "torchrun"
    """What runs the ranks: `torchrun` on this machine, or `slurm` or `kubernetes`, to which this worker only hands jobs
    over. `process` is for tests: one rank per job, and nothing confines it."""
    holds: Annotated[int, Field(ge=1, le=1000)] = 16
    """How many jobs a worker that hands them over has at once, running or waiting there."""
    standby: bool = True
    """Whether a launcher waits for the next job with its imports done. It holds some hundred megabytes."""
    collective_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    """How long ranks wait for each other in one exchange, before the attempt ends as crashed."""
    rank_module: str = "ladle_worker.rank"
    """The module that torchrun runs. Tests use one of their own."""
    lease_s: Annotated[float, Field(gt=0, le=3600)] = 12.0
    """A node that does not renew its lease for this long loses its job."""
    ready_s: Annotated[float, Field(gt=0)] = 120.0
    """How long a node that is ready waits for the other nodes of a job. Then the job leaves them all, and the late node
    is named."""
    stall_s: Annotated[dict[str, float], NoDecode, BeforeValidator(read_limits)] = Field(
        default_factory=lambda: {"": DEFAULT_STALL_S}, validate_default=True
    )
    """Seconds without any progress after which a job is ended: `900`, or `900,write=3600` for stages of their own."""
    confine: Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_choice)] = (AUTO,)
    """`auto`: all protections that the kernel grants. `off`. Names: those, or the worker does not start."""
    rank_read: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_paths)] = ()
    """What ranks may read besides the system, Python and the roots: for task plug-ins."""
    rank_write: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_paths)] = ()
    """What ranks may write besides their own folders."""
    far_cache: Path = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ladle/far"
    )
    """A folder on a disk of this machine, for files that were fetched from far."""
    far_cache_bytes: Annotated[int, Field(gt=0)] = 200_000_000_000
    """How much of them it may hold."""
    far_private: Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_networks)] = ()
    """Networks such as `10.0.0.0/8` that addresses may lead to although they are not public."""
    trackers: Annotated[tuple[TrackerName, ...], NoDecode, BeforeValidator(read_names)] = ()
    """Trackers that are told of every job, besides those that a job asks for: `tensorboard,mlflow`."""
    trackers_dir: Path | None = None
    """Where trackers that write files write them. By default the folder `.trackers` in `LADLE_RESULTS_DIR`."""
    tracker_wait_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long a job that has ended waits at the most until its trackers have taken everything."""
    log_format: Literal["text", "json"] = "text"
    """What a line of the log is: text for people, or a JSON object for programs. Then it has the lines of ranks too."""
    poll_s: Annotated[float, Field(gt=0)] = 0.25
    """How often the agent checks its ranks and renews its lease. It notices a cancel within this time."""
    state_copy_s: Annotated[float, Field(gt=0)] = 10.0
    """How often a job's resume state is copied to Redis, for a next attempt on a node with another results folder."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 2.0
    sweep_s: Annotated[float, Field(gt=0)] = 15.0
    """How often the node looks for what jobs that have ended left in the folder of results."""
    kill_grace_s: Annotated[float, Field(ge=0)] = 0.5
    """The time between SIGTERM and SIGKILL."""
    soft_shutdown_s: Annotated[float, Field(ge=0)] = 3.0
    """How long a stopping worker gives its agent to end the ranks and return the job. Celery always waits so long."""

    @model_validator(mode="before")
    @classmethod
    def _split_roots(cls, values: Any) -> Any:
        return split_roots(values)

    @model_validator(mode="after")
    def _complete_redis_url(self) -> Self:
        url = complete_address(self.redis_url.get_secret_value(), self.redis_password_file, self.redis_ca_file)
        object.__setattr__(self, "redis_url", SecretStr(url))
        return self

    @model_validator(mode="after")
    def _whole_paths(self) -> Self:
        check_absolute(self.roots, self.results_dir)
        for name in ("rank_read", "rank_write", "trackers_dir"):
            paths = getattr(self, name) or ()
            for path in (paths,) if isinstance(paths, Path) else paths:
                if not path.is_absolute():
                    raise ValueError(f"`{PREFIX}{name.upper()}` must hold absolute paths, but has {str(path)!r}.")
        return self

    @property
    def trackers_folder(self) -> Path:
        # No result can be called so.
        return self.trackers_dir or self.results_dir / ".trackers"

    @property
    def dispatches(self) -> bool:
        """Whether it runs nothing itself, but hands jobs over."""
        return self.launcher in ("slurm", "kubernetes")

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Those of all slots."""
        return (self.node_id,) if self.slots == 1 else tuple(f"{self.node_id}-{n + 1}" for n in range(self.slots))

    @property
    def redis_socket(self) -> Path | None:
        """Where Redis listens, if that is in the file system."""
        return socket_of(self.redis_url.get_secret_value())
