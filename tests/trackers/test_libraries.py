"""Each tracker with its real library: what the job told is read back with the library's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.job import NAMES, tell
from tests.trackers.library import read, variables

READ_TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0}).Reload()
scalars = {tag: [[each.step, each.value] for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
texts = {tag: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
print(json.dumps([scalars, texts]))
"""
READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("digits")
runs = client.search_runs([experiment.experiment_id])
found = []
for run in runs:
    id = run.info.run_id
    found.append({
        "name": run.info.run_name, "status": run.info.status, "params": run.data.params, "tags": run.data.tags,
        "metrics": {key: [[m.step, m.value] for m in client.get_metric_history(id, key)] for key in run.data.metrics},
        "artifacts": [each.path for each in client.list_artifacts(id)],
    })
print(json.dumps(found))
"""
READ_WANDB = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2

def records(data):
    # After a header of 7 bytes: blocks of 32 KiB, in which each part has a checksum, its length and its kind.
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

def items(them):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in them}

history, config, summary, files, run = [], {}, {}, [], None
for data in records(open(sys.argv[1], "rb").read()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    if kind == "history":
        history.append(items(record.history.item))
    elif kind == "run":
        run = [record.run.run_id, record.run.project, record.run.display_name]
        config = items(record.run.config.update)
    elif kind == "summary":
        summary |= items(record.summary.update)
    elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
        files += [entry.path for entry in record.request.log_artifact.artifact.manifest.contents]
    elif kind == "artifact":
        files += [entry.path for entry in record.artifact.manifest.contents]
print(json.dumps([run, config, history, summary, files]))
"""
READ_TRACKIO = """
import json
from trackio.sqlite_storage import SQLiteStorage
[run] = SQLiteStorage.get_runs("digits")
print(json.dumps([run, SQLiteStorage.get_logs("digits", run)], default=str))
"""


def told(done: Any) -> None:
    assert done.returncode == 0, done.stderr[-4000:]
    assert "problem" not in done.stdout, done.stdout + done.stderr[-4000:]


def test_tensorboard_reads_curves_tables_and_the_report(tmp_path: Path) -> None:
    told(tell("tensorboard", tmp_path, {}))
    folder = tmp_path / "trackers" / "tensorboard" / "digits" / "my-run-7"
    scalars, texts = read("tensorboard", READ_TENSORBOARD, str(folder))
    assert scalars["train/twa/loss"] == [[1, 0.5], [2, 0.25]]
    assert scalars["candidates/twa/gain_low"] == [[2, pytest.approx(0.01)]]
    assert scalars["coefficients/twa/step-100"] == [[0, 0.5], [2, pytest.approx(0.4)]]
    assert scalars["merge_curve/average"] == [[100, pytest.approx(0.9)]]
    assert "| method.name | twa |" in texts["settings/text_summary"]
    assert NAMES[1] in texts["coefficients/text_summary"], "as text: TensorBoard makes it harmless itself"
    assert "Accuracy 95.0 %" in texts["report/text_summary"]


def test_mlflow_reads_runs_with_artifacts_and_a_second_attempt_goes_on_with_the_same_run(tmp_path: Path) -> None:
    environment = variables("mlflow", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    told(tell("mlflow", tmp_path, environment, word={"ok": False}))
    uri = f"sqlite:///{tmp_path / 'trackers' / 'mlflow' / 'mlflow.db'}"
    [run] = read("mlflow", READ_MLFLOW, uri)
    assert run["status"] == "FAILED"
    told(tell("mlflow", tmp_path, environment))
    [run] = read("mlflow", READ_MLFLOW, uri)
    assert (run["name"], run["status"], run["tags"]["ladle.job"]) == ("my-run-7", "FINISHED", "job7")
    assert run["params"] == {"method.name": "twa", "seed": "3"}
    assert [2, 0.25] in run["metrics"]["train/twa/loss"]
    assert run["metrics"]["gain"][-1][1] == 0.05
    assert {"report.html", "report.json", "coefficients.json"} <= set(run["artifacts"])
    assert "candidates.json" in run["artifacts"]


def test_wandb_writes_offline_what_its_sync_would_send(tmp_path: Path) -> None:
    told(tell("wandb", tmp_path, variables("wandb")))
    [file] = (tmp_path / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    run, config, history, summary, files = read("wandb", READ_WANDB, str(file))
    assert run == ["job7", "digits", "my-run-7"]
    assert (config["method.name"], config["seed"]) == ("twa", 3)
    losses = [(each["train/twa/step"], each["train/twa/loss"]) for each in history if "train/twa/loss" in each]
    assert losses == [(1, 0.5), (2, 0.25)]
    assert any("report/path" in each for each in history)
    assert summary["winner"] == "twa"
    assert {"report.html", "report.json", "coefficients.json"} <= set(files)


def test_trackio_keeps_runs_in_its_own_database(tmp_path: Path) -> None:
    environment = variables("trackio", TRACKIO_DIR=str(tmp_path / "trackers" / "trackio"))
    told(tell("trackio", tmp_path, environment))
    run, logs = read("trackio", READ_TRACKIO, environment=environment)
    assert run == "my-run-7"
    assert [each["train/twa/loss"] for each in logs if "train/twa/loss" in each] == [0.5, 0.25]
    assert any(each.get("summary/winner") == "twa" for each in logs)


def test_wandb_without_a_way_to_its_server_fails_in_one_sentence_and_leaves_the_key_out(tmp_path: Path) -> None:
    key = "0123456789" * 4
    environment = variables(
        "wandb", WANDB_MODE="online", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=key, WANDB_INIT_TIMEOUT="3"
    )
    done = tell("wandb", tmp_path, environment)
    assert done.returncode == 0
    problem = json.loads(done.stdout)["problem"]
    assert problem.startswith("The tracker `wandb` was told nothing more, because it failed: ")
    assert key not in problem


def test_mlflow_server_that_is_not_there_fails_in_one_sentence(tmp_path: Path) -> None:
    environment = variables(
        "mlflow", MLFLOW_TRACKING_URI="http://u:hidden@127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
    )
    done = tell("mlflow", tmp_path, environment)
    problem = json.loads(done.stdout)["problem"]
    assert "hidden" not in problem
    assert not (tmp_path / "trackers" / "mlflow").exists()
