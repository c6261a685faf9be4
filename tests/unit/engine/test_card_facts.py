"""What a model card says of a result: from the checkpoints' config and own card, where it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.adapters.space import DELTA, in_space
from ladle_engine.pipeline.card_facts import card_facts
from ladle_engine.pipeline.hub_ids import is_model_id
from tests.unit.engine.lora import make_sweep

BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


def facts_of(
    folder: Path,
    config: dict[str, Any] | None,
    task: str = "masked-lm",
    output_format: str = "safetensors",
    **cards: str,
) -> dict[str, Any]:
    """Of a run with two checkpoints; `cards` are its `README.md`, of the `run` or of a `checkpoint`."""
    for step in (100, 200):
        place = folder / f"checkpoint-{step}"
        place.mkdir(parents=True)
        save_file({"weight": torch.full((2,), float(step))}, place / "model.safetensors", metadata={"format": "pt"})
        if config is not None:
            (place / "config.json").write_text(json.dumps(config))
    for where, text in cards.items():
        place = folder if where == "run" else folder / "checkpoint-200"
        (place / "README.md").write_text(text)
    return card_facts(discover(folder), task, output_format)


@pytest.mark.parametrize(
    ("config", "library"),
    [
        (BERT, "transformers"),
        ({"architecture": "resnet18", "pretrained_cfg": {"tag": "a1"}, "num_classes": 2}, "timm"),
        ({"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.35"}, "diffusers"),
        ({"ladle_task": "small-cnn"}, "ladle"),
        (None, "ladle"),
    ],
)
def test_the_library_is_the_one_that_loads_the_folder(tmp_path: Path, config: dict[str, Any], library: str) -> None:
    assert facts_of(tmp_path / "run", config)["library_name"] == library


def test_what_no_library_of_the_hub_loads_is_ours(tmp_path: Path) -> None:
    assert facts_of(tmp_path / "run", BERT, output_format="dcp")["library_name"] == "ladle"


@pytest.mark.parametrize(
    ("config", "base"),
    [
        ({"_name_or_path": "google-bert/bert-base-uncased"}, ["google-bert/bert-base-uncased"]),
        ({"_name_or_path": "bert-base-uncased"}, ["bert-base-uncased"]),
        ({"_name_or_path": "mistralai/Mistral-7B-v0.1"}, ["mistralai/Mistral-7B-v0.1"]),
        ({"pretrained_cfg": {"hf_hub_id": "timm/resnet18.a1_in1k"}}, ["timm/resnet18.a1_in1k"]),
        ({"_name_or_path": "/data/models/bert"}, None),
        ({"_name_or_path": "runs/bert"}, None),
        ({"_name_or_path": "my_run/checkpoint-500"}, None),
        ({"_name_or_path": "./bert"}, None),
        ({"_name_or_path": ""}, None),
        ({"_name_or_path": ["a/b"]}, None),
        ({}, None),
    ],
)
def test_a_base_model_is_named_where_the_config_has_an_id_and_not_a_path(
    tmp_path: Path, config: dict[str, Any], base: list[str] | None
) -> None:
    facts = facts_of(tmp_path / "run", {**BERT, **config})
    assert facts.get("base_model") == base
    assert facts.get("base_model_relation") == (base and "merge")


def test_the_checkpoints_own_card_says_license_languages_data_and_base(tmp_path: Path) -> None:
    facts = facts_of(
        tmp_path / "run",
        BERT,
        run="---\nlicense: apache-2.0\nlanguage: [en, no, 'x; rm -rf']\ndatasets:\n- stanfordnlp/imdb\n"
        "base_model: org/base\ntags: [<b>]\n---\n# Run\n",
        checkpoint="---\nbase_model: org/of-this-checkpoint\nlibrary_name: peft\n---\n",
    )
    assert facts == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "base_model": ["org/of-this-checkpoint"],
        "base_model_relation": "merge",
        "license": "apache-2.0",
        "language": ["en", "no"],
        "datasets": ["stanfordnlp/imdb"],
    }


def test_an_average_of_adapters_is_an_adapter_of_their_base_model(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}})
    facts = card_facts(in_space(discover(sweep), DELTA), "causal-lm", "safetensors")
    assert facts == {"library_name": "peft", "pipeline_tag": "text-generation"}, "the base is a path of this machine"
    for adapter in sweep.iterdir():
        for name in ("adapter_config.json", "README.md"):
            text = (adapter / name).read_text()
            (adapter / name).write_text(text.replace(str(tmp_path / "base"), "org/base-7b"))
    facts = card_facts(in_space(discover(sweep), DELTA), "causal-lm", "safetensors")
    assert (facts["base_model"], facts["base_model_relation"]) == (["org/base-7b"], "adapter")


@pytest.mark.parametrize(
    "card",
    [
        "# No block\nlicense: mit",
        "---\nlicense: [\n---\n",
        "---\n- license: mit\n---\n",
        "---\nlicense: '<img src=x onerror=alert(1)>'\nlicense_link: javascript:alert(1)\n---\n",
        "---\nlicense: !!python/object/apply:os.system ['true']\n---\n",
        "---\na: &a [x, x]\nb: &b [*a, *a]\nlicense: *b\n---\n",
        "---\nlicense: " + "[" * 5000 + "\n---\n",
        "---\nlicense: mit\n" + "# " + "x" * (64 << 10) + "\n---\n",
        "---\nlicense_link: https://example.com/license\n---\n",
        "---\nlicense: !!bool maybe\n---\n",
        "---\nlicense: !!int ''\n---\n",
        "---\nlicense: !!timestamp soon\n---\n",
        "---\na0: &a0 {license: mit}\n"
        + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 20))
        + "\n---\n",
    ],
)
def test_a_card_that_says_nothing_proper_says_nothing(tmp_path: Path, card: str) -> None:
    assert "license" not in str(facts_of(tmp_path / "run", BERT, checkpoint=card))


def test_a_card_behind_a_link_that_leads_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(tmp_path / "secret.md")
    assert "license" not in facts_of(tmp_path / "run", BERT)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("meta-llama/Llama-3.1-8B", True),
        ("gpt2", True),
        ("distilbert-base-uncased", True),
        ("model", False),
        ("output/bert", False),
        ("checkpoints-v2/bert", False),
        ("a/b/c", False),
        ("a--b/c", False),
        ("../b", False),
        ("~/b", False),
        ("a/b.git", False),
        ("org/" + "x" * 97, False),
        ("C:\\models\\bert", False),
        (None, False),
    ],
)
def test_ids_are_told_from_paths(text: object, is_one: bool) -> None:
    assert is_model_id(text) is is_one
