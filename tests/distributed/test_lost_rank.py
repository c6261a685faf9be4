"""A rank that dies or hangs inside a collective: the others end soon, with a message that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ladle_engine.distributed.collectives import ProcessGroup
from tests.distributed.start import start
from tests.unit.engine.toy import plain_net, write_checkpoints

APART = ("tests.distributed.apart",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "count", "lost", "how", "named"),
    [
        ("among all", 3, 1, "dies", "rank 1 did not answer"),
        ("among all", 3, 0, "dies", "rank 0, or whatever else holds"),
        ("among all", 3, 2, "hangs", "rank 2 did not"),
        ("in a node", 4, 3, "hangs", "rank 3 did not answer"),
        ("training a sharded model", 3, 1, "dies", "rank 1 did not answer"),
        ("evaluating a sharded model", 3, 2, "hangs", "rank 2 did not answer"),
    ],
    ids=lambda value: str(value),
)
def test_the_others_end_and_name_it(tmp_path: Path, where: str, count: int, lost: int, how: str, named: str) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=5)
    program = ("tests.distributed.lost_rank", str(lost), how, where, str(tmp_path))
    done = start(count, str(lost), *program, launcher=APART)
    for rank in set(range(count)) - {lost}:
        said = tmp_path / f"said-{rank}"
        assert said.exists(), done.stderr
        assert named in said.read_text()


def test_an_error_of_the_models_own_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="shapes") as caught, ProcessGroup().translate_collective_errors():
            torch.zeros(2, 3) @ torch.zeros(2, 3)
    finally:
        dist.destroy_process_group()
    assert caught.type is RuntimeError, "not `RankLostError`, which another attempt may mend"


@pytest.mark.slow
def test_by_node_is_refused_where_ranks_do_not_divide_into_equal_nodes(tmp_path: Path) -> None:
    start(3, "none", "tests.distributed.uneven_rank", str(tmp_path), launcher=APART)
    for rank in range(3):
        assert (tmp_path / f"said-{rank}").read_text() == (
            "[invalid-placement] `placement=` must be another one where nodes differ in their number of ranks, but is "
            "`by-node`: 3 ranks are on nodes of 1 and 2."
        )
