"""What `ladle nodes` and `ladle node` show."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ladle_contracts import NodeRecord, Vetting
from ladle_contracts.api import NodeChange
from ladle_report.numbers import ago

STYLES = {"ready": "green", "busy": "green", "gone": "red"}
GIB = 1 << 30
GB = 1e9


def nodes_view(nodes: Sequence[NodeRecord]) -> RenderableType:
    """A row for each node, and below a line for each about which there is more to say."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("node", "state", "ranks", "GPUs", "torch", "confined", "job", "vetting", "last seen"):
        table.add_column(name)
    for node in nodes:
        table.add_row(
            node.id,
            Text(node.state, STYLES.get(node.state, "yellow")),
            str(node.ranks),
            ", ".join(node.gpus) or "-",
            node.torch_version,
            ", ".join(node.protections) or "-",
            ", ".join(node.job_ids) or node.job_id or "-",
            vetting_text(node.vetting),
            ago(node.heartbeat_at),
        )
    notes = [note for node in nodes if (note := note_of(node))]
    return Group(table, "", *[Text(note) for note in notes]) if notes else table


def note_of(node: NodeRecord) -> str:
    """Why a node takes no jobs, and what has failed there. Empty where all is well."""
    parts = [f"takes no jobs: {node.cordoned}."] if node.cordoned is not None else []
    if node.failures_in_row:
        times = "once" if node.failures_in_row == 1 else f"{node.failures_in_row} times in a row"
        last = f" The last time: {node.last_failure}" if node.last_failure else ""
        parts.append(f"has failed {times}.{last}")
    if node.vetting is not None and node.vetting.problem is not None:
        parts.append(f"did not pass its vetting {ago(node.vetting.at)}: {node.vetting.problem}")
    return f"{node.id} " + " It ".join(parts) if parts else ""


def vetting_text(vetting: Vetting | None) -> str:
    """`40 of 80 GiB free, reads 1.2 GB/s`"""
    if vetting is None:
        return "-"
    if vetting.problem is not None:
        return "failed"
    parts = []
    if vetting.gpus:
        least = min(vetting.gpus, key=lambda gpu: gpu.free_bytes)
        parts.append(f"{least.free_bytes / GIB:.0f} of {least.total_bytes / GIB:.0f} GiB free")
    if vetting.read_bytes_per_s is not None:
        cached = " (cached)" if vetting.read_from_cache else ""
        parts.append(f"reads {vetting.read_bytes_per_s / GB:.1f} GB/s{cached}")
    return ", ".join(parts) or "ok"


def change_text(change: NodeChange, verb: str) -> str:
    """What an operator is told after `verb`."""
    node = change.node
    if verb == "uncordon":
        return f"Node {node.id} takes jobs again." if change.changed else f"Node {node.id} was not cordoned."
    done = "cordoned" if verb == "cordon" else node.state if node.state in ("draining", "drained") else "drained"
    if not change.changed:
        return f"Node {node.id} was {done} already: {node.cordoned}."
    runs = (
        f" It still runs {', '.join(node.job_ids) or node.job_id}."
        if node.state in ("draining", "cordoned") and (node.job_id or node.job_ids)
        else ""
    )
    return f"Node {node.id} is {done} and takes no more jobs.{runs}"
