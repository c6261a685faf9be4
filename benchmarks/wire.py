"""Bytes on the wire and steps per second by placement, with 2 and 4 ranks on networks from 10 Gbit/s to 100 Mbit/s.

    python benchmarks/wire.py [--quick]        needs root and iproute2

Every rank is on a machine of its own (`networks.py`), with one thread; for `by-node`, two ranks share one. What counts
is each speed as a share of the same placement's without a limit, measured in turn with it: four ranks on two cores are
slow for reasons of their own. Bytes are what the machines' interfaces count: headers and acknowledgements are in.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring import device_name, held, parser_of, save, table_lines
from networks import INTERFACE, Network, Sent, Unavailable, network
from rich.console import Console
from rich.table import Table
from wire_rank import SUM, Size, write_checkpoints

from ladle_engine.placements.base import BY_CHECKPOINT, BY_NODE, BY_PARAMETER, REPLICATED, SHARDED_MODEL
from ladle_engine.versions import versions

RANK = Path(__file__).with_name("wire_rank.py")
PORT = 29577
RATES = (None, 10e9, 1e9, 100e6)
"""Bits a second; None is no limit."""
SLOWEST = RATES[-1]
GOAL = 0.95
FULL = Size(width=1024, blocks=5, batch_size=768)
QUICK = Size(width=384, blocks=5, batch_size=768)
SUMS = 100
LONGEST_S = 60
"""What would wait longer for the network, over all its measurements, is estimated."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    ranks: int
    machines: int
    placements: tuple[str, ...]


