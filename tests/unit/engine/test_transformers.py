"""A folder as Hugging Face's Trainer leaves it: in, averaged, and back through `from_pretrained`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ladle_engine import EngineError, average

transformers = pytest.importorskip("transformers")

CLASSES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoint-10`, `checkpoint-20`, `checkpoint-30` of a tiny vision transformer, and a folder of images."""
    root = tmp_path_factory.mktemp("trainer")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=8,
        num_channels=3, id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config)
    processor = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for step in (10, 20, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        home = root / "run" / f"checkpoint-{step}"
        model.save_pretrained(home)
        (home / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (home / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, **processor}))
        torch.save({"lr": 0.1}, home / "optimizer.pt")
        torch.save({"args": 1}, home / "training_args.bin")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (root / "val" / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (20, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "val" / name / f"{number}.png")
    return root


def copied(runs: Path, tmp_path: Path) -> Path:
    """The checkpoints again, with their weights and configs, for a test that changes them."""
    folder = tmp_path / "run"
    for source in (runs / "run").iterdir():
        (folder / source.name).mkdir(parents=True)
        for file in ("model.safetensors", "config.json"):
            (folder / source.name / file).write_bytes((source / file).read_bytes())
    return folder


def test_a_trainer_folder_becomes_a_model_that_from_pretrained_loads(runs: Path, tmp_path: Path) -> None:
    outcome = average(
        runs / "run", runs / "val", output=tmp_path / "out", method="uniform", task_options={"batch_size": 8}
    )
    assert outcome.num_checkpoints == 3
    model, info = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    model.save_pretrained(tmp_path / "again")
    written, again = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert written.keys() == again.keys(), "under the names that transformers saves, which are not those in memory"
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "preprocessor_config.json"} <= files
    assert not {"trainer_state.json", "optimizer.pt", "training_args.bin"} & files


def test_the_written_model_has_the_score_that_the_report_says(runs: Path, tmp_path: Path) -> None:
    """Through transformers alone: its model, and the images prepared by hand."""
    from ladle_engine.tasks.examples import split

    outcome = average(
        runs / "run", runs / "val", output=tmp_path / "out", method="twa", method_options={"steps": 4},
        task_options={"batch_size": 8}, metric="loss",
    )  # fmt: skip
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out").eval()
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for path in sorted((runs / "val" / name).iterdir()):
            with Image.open(path) as image:
                resized = np.array(image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
            images.append(torch.from_numpy(resized).permute(2, 0, 1).float() / 255)
            labels.append(label)
    _, select = split(len(labels), 0.5, 0)
    with torch.no_grad():
        logits = model(((torch.stack(images) - 0.5) / 0.5)[select]).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)[select])
    score = next(score for score in outcome.candidates if score.method == outcome.method)
    assert float(loss) == pytest.approx(score.select["loss"], abs=1e-5)


def test_a_head_that_the_files_lack_is_refused_and_not_made_up(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path)
    for path in folder.rglob("model.safetensors"):
        state = load_file(path)
        del state["classifier.weight"]
        save_file(state, path)
    with pytest.raises(EngineError, match=r"`classifier\.weight` of shape \(3, 16\), but the checkpoints have none"):
        average(folder, runs / "val", output=tmp_path / "out", task_options={"batch_size": 8})


