"""What `ladle doctor --url` says of a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from importlib.metadata import version
from typing import Any

import httpx2
import pytest

from ladle.cli import doctor_cluster
from ladle.cli.doctor_cluster import examine_nodes, examine_service
from ladle.cli.findings import Finding
from ladle_contracts import ErrorCode, Inspection, JobPage, JobRecord, JobState, NodeRecord, Vetting
from ladle_contracts.api import NodeList, Version
from ladle_report import numbers
from tests.unit.client.answers import Handler, client, ok, problem, record

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def clock_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows `NOW`, whenever the tests run."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return NOW.astimezone(tz)

    for module in (doctor_cluster, numbers):
        monkeypatch.setattr(module, "datetime", Clock)


HERE = version("ladle")


def node(name: str, **fields: Any) -> NodeRecord:
    known = {
        "host": f"{name}.example", "ranks": 8, "gpus": ("H100",) * 8, "version": HERE, "torch_version": "2.13.0",
        "started_at": NOW - timedelta(hours=1), "heartbeat_at": NOW, "alive": True,
    }  # fmt: skip
    return NodeRecord(id=name, **known | fields)


def service(nodes: Iterable[NodeRecord] = (), queued: Iterable[JobRecord] = (), of: str = HERE) -> Handler:
    def answer(request: httpx2.Request) -> httpx2.Response:
        match request.url.path:
            case "/version":
                return ok(Version(version=of))
            case "/v1/nodes":
                return ok(NodeList(nodes=tuple(nodes)))
            case "/v1/inspect":
                if b"/data" not in request.content:
                    return problem(ErrorCode.PATH_NOT_ALLOWED)
                return ok(Inspection(folder="/data", usable=True))
            case _:
                return ok(JobPage(jobs=tuple(queued)))

    return answer


def found(handler: Handler, *roots: str) -> dict[str, Finding]:
    with client(handler, patience=0.0) as asked:
        return {finding.name: finding for finding in examine_service(asked, roots)}


def of_nodes(*nodes: NodeRecord) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_nodes(nodes, HERE)}


def test_a_cluster_that_is_well_has_no_finding() -> None:
    findings = found(service([node("a"), node("b")]), "/data/runs")
    assert [name for name, finding in findings.items() if not finding.ok] == []
    for name in (
        "service",
        "version of this command",
        "token",
        "nodes",
        "clocks",
        "GPUs",
        "folder /data/runs",
        "queue",
    ):
        assert name in findings
    assert findings["nodes"].detail == "2 ready"
    assert findings["GPUs"].detail == "8 x H100"


def test_every_node_that_takes_no_jobs_is_named_with_why_and_what_to_do() -> None:
    findings = of_nodes(
        node("a"),
        node("gone", alive=False, heartbeat_at=NOW - timedelta(hours=3)),
        node("out", cordoned="drained by ann: new cables"),
        node("broken", vetting=Vetting(at=NOW, took_s=1.0, problem="GPU 3 has fallen off the bus")),
        node("flaky", failures_in_row=2, last_failure="its ranks were killed"),
    )
    assert findings["nodes"].ok
    assert findings["nodes"].detail == "1 cordoned, 1 gone, 3 ready"
    assert findings["node gone"].detail == "was last seen 3 h ago on host gone.example"
    assert findings["node out"].detail == "takes no jobs: drained by ann: new cables"
    assert "ladle node uncordon out" in findings["node out"].fix
    assert "GPU 3 has fallen off the bus" in findings["node broken"].detail
    assert findings["node flaky"].detail == "failed 2 x in a row: its ranks were killed"
    assert not any(finding.ok for name, finding in findings.items() if name.startswith("node "))
    assert "node a" not in findings


def test_without_a_node_that_takes_jobs_nothing_can_run() -> None:
    for nodes in ((), (node("a", cordoned="cordoned by ann"),)):
        finding = of_nodes(*nodes)["nodes"]
        assert not finding.ok
        assert finding.needed
        assert "python -m ladle_worker" in finding.fix


def test_what_differs_between_nodes_is_said_with_who_has_what() -> None:
    findings = of_nodes(node("a"), node("b", version="0.0.9", torch_version="2.12.0", gpus=("H100",) * 7))
    assert findings["versions of Ladle"].detail == f"{HERE} on a, the service; 0.0.9 on b"
    assert findings["versions of torch"].detail == "2.13.0 on a; 2.12.0 on b"
    assert findings["GPUs"].detail == "8 x H100 on a; 7 x H100 on b"
    assert not any(findings[name].ok for name in ("versions of Ladle", "versions of torch", "GPUs"))


def test_a_node_that_only_hands_jobs_over_needs_no_gpu() -> None:
    assert "GPUs" not in of_nodes(node("a"), node("slurm", gpus=(), dispatches=True))


def test_clocks_that_differ_are_found_on_nodes_and_here() -> None:
    ahead = Vetting(at=NOW + timedelta(minutes=5), took_s=1.0)
    behind = Vetting(at=NOW - timedelta(hours=2), took_s=1.0)
    later = Vetting(at=NOW - timedelta(minutes=20), took_s=1.0)
    findings = of_nodes(node("a", vetting=ahead), node("b", vetting=behind), node("c", vetting=later))
    detail = findings["clocks"].detail
    assert "a by at least 5 min" in detail
    assert "b by at least" in detail
    assert "c by" not in detail, "it checked itself again before a job"
    long_ago = NOW - timedelta(days=1)
    here = of_nodes(node("a", heartbeat_at=long_ago, started_at=long_ago))["clocks"]
    assert "this machine by about 24 h" in here.detail
    assert "timedatectl" in here.fix


def queued(job_id: str, minutes: float, why: str | None) -> JobRecord:
    waits = record(JobState.QUEUED, id=job_id, waiting_for=why)
    return waits.model_copy(update={"created_at": NOW - timedelta(minutes=minutes)})


def test_jobs_that_wait_are_counted_by_reason_and_a_long_wait_is_a_finding() -> None:
    why = "needs 4 nodes, 1 free of 2"
    soon = found(service([node("a")], [queued("j", 1, why)]))["queue"]
    assert soon.ok
    long = found(service([node("a")], [queued("j", 90, why), queued("k", 2, why), queued("l", 1, None)]))["queue"]
    assert not long.ok
    assert long.detail == f"3 waiting, the oldest since 1 h ago: 2 {why}; for their turn"
    assert "--min-nodes" in long.fix


def test_a_wrong_token_is_told_apart_from_a_service_that_does_not_answer() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        return ok(Version(version=HERE)) if request.url.path == "/version" else problem(ErrorCode.UNAUTHORIZED)

    wrong = found(refuse)
    assert wrong["service"].ok
    assert not wrong["token"].ok
    assert "ladle token create" in wrong["token"].fix

    def down(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    (finding,) = found(down).values()
    assert (finding.name, finding.ok, finding.needed) == ("service", False, True)


def test_a_service_of_another_version_and_a_folder_that_nobody_sees() -> None:
    findings = found(service([node("a")], of="9.9.9"), "/elsewhere")
    assert findings["version of this command"].detail == f"{HERE}, and the service has 9.9.9"
    assert "ladle==9.9.9" in findings["version of this command"].fix
    assert findings["folder /elsewhere"].detail == "missing, or outside the allowed folders"
    assert "same path on every node" in findings["folder /elsewhere"].fix
