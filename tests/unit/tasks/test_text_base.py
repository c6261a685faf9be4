"""What the tasks on texts share: tokenizers of real tools, hostile folders, models of other tasks, lengths, padding."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.text.heads import recognised
from ladle_engine.tasks.text.lengths import longest, max_positions
from ladle_engine.tasks.text.models import build_model, fits, inputs_for
from ladle_engine.tasks.text.padding import decoded_texts, encoded_texts, lengths_of, mask_of, padded
from ladle_engine.tasks.text.tokenizer import open_tokenizer
from tests.unit.tasks import text_models
from tests.unit.tasks.text_models import TEXTS, bert_classifier, saved

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bert")
    saved(root / "run", bert_classifier, text_models.bert_tokenizer(root / "made"))
    return root / "run"


def copied(bert: Path, tmp_path: Path, config: dict[str, Any] | None = None, **files: Any) -> CheckpointSet:
    """The same checkpoints with another tokenizer's settings: `config` is added to `tokenizer_config.json`."""
    folder = tmp_path / "run"
    shutil.copytree(bert, folder)
    home = folder / "checkpoint-30"
    settings = json.loads((home / "tokenizer_config.json").read_text())
    (home / "tokenizer_config.json").write_text(json.dumps({**settings, **(config or {})}))
    for name, content in files.items():
        (home / name).write_text(json.dumps(content))
    return discover(folder)


# Tokenizers of real tools


