"""What is in a folder, asked of a real service: a real worker looks, confined, also while it runs a job."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from ladle import InvalidSpec, ServiceError
from ladle_contracts import TERMINAL_STATES, keys
from tests.builders import make_base, make_checkpoints, make_val_set
from tests.integration.api_stack import Stack, api_stack
from tests.integration.life import Gate
from tests.integration.test_command import ladle
from tests.polling import until
from tests.servers import gated_worker, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With a worker whose ranks can be held."""
    folder = tmp_path_factory.mktemp("inspect")
    with (
        api_stack(folder) as made,
        running(gated_worker(folder, made.server, folder / "data")),
        made.client() as asking,
    ):
        make_checkpoints(folder / "data" / "good")
        make_val_set(folder / "data" / "val.npz")
        until(lambda: asking.methods(), what="the worker to register")
        yield made


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("/tmp/ladle-canary-of-inspect",)


@pytest.mark.slow
def test_a_folder_is_described_with_the_filters_of_a_job(stack: Stack) -> None:
    with stack.client() as client:
        found = client.inspect(stack.folder / "data/good", checkpoints={"exclude": "epoch-2.*"}, task="small-cnn")
    assert found.usable, found.problems
    assert [each.name for each in found.checkpoints if each.taken] == [f"epoch-{n}.safetensors" for n in (1, 3, 4)]
    assert found.plan is not None
    assert (found.plan.model, found.plan.order) == ("SmallCnn", "epoch")


def test_weights_are_read_for_a_forecast_and_a_base_must_be_inside_the_roots(stack: Stack) -> None:
    good = stack.folder / "data/good"
    base = make_base(stack.folder / "data" / "base.safetensors", good / "epoch-1.safetensors")
    with stack.client() as client:
        found = client.inspect(good, base=base, forecast=True)
        outside = make_base(stack.folder / "base.safetensors", good / "epoch-1.safetensors")
        with pytest.raises(InvalidSpec, match="`base`"):
            client.inspect(good, base=outside)
    assert found.usable, found.problems
    assert found.forecast is not None
    assert found.forecast.result.low < found.forecast.result.lower < found.forecast.result.high
    assert found.base is not None
    assert found.base.fits
    assert len(found.base.distances) == 4


@pytest.mark.slow
def test_it_works_while_the_only_node_runs_a_job(stack: Stack) -> None:
    gate = Gate(stack.folder / "results/gates")
    gate.hold("train-1")
    data = stack.folder / "data"
    with stack.client() as client:
        job = client.submit(data / "good", data / "val.npz", method="twa", task="small-cnn")
        until(lambda: gate.reached("train-1"), what="training")
        assert client.inspect(data / "good").usable
        assert job.status().state not in TERMINAL_STATES
        (gate.folder / "train-1.hold").unlink()
        job.cancel()
        job.wait(timeout=60)


def test_what_is_outside_the_roots_is_not_told_of(stack: Stack) -> None:
    outside = make_checkpoints(stack.folder / "secret")
    link = stack.folder / "data" / "link"
    link.symlink_to(outside)
    inner = make_checkpoints(stack.folder / "data" / "inner")
    (inner / "epoch-9.safetensors").symlink_to(outside / "epoch-1.safetensors")
    with stack.client() as client:
        for path in (outside, link, stack.folder / "data" / "absent"):
            with pytest.raises(InvalidSpec) as caught:
                client.inspect(path)
            assert caught.value.code == "path-not-allowed"
        found = client.inspect(inner)
    row = next(each for each in found.checkpoints if each.name == "epoch-9.safetensors")
    assert row.problem is not None
    assert row.problem.code == "path-not-allowed"
    assert (row.size_bytes, row.num_tensors) == (0, None)
    assert not found.usable


def test_a_hostile_folder_is_described_and_nothing_in_it_runs(stack: Stack) -> None:
    folder = make_checkpoints(stack.folder / "data" / "hostile")
    (folder / "epoch-5.pt").write_bytes(pickle.dumps(Canary()))
    (folder / "epoch-6.pt").write_bytes(b"\x80\x04" + b"]" * 1_000_000)
    os.mkfifo(folder / "epoch-7.safetensors")
    header = json.dumps({"w" * 100: {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()
    (folder / "epoch-8.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with stack.client() as client:
        found = client.inspect(folder)
    assert not Path("/tmp/ladle-canary-of-inspect").exists()
    assert {each.name for each in found.checkpoints if each.usable} >= {f"epoch-{n}.safetensors" for n in (1, 2, 3, 4)}
    assert not next(each for each in found.checkpoints if each.name == "epoch-8.safetensors").usable
    assert not found.usable


@pytest.mark.slow
def test_a_huge_folder_is_answered_in_part_and_says_so(stack: Stack) -> None:
    folder = stack.folder / "data" / "huge"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"epoch-{number:05}-{'x' * 150}.pt").touch()
    with stack.client() as client:
        found = client.inspect(folder)
    assert not found.usable
    assert len(found.passed_over) + found.not_listed == 10_000
    assert len(found.model_dump_json()) < 5_000_000


def test_a_request_that_breaks_a_rule_names_the_field(stack: Stack) -> None:
    with stack.client() as client:
        with pytest.raises(InvalidSpec, match=r"`checkpoints\.last`"):
            client.inspect(stack.folder / "data/good", checkpoints={"last": 0})
        with pytest.raises(InvalidSpec, match=r"`checkpoints\.lost`"):
            client.inspect(stack.folder / "data/good", checkpoints={"lost": 2})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid-spec"),
        ({"ckpt_dir": 7}, 422, "invalid-spec"),
        ({"ckpt_dir": "a\0b"}, 422, "invalid-spec"),
        ({"ckpt_dir": "/", "val_set": "/"}, 422, "invalid-spec"),
        ({"ckpt_dir": "/"}, 422, "path-not-allowed"),
        ({"ckpt_dir": ["relative"]}, 422, "path-not-allowed"),
        ({"ckpt_dir": "s3://bucket/run"}, 422, "path-not-allowed"),
        ({"ckpt_dir": "x" * 2_000_000}, 413, "body-too-large"),
    ],
)
def test_a_body_that_breaks_a_rule_is_a_problem(stack: Stack, body: object, status: int, code: str) -> None:
    answer = httpx2.post(f"{stack.url}/v1/inspect", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.slow
def test_the_command_asks_the_service_and_its_status_says_whether_a_job_can_begin(stack: Stack) -> None:
    done = ladle(stack, "inspect", str(stack.folder / "data/good"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["task"] == "small-cnn"
    refused = ladle(stack, "inspect", str(stack.folder / "data/good"), "--last", "1")
    assert refused.returncode == 1
    assert "too-few-checkpoints" in refused.stdout


def test_without_a_worker_or_an_answer_it_says_which(tmp_path: Path) -> None:
    with api_stack(tmp_path) as made, made.client(patience=0.0) as client:
        make_checkpoints(tmp_path / "data/good")
        with pytest.raises(ServiceError) as caught:
            client.inspect(tmp_path / "data/good")
        assert (caught.value.code, caught.value.status) == ("no-node", 503)
        with redis.Redis.from_url(made.server.url) as connection:
            assert connection.llen(keys.INSPECTIONS) == 0