def test_a_config_that_names_no_model_of_transformers_is_refused(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path)
    config = json.loads((folder / "checkpoint-30" / "config.json").read_text())
    (folder / "checkpoint-30" / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    with pytest.raises(EngineError, match="its model_type is 'nonesuch'") as caught:
        average(folder, runs / "val", output=tmp_path / "out", task_options={"batch_size": 8})
    assert caught.value.code == "model-mismatch"


def test_code_that_a_config_names_is_never_run(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path)
    home = folder / "checkpoint-30"
    config = json.loads((home / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForImageClassification": "mine.Model"}}
    (home / "config.json").write_text(json.dumps(config))
    (home / "mine.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(EngineError):
        average(folder, runs / "val", output=tmp_path / "out", task_options={"batch_size": 8})
    assert not (tmp_path / "canary").exists()


def test_the_preprocessors_size_and_the_options_over_it_decide_what_the_model_sees(runs: Path) -> None:
    from ladle_engine import discover
    from ladle_engine.tasks.image_classification import ImageClassification

    checkpoints = discover(runs / "run")
    for options, expected in (({}, 0.5), ({"mean": [0.1, 0.1, 0.1]}, 0.1)):
        task = ImageClassification.from_options(options)
        preprocessing = task.preprocessing(checkpoints, task.shape(checkpoints))
        assert preprocessing.size == (16, 16)
        assert preprocessing.mean == (expected,) * 3
    with pytest.raises(EngineError, match=r"one number for each of 3 channels, but is \[0\.1\]"):
        task = ImageClassification.from_options({"mean": [0.1]})
        task.preprocessing(checkpoints, task.shape(checkpoints))


def averaged_with(runs: Path, tmp_path: Path, name: str, changed: dict[str, object]) -> str:
    """Changes a JSON file of the last checkpoint, and returns why the folder is then refused."""
    folder = copied(runs, tmp_path)
    home = folder / "checkpoint-30"
    source = runs / "run" / "checkpoint-30" / name
    (home / name).write_text(json.dumps(json.loads(source.read_text()) | changed))
    with pytest.raises(EngineError) as caught:
        average(folder, runs / "val", output=tmp_path / "out", task_options={"batch_size": 8})
    assert caught.value.code == "model-mismatch"
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 200_000}, {"hidden_size": "8"}, {"hidden_size": -16}, {"patch_size": 0},
        {"intermediate_size": 10**30}, {"model_type": ["vit"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_with_wrong_values_is_bad_input_and_takes_no_memory(
    runs: Path, tmp_path: Path, wrong: dict[str, object]
) -> None:
    averaged_with(runs, tmp_path, "config.json", wrong)


@pytest.mark.parametrize(
    ("wrong", "rule", "value"),
    [
        ({"id2label": {"zero": "cat", "1": "dog"}}, "`id2label`.*keyed by the whole numbers from 0 to 1", "'zero'"),
        ({"id2label": {"1": "cat", "2": "dog"}}, "`id2label`.*keyed by the whole numbers from 0 to 1", "'2'"),
        ({"id2label": {"\u00b3": "cat"}}, "`id2label`.*keyed by the whole numbers from 0 to 0", "'\u00b3'"),
        ({"id2label": ["cat", "dog"]}, "`id2label`.*an object that maps labels to names", "cat"),
        ({"id2label": {}}, "`id2label`.*an object that maps labels to names", "{}"),
        ({"id2label": None, "num_labels": "10"}, "`num_labels`.*a whole number of at least 1", "'10'"),
        ({"id2label": None, "num_labels": 0}, "`num_labels`.*a whole number of at least 1", "0"),
        ({"id2label": None, "num_labels": 2.0}, "`num_labels`.*a whole number of at least 1", "2.0"),
        ({"id2label": None, "num_labels": 100_000_000}, "`num_labels`.*at most", "100000000"),
        ({"num_labels": 7}, "`num_labels`.*3, as many as `id2label` has names", "7"),
        ({"num_hidden_layers": 1_000_000}, "`num_hidden_layers`.*at most", "1000000"),
        ({"num_channels": 0}, "`num_channels`.*a whole number of at least 1", "0"),
        ({"num_channels": "3"}, "`num_channels`.*a whole number of at least 1", "'3'"),
        ({"num_channels": True}, "`num_channels`.*a whole number of at least 1", "True"),
        ({"image_size": 0}, "`image_size`.*a whole number from 1 to 4096", "0"),
        ({"image_size": "16"}, "`image_size`.*a whole number from 1 to 4096", "'16'"),
        ({"image_size": 10**9}, "`image_size`.*a whole number from 1 to 4096", "1000000000"),
        ({"image_size": [16, -1]}, "`image_size`.*a whole number from 1 to 4096", "-1"),
    ],
    ids=str,
)
def test_a_wrong_number_in_a_config_is_named_with_its_rule_and_value(
    runs: Path, tmp_path: Path, wrong: dict[str, object], rule: str, value: str
) -> None:
    message = averaged_with(runs, tmp_path, "config.json", wrong)
    assert re.search(rf"{rule}.*, but is .*{re.escape(value)}", message), message
    assert "`config.json`" in message


def test_a_model_that_is_built_for_ever_is_refused_while_it_is_built(tmp_path: Path) -> None:
    """Whatever the config calls what it has too many of."""
    from ladle_engine import discover
    from ladle_engine.tasks.image_classification import ImageClassification

    config = transformers.EfficientNetConfig(
        image_size=16, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=16, num_labels=2
    )
    model = transformers.EfficientNetForImageClassification(config)
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    assert ImageClassification.from_options({}).build_model(discover(tmp_path))
    path = tmp_path / "checkpoint-2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"depth_coefficient": 1e7}))
    with pytest.raises(EngineError, match=r"which hold [\d,]+ tensors, but describes [\d,]+ or more"):
        ImageClassification.from_options({}).build_model(discover(tmp_path))


@pytest.mark.parametrize("kind", ["Marian", "T5", "Bart"])
def test_an_encoder_decoder_that_is_mostly_its_one_embedding_is_built(tmp_path: Path, kind: str) -> None:
    """It is made four times and then tied: OPUS's Marians have more of it than of all else."""
    from ladle_engine import discover
    from ladle_engine.tasks.model_config import build, parse_config

    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    small = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2} if kind == "T5" else sizes | heads
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(vocab_size=2_000, **small, **tokens, max_position_embeddings=16)
    model = getattr(transformers, "MarianMTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration")(config)
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    found = discover(tmp_path)
    assert build(found, parse_config(found), "AutoModelForSeq2SeqLM").state_dict().keys() == model.state_dict().keys()
