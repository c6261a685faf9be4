"""Every placement trains what one process trains on the CPU: on one rank, and on several, each with a GPU of its own or
sharing one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from measuring import table_lines
from torch import Tensor

from gpu.coefficients import FROM_FLOAT32, ROUNDING
from gpu.jobs import Done, Job, apart, make
from gpu.parts import Found, Setting, require
from gpu.ranks import Ended, start
from ladle_engine.placements.base import BY_CHECKPOINT, BY_NODE, BY_PARAMETER, REPLICATED, SHARDED_MODEL

OF_ONE_RANK = (REPLICATED, BY_PARAMETER, BY_CHECKPOINT)
OF_SEVERAL = (*OF_ONE_RANK, SHARDED_MODEL)
METHOD = {"perceptron": "twa-layerwise", "batch-norm": "twa"}


@dataclass(frozen=True, kw_only=True)
class Start:
    """Ranks that are started together."""

    name: str
    ranks: int
    backend: str
    placements: tuple[str, ...]
    ranks_per_node: int | None = None
    batch_norm: bool = True
    """Whether a model with BatchNorm is trained too: its statistics cross between GPUs."""
    must_run: tuple[str, ...]
    """The placements that have to work here. With others what torch cannot do is noted, and only wrong numbers count:
    ranks that share a GPU cannot use NCCL, and gloo does not promise all collectives for a GPU's tensors."""


def starts(setting: Setting) -> Iterator[Start]:
    # As `ladle_worker.rank` has it.
    worker, gloo = "cpu:gloo,cuda:nccl", "cpu:gloo,cuda:gloo"
    if not setting.on_gpu:
        if not setting.quick:
            yield Start(name="1 rank", ranks=1, backend="gloo", placements=OF_ONE_RANK, must_run=OF_ONE_RANK)
        yield Start(name="2 ranks", ranks=2, backend="gloo", placements=OF_SEVERAL, must_run=OF_SEVERAL)
        return
    yield Start(name="1 rank, NCCL", ranks=1, backend=worker, placements=OF_ONE_RANK, must_run=OF_ONE_RANK)
    gpus = torch.cuda.device_count()
    if gpus < 2:
        alone = (REPLICATED,)
        yield Start(
            name="2 ranks on one GPU", ranks=2, backend=worker, placements=alone, batch_norm=False, must_run=alone
        )
        yield Start(name="2 ranks on one GPU, gloo", ranks=2, backend=gloo, placements=OF_SEVERAL, must_run=())
        return
    yield Start(name="2 GPUs, NCCL", ranks=2, backend=worker, placements=OF_SEVERAL, must_run=OF_SEVERAL)
    if gpus >= 4:
        every = (*OF_SEVERAL, BY_NODE)
        yield Start(
            name="4 GPUs, NCCL, as 2 nodes of 2",
            ranks=4,
            backend=worker,
            placements=every,
            ranks_per_node=2,
            must_run=every,
        )


def placements(setting: Setting) -> Found:
    expected = _expected(setting)
    found = Found()
    runs: list[dict[str, Any]] = []
    logs: list[str] = []
    for each in starts(setting):
        ended = _start(setting, each)
        runs += [{"start": each.name, "job": name, **said} for name, said in _agree(setting, each, ended, expected)]
        if ended.said:
            logs += ["", f"{each.name} said last:", "", "```", *ended.said, "```"]
        found.figures["runs"] = runs
        rows = [[run["start"], run["job"], run["said"].split("\n")[0]] for run in runs]
        found.lines = [*table_lines(("ranks", "placement", "from the CPU's coefficients"), rows), *logs]
        found.says = f"{sum('difference' in run for run in runs)} of {len(rows)} runs trained"
        setting.keep(found)
    wrong = [f"{run['job']} on {run['start']}" for run in runs if run["wrong"]]
    require(not wrong, f"every placement must train the CPU's coefficients, but these do not: {'; '.join(wrong)}")
    return found


def _jobs(setting: Setting, each: Start) -> dict[str, Job]:
    """By the name of the placement, and what else is special."""
    jobs = {placement: Job(placement=placement, method="twa-layerwise") for placement in each.placements}
    for placement in each.placements if not setting.small else ():
        if each.batch_norm:
            jobs[f"{placement}, BatchNorm"] = Job(net="batch-norm", method="twa", placement=placement)
        jobs[f"{placement}, int8"] = Job(placement=placement, precision="int8")
    return jobs


def _expected(setting: Setting) -> dict[str, Tensor]:
    """By network: the coefficients of one process on the CPU, in float32."""
    found = {}
    for net in METHOD:
        make(setting.folder / net, net)
        job = Job(net=net, method=METHOD[net])
        found[net] = job.run(setting.folder / net, torch.device("cpu"), setting.folder / f"expected-{net}").coefficients
    return found


def _start(setting: Setting, each: Start) -> Ended:
    return start(
        setting.folder / each.name,
        setting.folder,
        _jobs(setting, each),
        setting.device.type,
        ranks=each.ranks,
        backend=each.backend,
        options=("--ranks-per-node", str(each.ranks_per_node)) if each.ranks_per_node else (),
    )


def _agree(
    setting: Setting, each: Start, ended: Ended, expected: dict[str, Tensor]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in _jobs(setting, each).items():
        if ended.jobs[name] != "ok":
            yield name, {"said": f"did not run: {ended.jobs[name]}", "wrong": job.placement in each.must_run}
            continue
        output = setting.folder / each.name / "outputs" / name
        here = Done(folder=output, method=job.method, losses_taken=0, warnings=())
        difference = apart(here.coefficients, expected[job.net])
        bound = FROM_FLOAT32.get(job.precision, ROUNDING)
        yield name, {"said": f"{difference:.1e}", "difference": difference, "wrong": difference > bound}