FEW_NUMBERS = (REPLICATED, BY_NODE)
"""Placements of which only K x G numbers cross between machines."""
EACH_ITS_OWN = (REPLICATED, BY_PARAMETER, BY_CHECKPOINT, SHARDED_MODEL)
LAYOUTS = (
    Layout(ranks=2, machines=2, placements=EACH_ITS_OWN),
    Layout(ranks=4, machines=4, placements=EACH_ITS_OWN),
    Layout(ranks=4, machines=2, placements=(BY_NODE,)),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    turns: int
    loops: int
    """Measurements a turn, each of one step, where only K x G numbers cross: the goal is about those placements."""
    steps: int
    """In one measurement of the others, where the network takes less than a second of it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    seconds: float
    """A step, on the slowest rank."""
    sent: Sent
    """By all machines together, over all steps."""
    steps: int
    losses: list[float]
    groups: int


@dataclass(kw_only=True)
class Cell:
    """One placement at one rate."""

    measured: list[Measurement] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of the speed without a limit, repeat by repeat."""
    left_out: bool = False


def main() -> None:
    quick = parser_of(__doc__, quick="a smaller model, too few repeats to judge", cpu_only=True).parse_args().quick
    size, plan = (QUICK, Plan(turns=1, loops=4, steps=1)) if quick else (FULL, Plan(turns=3, loops=8, steps=3))
    # So that a `kill` removes the namespaces too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    load = os.getloadavg()[0]
    layouts = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = write_checkpoints(folder, size)
        for layout in LAYOUTS:
            try:
                layouts.append(run(layout, size, plan, folder, parameters))
            except Unavailable as error:
                table = new_table(layout.ranks, layout.machines)
                table.add_row("skipped", str(error))
                console.print(table)
                return
            console.print(table_of(layouts[-1]))
    result = {
        "device": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "quick": quick,
        "load_before": round(load, 2),
        "parameters": parameters,
        **asdict(size),
        **asdict(plan),
        "versions": versions(),
        "layouts": layouts,
    }
    console.print("\n".join(goal_lines(layouts)))
    console.print(save("wire", result, markdown(result), quick=quick))


def run(layout: Layout, size: Size, plan: Plan, folder: Path, parameters: int) -> dict[str, Any]:
    others = OtherProcesses()
    cells = {(placement, rate): Cell() for placement in layout.placements for rate in RATES}
    with network(layout.machines) as net, ranks(layout, net, folder) as ask:
        waits = {}
        for placement in layout.placements:
            ask(placement, 1)  # opens the directions
            waits[placement] = ask(placement, 1).sent.bytes / layout.machines * 8
        for turn in range(plan.turns):
            for placement in layout.placements:
                loops = plan.loops if placement in FEW_NUMBERS else 1
                for loop in range(loops):
                    measure_rates(placement, turn * loops + loop, cells, net, ask, plan, waits[placement])
        sum_ms = {}
        for rate in RATES:
            net.limit(rate)
            sum_ms[rate_text(rate)] = round(1000 * ask(SUM, SUMS).seconds, 3)
    return {
        "ranks": layout.ranks,
        "machines": layout.machines,
        "cores_used_by_others": round(others.cores(), 2),
        "sum_ms": sum_ms,
        "rows": [
            row_of(placement, rate, cells, layout, size, parameters, waits[placement]) for placement, rate in cells
        ],
    }


def measure_rates(
    placement: str,
    number: int,
    cells: Mapping[tuple[str, float | None], Cell],
    net: Network,
    ask: Callable[[str, int], Measurement],
    plan: Plan,
    bits: float,
) -> None:
    """Once at every rate, each time in another order; `bits` is what a machine sends at a step."""
    order = [RATES[(number + place) % len(RATES)] for place in range(len(RATES))]
    seconds: dict[float | None, float] = {}
    for rate in order:
        cell = cells[placement, rate]
        wait_s = bits / rate if rate else 0.0
        if wait_s * plan.turns > LONGEST_S:
            cell.left_out = True
            continue
        net.limit(rate)
        one_step = placement in FEW_NUMBERS or wait_s * plan.steps > 1
        cell.measured.append(ask(placement, 1 if one_step else plan.steps))
        seconds[rate] = cell.measured[-1].seconds
    net.limit(None)
    for rate, taken in seconds.items():
        cells[placement, rate].shares.append(seconds[None] / taken)


@contextmanager
def ranks(layout: Layout, net: Network, folder: Path) -> Iterator[Callable[[str, int], Measurement]]:
    """Starts the ranks; yields what lets them train so many steps in a placement, or make so many sums."""
    per_machine = layout.ranks // layout.machines
    processes: list[subprocess.Popen[str]] = []
    logs = [folder / f"rank-{layout.ranks}-{layout.machines}-{rank}.log" for rank in range(layout.ranks)]

    def ask(what: str, times: int) -> Measurement:
        before = net.sent()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"what": what, "times": times}) + "\n")
            process.stdin.flush()
        answers = []
        for process, log in zip(processes, logs, strict=True):
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"A rank died in `{what}`; the end of its log:\n{log.read_text()[-3000:]}")
            answers.append(json.loads(line))
        return Measurement(
            seconds=max(answer["seconds"] for answer in answers),
            sent=net.sent() - before,
            steps=times,
            losses=answers[0]["losses"],
            groups=answers[0]["groups"],
        )

    try:
        for rank, log in enumerate(logs):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(layout.ranks),
                "LOCAL_WORLD_SIZE": str(per_machine),
                "MASTER_ADDR": net.address(0),
                "MASTER_PORT": str(PORT),
                "GLOO_SOCKET_IFNAME": INTERFACE,
                "OMP_NUM_THREADS": "1",
            }
            with log.open("w") as stderr:
                processes.append(
                    subprocess.Popen(
                        [*net.command_in(rank // per_machine), sys.executable, str(RANK), str(folder)],
                        env=environment,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                        text=True,
                    )
                )
        yield ask
    finally:
        for process in processes:
            process.kill()
            process.wait()


class OtherProcesses:
    """How many cores everything but this benchmark keeps busy, from when it is made."""

    def __init__(self) -> None:
        self._start = (time.perf_counter(), self._busy_s() - self._own_s())

    def cores(self) -> float:
        """Call it when the ranks have been waited for: their time counts from then on."""
        start, others_s = self._start
        return max(self._busy_s() - self._own_s() - others_s, 0.0) / (time.perf_counter() - start)

    @staticmethod
    def _busy_s() -> float:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own_s() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)


def row_of(
    placement: str,
    rate: float | None,
    cells: Mapping[tuple[str, float | None], Cell],
    layout: Layout,
    size: Size,
    parameters: int,
    bits: float,
) -> dict[str, Any]:
    cell, local = cells[placement, rate], cells[placement, None]
    local_s = statistics.median(one.seconds for one in local.measured)
    predicted = predicted_bytes(placement, layout.ranks, parameters, size.checkpoints * local.measured[0].groups)
    row = {"placement": placement, "bits_per_s": rate, "predicted_bytes": round(predicted), "estimated": cell.left_out}
    if cell.left_out:
        assert rate is not None
        seconds = local_s + bits / rate
        return {**row, "steps_per_s": round(1 / seconds, 4), "share": round(local_s / seconds, 4)}
    seconds = statistics.median(one.seconds for one in cell.measured)
    quartiles = statistics.quantiles(cell.shares, n=4, method="inclusive") if len(cell.shares) > 1 else cell.shares * 3
    return {
        **row,
        "step_seconds": [round(one.seconds, 4) for one in cell.measured],
        "steps_per_s": round(1 / seconds, 4),
        "share": round(local_s / seconds, 4),
        "share_quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "sent_bytes": round(per_step(cell.measured, layout, lambda sent: sent.bytes)),
        "sent_packets": round(per_step(cell.measured, layout, lambda sent: sent.packets), 1),
        "losses_finite": all(math.isfinite(loss) for one in cell.measured for loss in one.losses),
        "loss": round(cell.measured[-1].losses[0], 6),
    }


def per_step(measured: Sequence[Measurement], layout: Layout, what: Callable[[Sent], int]) -> float:
    """What one machine sent at one step."""
    return statistics.median(what(one.sent) / one.steps / layout.machines for one in measured)


def predicted_bytes(placement: str, ranks: int, parameters: int, weights: int) -> float:
    """What `ladle_engine/placements/strategies.py` says that a machine sends at a step; `weights` is K x G.

    Collectives go around a ring: each rank sends (R-1)/R of a vector to gather or to reduce-scatter it, and twice as
    much to all-reduce it. Of four ranks on two machines, one on each sends to the other machine.
    """
    part = (ranks - 1) / ranks
    whole = 4 * parameters
    few = 2 * part * 8 * (weights + 1)
    return {
        REPLICATED: few,
        BY_NODE: few,
        BY_PARAMETER: 2 * part * whole + few,
        BY_CHECKPOINT: 4 * part * whole + few,
        # FSDP2 gathers for the forward and again for the backward pass, and reduce-scatters.
        SHARDED_MODEL: 3 * part * whole + few,
    }[placement]


COLUMNS = ("placement", "rate", "sent a step", "predicted", "steps/s", "of unlimited")


def new_table(ranks: int, machines: int) -> Table:
    return Table(*COLUMNS, title=f"{ranks} ranks on {machines} machines")


def table_of(layout: Mapping[str, Any]) -> Table:
    table = new_table(layout["ranks"], layout["machines"])
    for row in layout["rows"]:
        table.add_row(*cells_of(row))
    used, cores = layout["cores_used_by_others"], os.cpu_count()
    table.caption = f"Other processes used {used:.1f} of {cores} cores meanwhile. {sum_line(layout)}"
    return table


def cells_of(row: Mapping[str, Any]) -> list[str]:
    estimated = row["estimated"]
    low, high = row.get("share_quartiles", (0.0, 0.0))
    spread = "estimated, not run" if estimated else f"{100 * low:.0f} to {100 * high:.0f}"
    return [
        row["placement"],
        rate_text(row["bits_per_s"]),
        "-" if estimated else bytes_text(row["sent_bytes"]),
        bytes_text(row["predicted_bytes"]),
        f"{row['steps_per_s']:.2f}",
        "" if row["bits_per_s"] is None else f"{100 * row['share']:.1f} % ({spread})",
    ]


def sum_line(layout: Mapping[str, Any]) -> str:
    times = ", ".join(f"{taken} ms ({rate})" for rate, taken in layout["sum_ms"].items())
    return f"One sum of the K x G + 1 numbers, all that replicated waits for, takes {times}."


def rate_text(bits_per_s: float | None) -> str:
    if bits_per_s is None:
        return "unlimited"
    return f"{bits_per_s / 1e9:.0f} Gbit/s" if bits_per_s >= 1e9 else f"{bits_per_s / 1e6:.0f} Mbit/s"


def bytes_text(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.2f} kB"


def goal_lines(layouts: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for layout in layouts:
        for row in layout["rows"]:
            if row["placement"] in FEW_NUMBERS and row["bits_per_s"] == SLOWEST:
                lines.append(
                    f"{row['placement']}, {layout['ranks']} ranks: {100 * row['share']:.1f} % of its unlimited speed "
                    f"at {rate_text(SLOWEST)}; the goal of {100 * GOAL:.0f} % {held(row['share'] >= GOAL)}."
                )
    return lines


def markdown(result: Mapping[str, Any]) -> str:
    lines = [
        "# Bytes on the wire, and steps per second, by placement",
        "",
        f"Made by `python benchmarks/wire.py{' --quick' if result['quick'] else ''}` on {result['device']}, "
        f"{result['cores']} cores, one thread a rank. A model of {result['parameters']:,} float32 parameters, "
        f"{result['checkpoints']} checkpoints, a group a layer, batches of {result['batch_size']} over all ranks. "
        f"Machines are network namespaces on one switch; `tc` limits "
        f"what each sends and receives. Sent: what a machine's interface counts at a step, headers and "
        f"acknowledgements included. Predicted: the numbers of `placements.py`, around a ring. Speed: the median over "
        f"interleaved repeats ({result['turns'] * result['loops']} where only K x G numbers cross, else "
        f"{result['turns']}), and as a share of the unlimited one; in brackets the quartiles of that share, repeat by "
        f"repeat. Other processes on the same cores disturb the speeds, either way; the load was "
        f"{result['load_before']} before the run.",
        "",
        "Sharded-model sends more than predicted by just what FSDP2's reduce-scatter would if it were an all-reduce, "
        "which is twice as much: so gloo, the CPU's backend, seems to make it. By-parameter goes around that "
        "(`ProcessGroup.reduce_scatter`).",
        "",
        *(f"- {line}" for line in goal_lines(result["layouts"])),
    ]
    for layout in result["layouts"]:
        lines += [
            "",
            f"## {layout['ranks']} ranks on {layout['machines']} machines",
            "",
            f"Other processes used {layout['cores_used_by_others']} cores meanwhile. {sum_line(layout)}",
            "",
            *table_lines(COLUMNS, (cells_of(row) for row in layout["rows"])),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
