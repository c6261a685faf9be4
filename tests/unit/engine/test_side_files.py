"""What lies beside the weights: copied when the model needs it, not when it tells of the old model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine import CheckpointError, combine_checkpoints, discover
from ladle_engine.checkpoints import side_files
from ladle_engine.progress import ProgressEvent, Warned


def two(folder: Path) -> Path:
    for step in (1, 2):
        home = folder / f"checkpoint-{step}"
        home.mkdir(parents=True)
        save_file({"w": torch.full((2,), float(step))}, home / "model.safetensors")
    return folder


NEEDED = {
    "Marian": ["source.spm", "target.spm", "vocab.json", "generation_config.json", "tokenizer_config.json"],
    "BERT": ["vocab.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "config.json"],
    "GPT-2": ["merges.txt", "vocab.json"],
    "T5 and Llama": ["spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "chat_template.jinja"],
    "images and sound": ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"],
    "fairseq": ["dict.en.txt", "bpe.codes", "code.bpe"],
    "WeNet": ["train.yaml"],
    "others": ["qwen.tiktoken", "tekken.json", "params.json", "labels.txt", "adapter_config.json", "LICENSE", "vocab"],
}
OLD = {
    "scores": ["all_results.json", "eval_results.json", "train_results.json", "test_results.json", "metrics.json"],
    "more scores": ["scores.json", "eval.json", "evaluation.json", "summary.json", "best_metric.txt"],
    "how it was run": ["command.txt", "hyperparameters.yaml", "git_info.json", "stdout.txt", "trainer_config.json"],
    "training": ["trainer_state.json", "trainer_log.jsonl", "trainer_log_history.json", "training_args.json"],
    "settings": ["args.json", "optimizer.json", "scheduler.bin", "rng_state.pth"],
    "logs": ["train.log", "log.txt", "slurm-12.out", "events.out.tfevents.1.x", "wandb-summary.json", "history.json"],
    "texts": ["README.md", "model_card.md", "predictions.txt", "generated_predictions.txt", "notes.md"],
    "indices": ["pytorch_model.bin.index.json", "model.fp16.safetensors.index.json"],
    "code": ["modeling_custom.py", "run.sh", "notebook.ipynb", "kernel.so"],
    "data": ["train.jsonl", "data.csv", "curve.png", "archive.zip", "features.npy"],
    "pickles": ["state.pkl", "vocab.pickle", "tokenizer.joblib"],
    "unfinished": ["tokenizer.json.tmp", "vocab.txt.part", ".hidden.json"],
    "Ladle's coefficients": ["coefficients.json"],
    "Ladle's report": ["report.json"],
}


@pytest.mark.parametrize("place", [".", "checkpoint-2"])
@pytest.mark.parametrize("names", NEEDED.values(), ids=NEEDED)
def test_what_the_model_needs_is_copied(tmp_path: Path, names: list[str], place: str) -> None:
    folder = two(tmp_path / "in")
    for name in names:
        (folder / place / name).write_text("{}")
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert {path.name for path in output.iterdir()} == {"model.safetensors", *names}


@pytest.mark.parametrize("place", [".", "checkpoint-2"])
@pytest.mark.parametrize("names", OLD.values(), ids=OLD)
def test_what_tells_of_the_old_model_is_not_copied(tmp_path: Path, names: list[str], place: str) -> None:
    folder = two(tmp_path / "in")
    for name in names:
        (folder / place / name).write_text('{"weight_map": {"w": "gone.safetensors"}}')
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert [path.name for path in output.iterdir()] == ["model.safetensors"]


def test_what_tells_of_one_checkpoint_is_not_copied(tmp_path: Path) -> None:
    for epoch in (1, 2):
        torch.save({"w": torch.full((2,), float(epoch))}, tmp_path / f"epoch_{epoch}.pt")
        (tmp_path / f"epoch_{epoch}.yaml").write_text("cv_loss: 0.5")
    (tmp_path / "conf.yaml").write_text("width: 2")
    output = combine_checkpoints(tmp_path, output=tmp_path / "out")
    assert {path.name for path in output.iterdir()} == {"model.safetensors", "conf.yaml"}


def test_diffusers_finds_the_model_by_the_name_that_it_gave_it(tmp_path: Path) -> None:
    name = "diffusion_pytorch_model"
    (tmp_path / "model_index.json").write_text("{}")
    for step in (1, 2):
        home = tmp_path / f"checkpoint-{step}" / "unet"
        home.mkdir(parents=True)
        save_file(
            {"v": torch.ones(2), "w": torch.full((2,), float(step))}, home / "diffusion_pytorch_model.safetensors"
        )
        (home / "config.json").write_text("{}")
    name = "diffusion_pytorch_model"
    whole = combine_checkpoints(tmp_path, component="unet", output=tmp_path / "out")
    assert {path.name for path in whole.iterdir()} == {f"{name}.safetensors", "config.json"}
    sharded = combine_checkpoints(tmp_path, component="unet", output=tmp_path / "sharded", max_shard_bytes=8)
    shards = {f"{name}-{number:05}-of-00002.safetensors" for number in (1, 2)}
    assert {path.name for path in sharded.iterdir()} == {*shards, f"{name}.safetensors.index.json", "config.json"}


def test_ladles_own_report_is_not_copied(tmp_path: Path) -> None:
    folder = two(tmp_path / "in")
    (folder / "report.json").write_text("{}")
    assert discover(folder).side_files == ()


def test_a_pickle_is_not_copied_whatever_its_name(tmp_path: Path) -> None:
    folder = two(tmp_path / "in")
    (folder / "tokenizer.model").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": 1}, folder / "vocab.spm")
    assert discover(folder).side_files == ()


def test_folders_that_belong_to_the_model_are_copied(tmp_path: Path) -> None:
    folder = two(tmp_path / "in")
    home = folder / "checkpoint-2"
    (home / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "../../x"}]))
    for name in ("1_Pooling/config.json", "additional_chat_templates/tools.jinja", "runs/notes.json"):
        (home / name).parent.mkdir()
        (home / name).write_text("{}")
    output = combine_checkpoints(folder, output=tmp_path / "out")
    found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert found == {
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "additional_chat_templates/tools.jinja",
    }


def test_what_is_too_large_or_a_link_that_leads_out_is_left_behind_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = two(tmp_path / "in")
    (tmp_path / "outside.json").write_text("{}")
    (folder / "tokenizer.json").symlink_to(tmp_path / "outside.json")
    (folder / "vocab.txt").write_text("long" * 10)
    (folder / "merges.txt").write_text("short")
    monkeypatch.setattr(side_files, "MOST_BYTES", 10)
    seen: list[ProgressEvent] = []
    output = combine_checkpoints(folder, output=tmp_path / "out", progress=seen.append)
    assert {path.name for path in output.iterdir()} == {"model.safetensors", "merges.txt"}
    assert [event.message for event in seen if isinstance(event, Warned)] == [
        "Not copied to the result: `tokenizer.json` (a link that leads out), `vocab.txt` (too large: 40 bytes)."
    ]


def test_a_config_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = two(tmp_path / "in")
    (tmp_path / "config.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(CheckpointError) as caught:
        discover(folder)
    assert caught.value.code == "path-not-allowed"
    # `exclude` leaves out checkpoints, and no config.
    assert caught.value.message.endswith("is a link that leads out. Copy it into the folder.")