def test_wordpiece_bpe_and_unigram_give_the_ids_that_they_gave_when_they_were_saved(tmp_path: Path) -> None:
    made = {
        "wordpiece": text_models.bert_tokenizer(tmp_path / "made-bert"),
        "byte-level": text_models.roberta_tokenizer(tmp_path / "made-roberta"),
        "gpt2": text_models.gpt2_tokenizer(tmp_path / "made-gpt2"),
        "generic": text_models.unigram_tokenizer(),
    }
    for name, tokenizer in made.items():
        checkpoints = saved(tmp_path / name, lambda: bert_classifier(400), tokenizer, steps=2)
        opened = open_tokenizer(checkpoints)
        assert [opened(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS], name
        assert type(opened).__name__ == type(tokenizer).__name__


@pytest.mark.parametrize(
    ("keep", "tokenizer_class"),
    [(("vocab.txt",), "BertTokenizer"), (("vocab.json", "merges.txt"), "RobertaTokenizer")],
)
def test_files_of_older_versions_without_a_tokenizer_json_work(
    tmp_path: Path, keep: tuple[str, ...], tokenizer_class: str
) -> None:
    make = text_models.bert_tokenizer if tokenizer_class == "BertTokenizer" else text_models.roberta_tokenizer
    tokenizer = make(tmp_path / "made")
    saved(tmp_path / "run", lambda: bert_classifier(400), steps=2)
    home = tmp_path / "run" / "checkpoint-20"
    for name in keep:
        shutil.copy(tmp_path / "made" / name, home / name)
    (home / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    opened = open_tokenizer(discover(tmp_path / "run"))
    assert [opened(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_a_sentencepiece_model_alone_is_enough(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    sentencepiece = pytest.importorskip("sentencepiece")
    saved(tmp_path / "run", bert_classifier, steps=2)
    model = text_models.sentencepiece_model()
    home = tmp_path / "run" / "checkpoint-20"
    (home / "spiece.model").write_bytes(model)
    (home / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 3}))
    opened = open_tokenizer(discover(tmp_path / "run"))
    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in TEXTS:
        assert opened(text)["input_ids"] == [*own.encode(text), own.eos_id()]


def test_a_tokenizer_of_the_folder_goes_before_one_of_the_checkpoint(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "run")
    other = text_models.roberta_tokenizer(tmp_path / "made", ["nothing but this"])
    other.save_pretrained(tmp_path / "run")
    config = json.loads((bert / "checkpoint-30" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "vocab_size": 400}))
    assert open_tokenizer(discover(tmp_path / "run"))(TEXTS[0])["input_ids"] == other(TEXTS[0])["input_ids"]


# What cannot be used


def test_a_folder_without_a_tokenizer_says_what_to_copy(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "run", bert_classifier, steps=2)
    with pytest.raises(
        TaskError, match=r"must have the model's tokenizer, but there are no .*`tokenizer.save_pretrained\("
    ) as found:
        open_tokenizer(checkpoints)
    assert found.value.code == "model-mismatch"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    tokenizer = text_models.roberta_tokenizer(tmp_path / "made")
    checkpoints = saved(tmp_path / "run", lambda: bert_classifier(50), tokenizer, steps=2)
    with pytest.raises(TaskError, match=r"has \d+ tokens, and `config.json` says that the model knows 50"):
        open_tokenizer(checkpoints)


def test_a_library_that_is_not_there_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(TaskError, match=r"`no_such_library` must be installed .* pip install 'ladle\[text\]'") as found:
        require("no_such_library", "text")
    assert found.value.code == "missing-library"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"tokenizer_class": 3}', '{"added_tokens_decoder": {"0": "text"}}', '{"model_max_length": []}'],
)
def test_broken_settings_are_refused_in_words(bert: Path, tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    (folder / "checkpoint-30" / "tokenizer_config.json").write_text(content)
    with pytest.raises(TaskError, match="tokenizer") as found:
        open_tokenizer(discover(folder))
    assert found.value.code == "model-mismatch"


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"model": {"type": "BPE"}}', '{"version": "1.0", "model": {"type": "Unigram", "vocab": []}}'],
)
def test_a_broken_tokenizer_json_is_refused_in_words(bert: Path, tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    (folder / "checkpoint-30" / "tokenizer.json").write_text(content)
    with pytest.raises(TaskError, match="must have a tokenizer that transformers can load"):
        open_tokenizer(discover(folder))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x00" * 50])
def test_a_broken_sentencepiece_model_is_refused_in_words(bert: Path, tmp_path: Path, content: bytes) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    home = folder / "checkpoint-30"
    (home / "tokenizer.json").unlink()
    (home / "spiece.model").write_bytes(content)
    (home / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    with pytest.raises(TaskError, match="must have a tokenizer that transformers can load"):
        open_tokenizer(discover(folder))


def test_padding_and_truncation_that_a_tokenizer_json_has_of_its_own_do_not_count(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    file = folder / "checkpoint-30" / "tokenizer.json"
    own = {
        "padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    }  # fmt: skip
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    assert open_tokenizer(discover(folder))(TEXTS[0]) == open_tokenizer(discover(bert))(TEXTS[0])


@pytest.mark.parametrize("content", ["{", "[" * 1000 + "]" * 1000, "[" + "{}," * 9_000_000 + "{}]"], ids=len)
def test_a_tokenizer_json_that_is_none_or_becomes_too_many_objects_is_not_parsed(
    bert: Path, tmp_path: Path, content: str
) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    (folder / "checkpoint-30" / "tokenizer.json").write_text(content)
    with pytest.raises(TaskError, match=r"tokenizer\.json` must be a JSON file, but does not parse"):
        open_tokenizer(discover(folder))


# Folders of strangers

CANARY = """
from pathlib import Path
Path({path!r}).write_text("ran")
class Own:
    pass
"""


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"},
        {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": None},
        {"auto_map": ["own.Own", "own.Own"], "tokenizer_class": "Own"},
        {"auto_map": {"AutoTokenizer": ["somebody/model--own.Own", None]}, "tokenizer_class": "Own"},
        {"tokenizer_class": "Trainer"},
        {"tokenizer_class": "pipeline"},
        {"tokenizer_class": "AutoModel"},
        {"tokenizer_class": ["BertTokenizer"]},
    ],
)
def test_a_tokenizer_that_needs_code_is_refused_and_none_runs(
    bert: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = copied(bert, tmp_path, {**config, "trust_remote_code": True}).folder
    (folder / "checkpoint-30" / "own.py").write_text(CANARY.format(path=str(tmp_path / "canary")))
    with pytest.raises(TaskError, match="tokenizer") as found:
        open_tokenizer(discover(folder))
    assert found.value.code == "model-mismatch"
    assert not (tmp_path / "canary").exists()


def test_code_beside_a_tokenizer_that_transformers_has_is_passed_over(bert: Path, tmp_path: Path) -> None:
    folder = copied(
        bert, tmp_path, {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "trust_remote_code": True}
    ).folder
    (folder / "checkpoint-30" / "own.py").write_text(CANARY.format(path=str(tmp_path / "canary")))
    assert type(open_tokenizer(discover(folder))).__name__ == "BertTokenizer"
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("place", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("name", ["vocab_file", "vocab", "tokenizer_file", "fast_tokenizer_files", "merges_file"])
def test_files_elsewhere_that_settings_name_are_not_opened(
    bert: Path, tmp_path: Path, place: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text((bert / "checkpoint-30" / "tokenizer.json").read_text().replace("fox", "secretword"))
    value = [f"../../../../../../../..{secret}"] if name == "fast_tokenizer_files" else str(secret)
    if place == "tokenizer_config.json":
        checkpoints = copied(bert, tmp_path, {name: value})
    else:
        checkpoints = copied(bert, tmp_path, **{place: {name: value}})
    seen = opened_files(monkeypatch)
    tokenizer = open_tokenizer(checkpoints)
    assert "secretword" not in tokenizer.get_vocab()
    assert not [path for path in seen if "secret" in path]


def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python opens from now on in this test."""
    import builtins

    seen: list[str] = []
    original = builtins.open

    def recording(file: Any, *arguments: Any, **keywords: Any) -> Any:
        seen.append(str(file))
        return original(file, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", recording)
    return seen


@pytest.mark.parametrize(
    "config",
    [
        {"sp_model_kwargs": {"enable_sampling": True, "alpha": 0.1}},
        {"mecab_kwargs": {"mecab_option": "-d /tmp"}},
        {"added_tokens_decoder": {"100000000000": {"content": "far"}}},
        {"added_tokens_decoder": {"-1": {"content": "far"}}},
    ],
)
def test_settings_that_are_random_or_without_bound_are_refused(
    bert: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(TaskError, match=r"tokenizer_config\.json") as found:
        open_tokenizer(copied(bert, tmp_path, config))
    assert found.value.code == "model-mismatch"


def test_added_tokens_of_older_versions_are_bounded_too(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"added_tokens\.json"):
        open_tokenizer(copied(bert, tmp_path, **{"added_tokens.json": {"far": 10**12}}))


def test_a_chat_template_is_neither_run_nor_read_when_a_tokenizer_is_opened(bert: Path, tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer = open_tokenizer(copied(bert, tmp_path, {"chat_template": endless}))
    assert tokenizer.chat_template == endless
    sandboxed = "{{ ().__class__.__base__.__subclasses__() }}"
    with pytest.raises(Exception, match=r"unsafe|undefined|access") as found:
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], chat_template=sandboxed, tokenize=False)
    assert "Security" in type(found.value).__name__ or "Undefined" in type(found.value).__name__


def test_a_tokenizer_that_is_a_link_out_of_the_folder_is_not_read(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    link = folder / "checkpoint-30" / "tokenizer.json"
    link.rename(tmp_path / "elsewhere.json")
    link.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(TaskError, match="must have a tokenizer"):
        open_tokenizer(discover(folder))


# Models


@pytest.mark.parametrize(
    ("architecture", "auto_class", "message"),
    [
        (
            "GPT2LMHeadModel",
            "AutoModelForSequenceClassification",
            "needs a classification head, but .* a causal language model",
        ),
        ("BertForMaskedLM", "AutoModelForCausalLM", "needs a causal .* this is a masked language model"),
        ("T5ForConditionalGeneration", "AutoModelForTokenClassification", "this is an encoder and decoder"),
        ("BertForSequenceClassification", "AutoModelForMaskedLM", "this is a classifier of texts"),
        ("BertModel", "AutoModelForSequenceClassification", "this is a model without a head"),
        ("MarianMTModel", "AutoModelForCausalLM", "this is an encoder and decoder"),
        ("XLMWithLMHeadModel", "AutoModelForCausalLM", "this is a masked language model"),
        ("ViTForImageClassification", "AutoModelForSequenceClassification", "this is an image classifier"),
    ],
)
def test_a_model_of_another_task_is_refused_in_words(
    bert: Path, architecture: str, auto_class: str, message: str
) -> None:
    checkpoints = discover(bert)
    checkpoints = replace(checkpoints, config={**(checkpoints.config or {}), "architectures": [architecture]})
    with pytest.raises(TaskError, match=message) as found:
        build_model(checkpoints, auto_class, "a-task")
    assert found.value.code == "model-mismatch"


def test_a_model_type_that_has_no_such_model_is_refused_in_words(bert: Path) -> None:
    checkpoints = replace(discover(bert), config={"model_type": "marian", "encoder_layers": 1, "decoder_layers": 1})
    assert not fits(checkpoints, "AutoModelForTokenClassification")
    with pytest.raises(TaskError, match=r"no `AutoModelForTokenClassification` for the model_type 'marian'"):
        build_model(checkpoints, "AutoModelForTokenClassification", "token-classification")


def test_the_model_is_built_from_its_config_alone(bert: Path) -> None:
    checkpoints = discover(bert)
    model = build_model(checkpoints, "AutoModelForSequenceClassification", "text-classification")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.state_dict().keys() == checkpoints.tensors.keys()
    assert fits(checkpoints, "AutoModelForSequenceClassification")
    assert recognised(checkpoints, ("ForSequenceClassification",))
    assert not recognised(checkpoints, ("ForMaskedLM",))


def test_a_config_without_architectures_or_with_nonsense_is_not_recognised(bert: Path) -> None:
    for architectures in (None, [], "BertForSequenceClassification", [3, None], {"a": 1}):
        checkpoints = replace(discover(bert), config={"model_type": "bert", "architectures": architectures})
        assert not recognised(checkpoints, ("ForSequenceClassification",))


def test_a_model_gets_only_what_its_forward_takes(bert: Path) -> None:
    batch = {name: torch.zeros(1, 2, dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert inputs_for(bert_classifier(), batch).keys() == batch.keys()
    distil = transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(vocab_size=20, dim=8, n_heads=2, n_layers=1, hidden_dim=8)
    )
    assert inputs_for(distil, batch).keys() == {"input_ids", "attention_mask"}


# Lengths


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ("BertConfig(max_position_embeddings=64)", 64),
        ("DistilBertConfig(max_position_embeddings=64)", 64),
        ("RobertaConfig(max_position_embeddings=514)", 512),
        ("XLMRobertaConfig(max_position_embeddings=514)", 512),
        ("MPNetConfig(max_position_embeddings=514)", 512),
        ("GPT2Config(n_positions=32)", 32),
        ("LlamaConfig(max_position_embeddings=128)", 128),
        ("OPTConfig(max_position_embeddings=128)", 128),
        ("MarianConfig(max_position_embeddings=99)", 99),
        ("BartConfig(max_position_embeddings=99)", 99),
        ("LEDConfig(max_encoder_position_embeddings=77)", 77),
        ("T5Config(n_positions=512)", None),
        ("MT5Config()", None),
        ("XLNetConfig()", None),
        ("BloomConfig(seq_length=99)", None),
        ("DebertaV2Config(position_biased_input=False)", None),
        ("DebertaV2Config(position_biased_input=True, max_position_embeddings=88)", 88),
    ],
)
def test_positions_are_those_of_the_model(config: str, positions: int | None) -> None:
    name, _, arguments = config.partition("(")
    made = getattr(transformers, name)(**eval(f"dict({arguments}"))
    assert max_positions(made) == positions


def test_a_model_takes_as_many_tokens_as_it_is_said_to() -> None:
    """The table of positions of the real model agrees: one token more fails."""
    config = transformers.RobertaConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=20,
    )  # fmt: skip
    model = transformers.RobertaForSequenceClassification(config)
    most = max_positions(config)
    assert most == 18
    model(torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, most + 1), 5))


def test_texts_are_cut_where_option_tokenizer_or_model_say(bert: Path) -> None:
    checkpoints = discover(bert)
    config, tokenizer = model_config.parse_config(checkpoints), open_tokenizer(checkpoints)
    assert longest(None, tokenizer, config, "x") == 64
    assert longest(10, tokenizer, config, "x") == 10
    tokenizer.model_max_length = 48
    assert longest(None, tokenizer, config, "x") == 48
    with pytest.raises(TaskError, match=r"`max_length` of task `x` must be at most 64, .* but is 65"):
        longest(65, tokenizer, config, "x")
    with pytest.raises(TaskError, match=r"at least 3, because the tokenizer adds 2"):
        longest(2, tokenizer, config, "x")
    tokenizer.model_max_length = 2
    with pytest.raises(TaskError, match=r"`model_max_length` of the tokenizer must be at least 3"):
        longest(None, tokenizer, config, "x")


# Padding


def test_rows_are_padded_to_the_longest_of_the_batch_on_either_side() -> None:
    rows = [[1, 2, 3], [], [4]]
    assert padded(rows, 9).tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert padded(rows, 9, left=True).tolist() == [[1, 2, 3], [9, 9, 9], [9, 9, 4]]
    assert padded([[], []], 9).tolist() == [[9], [9]]
    assert mask_of(lengths_of(rows), 3).tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert mask_of(lengths_of(rows), 3, left=True).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 1]]


def test_texts_come_back_from_tensors_as_they_were() -> None:
    texts = ["plain", "", "zwölf: 十二 🙂", "with\0null\n", "half a pair: \ud83d"]
    encoded, lengths = encoded_texts(texts)
    assert encoded.dtype == torch.uint8
    assert len(encoded) == len(lengths) == len(texts)
    assert decoded_texts(encoded, lengths) == texts
    assert decoded_texts(*encoded_texts(["", ""])) == ["", ""]
