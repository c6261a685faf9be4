"""Where the nodes of a job are, and what keeps them from running together."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import Reason
from ladle_worker.gang import CannotMeet, Gang, Place, free_port, gather, interface_of, own_address, place_of
from ladle_worker.launch.environment import rank_environment
from ladle_worker.settings import Settings, read_ports

VERSIONS = {"ladle": "1.0", "torch": "2.13.0"}


def settings(**values: Any) -> Settings:
    return Settings(node_id="node-1", roots=(Path("/data"),), results_dir=Path("/results"), **values)


def place(number: int, **values: Any) -> Place:
    known = {"node": f"node-{number}", "host": f"host-{number}", "address": f"10.0.0.{number}", "port": 29400 + number}
    return Place(**{**known, "versions": VERSIONS, **values})


def test_a_place_comes_through_redis_as_it_was() -> None:
    assert Place.of_json(place(3).to_json()) == place(3)


def test_rank_0_waits_on_the_first_node() -> None:
    gang = gather([place(1), place(2), place(3)], node_rank=2)
    assert gang == Gang(num_nodes=3, node_rank=2, head=place(1), address="10.0.0.3")
    assert gang.torchrun_arguments == (
        *("--nnodes=3", "--node-rank=2", "--master-addr=10.0.0.1", "--master-port=29401"),
    )


@pytest.mark.parametrize("name", VERSIONS)
def test_nodes_of_two_versions_are_refused_and_named(name: str) -> None:
    with pytest.raises(
        CannotMeet, match=f"same version of {name}, but node `node-1` has .* and node `node-2` has 0.9"
    ) as caught:
        gather([place(1), place(2, versions={**VERSIONS, name: "0.9"})], node_rank=0)
    assert caught.value.reason is Reason.VERSION_MISMATCH


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1"])
def test_an_address_that_other_hosts_cannot_reach_is_refused(address: str) -> None:
    with pytest.raises(CannotMeet, match=r"`node-1` has only the address .* Set `LADLE_ADDRESS` on `node-1`"):
        gather([place(1, address=address), place(2)], node_rank=1)


def test_two_nodes_of_one_host_may_meet_on_it() -> None:
    places = [place(number, host="host", address="127.0.0.1") for number in (1, 2)]
    assert gather(places, node_rank=0).head.address == "127.0.0.1"


def test_a_port_that_somebody_has_is_not_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(CannotMeet, match=f"A port of {port}-{port} must be free at 127.0.0.1.*`LADLE_PORTS`"):
            free_port("127.0.0.1", (port, port))
    assert free_port("127.0.0.1", (port, port)) == port


def test_the_interface_is_that_of_the_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") is None


@pytest.mark.parametrize(
    ("url", "address"), [("unix:///run/redis.sock", "127.0.0.1"), ("redis://127.0.0.1:6379/0", "127.0.0.1")]
)
def test_the_address_is_that_which_leads_to_redis(url: str, address: str) -> None:
    assert own_address(settings(redis_url=url)) == address


def test_the_operator_may_set_it_by_name_or_number() -> None:
    assert own_address(settings(address="localhost")) in ("127.0.0.1", "::1")
    assert place_of(settings(address="127.0.0.1", ports="29400-29499")).address == "127.0.0.1"
    with pytest.raises(
        CannotMeet, match=r"`LADLE_ADDRESS` of node `node-1` must be an address .* but is `no.such.host.invalid`"
    ):
        own_address(settings(address="no.such.host.invalid"))


@pytest.mark.parametrize(("text", "ports"), [("29400-29499", (29400, 29499)), ("29400", (29400, 29400))])
def test_ports_are_one_or_a_range(text: str, ports: tuple[int, int]) -> None:
    assert read_ports(text) == ports


@pytest.mark.parametrize("text", ["", "a", "2-1", "0-5", "70000", "1-70000", "1-2-3"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a port or a range of them"):
        read_ports(text)


def test_the_node_with_the_fewest_gpus_decides_how_many_ranks_run_on_each() -> None:
    assert gather([place(1, ranks=8), place(2, ranks=4), place(3, ranks=8)], node_rank=0).ranks_per_node == 4


def test_a_place_of_another_version_is_read_so_that_its_version_can_be_named() -> None:
    newer = json.dumps({**json.loads(place(1).to_json()), "racks": 2})
    older = {name: value for name, value in json.loads(place(2).to_json()).items() if name != "ranks"}
    assert (Place.of_json(newer), Place.of_json(json.dumps(older)).ranks) == (place(1), 1)


def test_nccl_gets_the_whole_name_of_the_interface_and_the_operators_word_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gang = Gang(num_nodes=2, node_rank=0, head=place(1), address="127.0.0.1")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    assert rank_environment(1, gang)["NCCL_SOCKET_IFNAME"] == "=lo"
    for name, value in {"NCCL_SOCKET_IFNAME": "ib0", "NCCL_IB_HCA": "mlx5_0", "TORCH_FR_BUFFER_SIZE": "50"}.items():
        monkeypatch.setenv(name, value)
        assert rank_environment(1, gang)[name] == value
    monkeypatch.setenv("LADLE_REDIS_URL", "redis://:secret@head")
    assert "LADLE_REDIS_URL" not in rank_environment(1, gang)
