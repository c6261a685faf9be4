"""Encoder-decoders of transformers as a task: their folders, losses, texts, and data that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine import average, rebuild
from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import DataError, EngineError, TaskError
from ladle_engine.model.binding import bind
from ladle_engine.tasks import choose_task
from ladle_engine.tasks.base import Batch, DataSet, HasRemarks, Task
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.seq2seq import Seq2Seq
from ladle_engine.tasks.text.seq2seq import pair_losses
from ladle_engine.testing import check_task
from tests.unit.tasks import seq2seq_models as toys

pytest.importorskip("sentencepiece")
sacrebleu = pytest.importorskip("sacrebleu")
transformers = pytest.importorskip("transformers")

SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints of a Marian that learns, with its tokenizer of two sentencepiece models."""
    root = tmp_path_factory.mktemp("marian")
    tokenizer = toys.marian_tokenizer(root / "made")
    torch.manual_seed(0)
    model = toys.marian(len(tokenizer))
    toys.train(
        model, tokenizer, (100, 120, 140, 160, 180), lambda step: toys.save(root / "run", step, model, tokenizer)
    )
    return root / "run"


@pytest.fixture(scope="module")
def val_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_jsonl(tmp_path_factory.mktemp("data") / "val.jsonl", toys.pairs(60, seed=5))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Barts with random weights, and a tokenizer of words."""
    root = tmp_path_factory.mktemp("bart")
    toys.save_untrained(root, toys.bart, toys.word_tokenizer())
    return root


def task_for(checkpoints: CheckpointSet, **options: Any) -> Task:
    return choose_task(checkpoints, Seq2Seq, options)


def loaded(checkpoints: CheckpointSet, task: Task) -> nn.Module:
    """The model with the last checkpoint's weights."""
    model = task.build_model(checkpoints).float()
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    binding.load(checkpoints.reference)
    return model.eval()


def opened(checkpoints: CheckpointSet, path: Path, **options: Any) -> tuple[Task, DataSet]:
    task = task_for(checkpoints, **options)
    return task, task.open_data(path, checkpoints)


def remarks_of(data: DataSet) -> list[str]:
    assert isinstance(data, HasRemarks)
    return list(data.remarks)


def copied(folder: Path, to: Path, *without: str, **config: Any) -> CheckpointSet:
    """The same checkpoints without these files, and with this in `config.json`."""
    shutil.copytree(folder, to)
    for home in to.iterdir():
        for name in without:
            (home / name).unlink(missing_ok=True)
        values = json.loads((home / "config.json").read_text())
        values |= config
        kept = {name: value for name, value in values.items() if value is not None}
        (home / "config.json").write_text(json.dumps(kept))
    return discover(to)


# Folders of real tools


MODELS: Mapping[str, Callable[[], Any]] = {
    "bart": toys.bart,
    "t5": toys.t5,
    "t5 without tied heads": lambda: toys.t5(tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "marian": lambda: toys.marian(len(toys.WORDS), end=toys.END, padding=toys.PAD),
    "mbart": lambda: toys.other("MBart"),
    "m2m100": lambda: toys.other("M2M100"),
    "pegasus": lambda: toys.other("Pegasus", decoder_start_token_id=toys.PAD),
    "blenderbot": lambda: toys.other("Blenderbot", bos_token_id=3),
    "encoder-decoder of two": toys.encoder_decoder,
}


@pytest.mark.parametrize("name", MODELS)
def test_folders_of_save_pretrained_follow_all_rules(tmp_path: Path, val_set: Path, name: str) -> None:
    """The task is recognised, the checkpoints fit the model, and no value depends on the batch or its padding."""
    checkpoints = toys.save_untrained(tmp_path / "run", MODELS[name], toys.word_tokenizer())
    assert Seq2Seq.recognises(checkpoints)
    check_task(Seq2Seq, tmp_path / "run", val_set, options=SHORT)


@pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_one_that_transformers_itself_says(tmp_path: Path, val_set: Path, name: str) -> None:
    checkpoints = toys.save_untrained(tmp_path / "run", MODELS[name], toys.word_tokenizer())
    task, data = opened(checkpoints, val_set)
    batch = data.batch(torch.arange(20))
    with torch.no_grad():
        values = task.evaluate(loaded(checkpoints, task), batch)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "checkpoint-2").eval()
    with torch.no_grad():
        expected = theirs(**{part: batch[part] for part in ("input_ids", "attention_mask", "labels")}).loss
    assert float(values["nll"].sum() / values["tokens"].sum()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.slow
def test_the_averaged_model_translates_in_its_tool_as_the_report_says(
    marian: Path, val_set: Path, tmp_path: Path
) -> None:
    """Judged by BLEU, with beams; the scores of texts that transformers generates from the result's folder."""
    outcome = average(
        marian, val_set, output=tmp_path / "out", task=Seq2Seq, metric="bleu",
        task_options={**SHORT, "num_beams": 2}, method="auto",
        method_options={"methods": ["uniform", "greedy-soup"]}, diagnose=True,
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    winner = next(row["select"] for row in report["candidates"] if row["method"] == report["winner"])
    _, select = split(60, 0.5, 0)
    rows = [toys.pairs(60, seed=5)[number] for number in select.tolist()]
    texts = translated(tmp_path / "out", [source for source, _ in rows], num_beams=2)
    references = [[target for _, target in rows]]
    assert winner["bleu"] == pytest.approx(sacrebleu.BLEU().corpus_score(texts, references).score, abs=1e-4)
    assert winner["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(texts, references).score, abs=1e-4)
    assert winner["exact-match"] == pytest.approx(
        sum(text == target for text, (_, target) in zip(texts, rows, strict=True)) / len(rows), abs=1e-4
    )
    scores = {row["method"]: row["select"] for row in report["candidates"]}
    assert winner["bleu"] > 5, "a metric that means something here"
    assert len({round(row["bleu"], 3) for row in scores.values()}) > 1
    assert outcome.gain_low <= outcome.gain <= outcome.gain_high
    curve = report["merge_curve"]
    assert curve["metric"] == "bleu"
    assert curve["points"][-1]["average"] == pytest.approx(scores["uniform"]["bleu"], abs=1e-9)
    assert all(point["average"] is not None and point["average_examples"] == 30 for point in curve["points"])
    assert winner["perplexity"] == pytest.approx(torch.tensor(winner["loss"]).exp().item(), rel=1e-6)


def test_a_search_raises_the_bleu_of_what_is_generated(marian: Path, val_set: Path, tmp_path: Path) -> None:
    average(
        marian, val_set, output=tmp_path / "out", task=Seq2Seq, metric="bleu", task_options=SHORT,
        method_options={
            "methods": ["uniform", "search"],
            "options": {"search": {"budget": 11.0, "population": 4, "share": 1.0, "start": "uniform"}},
        },
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = toys.pairs(60, seed=5)

    def bleu(method: str, part: int) -> float:
        home = rebuild(tmp_path / "out", marian, output=tmp_path / f"{method}-{part}", candidate=method)
        pairs = [rows[number] for number in split(60, 0.5, 0)[part].tolist()]
        texts = translated(home, [source for source, _ in pairs])
        return float(sacrebleu.BLEU().corpus_score(texts, [[target for _, target in pairs]]).score)

    assert bleu("search", 0) > bleu("uniform", 0) + 1, "where it searches, it finds something better than its start"
    (row,) = (row for row in report["candidates"] if row["method"] == "search")
    assert row["select"]["bleu"] == pytest.approx(bleu("search", 1), abs=1e-4)


def translated(folder: Path, sources: list[str], **options: Any) -> list[str]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    batch = tokenizer(sources, padding=True, return_tensors="pt")
    found: list[str] = tokenizer.batch_decode(
        model.generate(**batch, **SHORT, do_sample=False, **options), skip_special_tokens=True
    )
    return found


def test_no_text_is_generated_where_the_loss_judges(
    marian: Path, val_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Seq2Seq, "generate", None)
    monkeypatch.setattr(Seq2Seq, "generate", never)
    average(marian, val_set, output=tmp_path / "out", task=Seq2Seq, method="twa", method_options={"steps": 8})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(set(row["select"]) == {"loss", "perplexity"} for row in report["candidates"])


def never(self: Seq2Seq, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    raise AssertionError("nothing asks for texts")


def test_what_the_folder_says_of_generation_is_followed_or_said(untrained: Path, val_set: Path, tmp_path: Path) -> None:
    """Settings in `config.json`, where old tools have them, do not count beside a file of their own."""
    checkpoints = copied(untrained, tmp_path / "run", num_return_sequences=3, num_beams=3, min_length=9)
    for home in (tmp_path / "run").iterdir():
        settings = json.loads((home / "generation_config.json").read_text())
        settings |= {"do_sample": True, "temperature": 5.0, "max_length": 6, "num_return_sequences": 2, "num_beams": 2}
        (home / "generation_config.json").write_text(json.dumps(settings))
    outcome = average(
        checkpoints.folder, val_set, output=tmp_path / "out", task=Seq2Seq, metric="bleu", method="uniform"
    )
    (said,) = outcome.warnings
    assert "`generation_config.json` asks for sampling, which is turned off" in said
    task, data = opened(checkpoints, val_set)
    tokens = task._task._opened.generator.generate(  # type: ignore[attr-defined]
        loaded(checkpoints, task), *(data.batch(torch.arange(5))[name] for name in ("input_ids", "attention_mask"))
    )
    assert [len(row) for row in tokens] == [6] * 5


def test_a_metric_of_a_set_is_the_same_at_any_batch_size(marian: Path, val_set: Path) -> None:
    checkpoints = discover(marian)
    scores = []
    for size in (1, 3, 8, 60):
        task, data = opened(checkpoints, val_set, num_beams=2, **SHORT)
        model = loaded(checkpoints, task)
        sums: dict[str, Tensor] = {}
        for part in torch.arange(60).split(size):
            batch = data.batch(part)
            for name, rows in {**task.evaluate(model, batch), **task.generate(model, batch)}.items():  # type: ignore[attr-defined]
                sums[name] = sums.get(name, torch.zeros(())) + rows.to(torch.float64).sum(dim=0)
        scores.append(sums)
    for sums in scores[1:]:
        for name, value in sums.items():
            assert value.tolist() == pytest.approx(scores[0][name].tolist(), rel=1e-6), name


# Losses


def test_the_trained_loss_is_the_loss_per_token_of_the_whole_set(untrained: Path, val_set: Path) -> None:
    checkpoints = discover(untrained)
    task, data = opened(checkpoints, val_set)
    model = loaded(checkpoints, task)
    with torch.no_grad():
        losses = [float(task.loss(model, data.batch(part))) * len(part) for part in torch.arange(60).split(7)]
        values = task.evaluate(model, data.batch(torch.arange(60)))
    assert sum(losses) / 60 == pytest.approx(float(values["nll"].sum() / values["tokens"].sum()), rel=1e-5)


def test_padding_changes_no_loss(untrained: Path, val_set: Path) -> None:
    checkpoints = discover(untrained)
    task, data = opened(checkpoints, val_set)
    model = loaded(checkpoints, task)
    batch = data.batch(torch.tensor([4]))
    more = {
        **batch,
        "input_ids": F.pad(batch["input_ids"], (0, 9), value=toys.PAD),
        "attention_mask": F.pad(batch["attention_mask"], (0, 9)),
        "labels": F.pad(batch["labels"], (0, 7), value=-100),
    }
    one, other = (task.evaluate(model, each) for each in (batch, more))
    assert one["nll"].tolist() == pytest.approx(other["nll"].tolist(), rel=1e-5)
    assert one["tokens"].tolist() == other["tokens"].tolist()


def test_a_large_vocabulary_is_taken_in_parts_with_the_same_loss_and_gradients(
    untrained: Path, val_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = discover(untrained)
    task, data = opened(checkpoints, val_set)
    batch = data.batch(torch.arange(13))
    found = []
    for most in (1 << 27, 5 * batch["labels"].shape[1] * len(toys.WORDS)):
        monkeypatch.setattr(pair_losses, "MOST_LOGITS", most)
        model = loaded(checkpoints, task)
        sizes: list[int] = []
        model.register_forward_hook(lambda module, inputs, answer, sizes=sizes: sizes.append(len(answer.logits)))
        loss = task.loss(model, batch)
        loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        with torch.no_grad():
            values = task.evaluate(model, batch)
        found.append((sizes, float(loss.detach()), gradients, values["nll"]))
    assert found[0][0] == [13, 13]
    assert set(found[1][0]) == {5, 3}
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-6)
    assert found[1][3].tolist() == pytest.approx(found[0][3].tolist(), rel=1e-6)
    for name, gradient in found[0][2].items():
        assert torch.allclose(gradient, found[1][2][name], atol=1e-6), name


def test_half_precision_models_have_float32_losses(untrained: Path, val_set: Path) -> None:
    checkpoints = discover(untrained)
    task, data = opened(checkpoints, val_set)
    model = loaded(checkpoints, task).to(torch.bfloat16)
    assert task.evaluate(model, data.batch(torch.arange(3)))["nll"].dtype == torch.float32


# Languages, prefixes, lengths


@pytest.mark.parametrize(
    ("kind", "languages", "first"),
    [
        ("MBartTokenizer", ("en_XX", "de_DE"), "decoder_start_token_id"),
        ("MBart50Tokenizer", ("en_XX", "de_DE"), "forced_bos_token_id"),
        ("NllbTokenizer", ("eng_Latn", "deu_Latn"), "forced_bos_token_id"),
        ("M2M100Tokenizer", ("en", "de"), "forced_bos_token_id"),
    ],
)
def test_multilingual_models_write_the_language_that_is_asked_for(
    tmp_path: Path, val_set: Path, kind: str, languages: tuple[str, str], first: str
) -> None:
    tokenizer = toys.multilingual_tokenizer(kind, tmp_path / "made")
    # M2M100's languages stand behind its own tokens.
    size = len(tokenizer) + (110 if kind == "M2M100Tokenizer" else 0)
    name = "MBart" if kind.startswith("MBart") else "M2M100"
    toys.save_untrained(
        tmp_path / "run", lambda: toys.other(name, size, pad_token_id=1, eos_token_id=2, bos_token_id=0), tokenizer
    )
    checkpoints = discover(tmp_path / "run")
    options = {"source_lang": languages[0], "target_lang": languages[1], **SHORT}
    _, data = opened(checkpoints, val_set, **options)
    batch = data.batch(torch.arange(4))
    codes = [f"__{code}__" for code in languages] if kind == "M2M100Tokenizer" else list(languages)
    source, target = tokenizer.convert_tokens_to_ids(codes)
    assert all(source in row for row in batch["input_ids"].tolist())
    assert all(target in row for row in batch["labels"].tolist())
    made = choose_task(checkpoints, Seq2Seq, options)
    generator = made._task._opened.generator  # type: ignore[attr-defined]
    assert generator._values[first] == target
    check_task(Seq2Seq, tmp_path / "run", val_set, options=options)
    with pytest.raises(TaskError, match=r"`target_lang` of task `seq2seq` must be a language of the tokenizer"):
        task_for(checkpoints, target_lang="xx")
    if kind.startswith("MBart"):
        with pytest.raises(TaskError, match=r"Did you mean `de_DE`"):
            task_for(checkpoints, target_lang="de")
    with pytest.raises(TaskError, match=r"`target_lang` of task `seq2seq` must be given"):
        task_for(checkpoints)


def test_the_language_of_the_folder_is_taken_where_none_is_asked_for(tmp_path: Path) -> None:
    tokenizer = toys.multilingual_tokenizer("MBart50Tokenizer", tmp_path / "made")
    german = tokenizer.convert_tokens_to_ids("de_DE")
    size = len(tokenizer)

    def make() -> Any:
        model = toys.other("MBart", size, pad_token_id=1, eos_token_id=2, bos_token_id=0)
        model.generation_config.forced_bos_token_id = german
        return model

    checkpoints = toys.save_untrained(tmp_path / "run", make, tokenizer)
    task = task_for(checkpoints)
    assert task._task._opened.languages.target == "de_DE"  # type: ignore[attr-defined]


def test_a_prefix_stands_before_each_source(untrained: Path, val_set: Path) -> None:
    checkpoints = discover(untrained)
    _, data = opened(checkpoints, val_set, source_prefix="a b ")
    words = toys.word_tokenizer().convert_ids_to_tokens(data.batch(torch.tensor([0]))["input_ids"][0].tolist())
    assert words[:3] == ["a", "b", toys.pairs(1, seed=5)[0][0].split()[0]]


def test_long_texts_are_cut_and_that_is_said(untrained: Path, val_set: Path) -> None:
    _, data = opened(discover(untrained), val_set, max_source_length=5, max_target_length=4)
    batch = data.batch(torch.arange(60))
    assert batch["input_ids"].shape[1] == 5
    assert batch["labels"].shape[1] == 4
    assert all(row[row != -100][-1] == toys.END for row in batch["labels"]), "the end is kept"
    long = [
        sum(len(pair[part].split()) + 1 > most for pair in toys.pairs(60, seed=5)) for part, most in ((0, 5), (1, 4))
    ]
    said = remarks_of(data)
    assert said[0].startswith(f"{long[0]} of 60 sources are longer than 5 tokens and are cut there.")
    assert said[1].startswith(f"{long[1]} of 60 targets are longer than 4 tokens")
    assert "`max_target_length`" in said[1]


def test_texts_beyond_the_positions_are_cut_there_and_options_beyond_them_are_refused(
    untrained: Path, tmp_path: Path
) -> None:
    checkpoints = discover(untrained)
    long = toys.write_jsonl(tmp_path / "long.jsonl", [("1 " * 100, "one " * 100), ("2", "two")])
    _, data = opened(checkpoints, long)
    assert data.batch(torch.arange(2))["labels"].shape[1] == 64
    assert "1 of 2 targets are longer than 64 tokens" in remarks_of(data)[1]
    for name, value, most in (("max_target_length", 65, 64), ("max_source_length", 99, 64), ("max_new_tokens", 64, 63)):
        with pytest.raises(
            TaskError, match=f"`{name}` of task `seq2seq` must be at most {most}.* but is {value}"
        ) as found:
            task_for(checkpoints, **{name: value})
        assert found.value.code == "invalid-task-options"


# What cannot be used


def test_pairs_with_an_empty_text_are_left_out_and_that_is_said(untrained: Path, tmp_path: Path) -> None:
    rows = [("1", "one"), ("2", ""), (" ", "three"), ("4", "four")]
    _, data = opened(discover(untrained), toys.write_jsonl(tmp_path / "val.jsonl", rows))
    assert len(data) == 2
    assert data.batch(torch.arange(2))["references"].tolist() == [[*b"one\x00"], [*b"four"]]
    assert remarks_of(data)[0].startswith("2 of 4 pairs were left out, because a text is empty: ")
    assert "line 2, " in remarks_of(data)[0]


def test_a_target_without_end_is_named(untrained: Path, tmp_path: Path) -> None:
    rows = [("1", "one"), ("2", "two " * 30_000)]
    with pytest.raises(DataError, match=r"at most 100,000 characters, but one has 120,000 in `.*`, line 2"):
        opened(discover(untrained), toys.write_jsonl(tmp_path / "val.jsonl", rows))


@pytest.mark.parametrize("rows", [[("1", ""), ("", "two")], [("", "")]])
def test_data_without_a_whole_pair_are_empty(untrained: Path, tmp_path: Path, rows: list[toys.Pair]) -> None:
    with pytest.raises(DataError, match="only pairs with an empty text") as found:
        opened(discover(untrained), toys.write_jsonl(tmp_path / "val.jsonl", rows))
    assert found.value.code == "empty-data"


def test_other_models_are_refused_in_words(tmp_path: Path, val_set: Path) -> None:
    config = transformers.GPT2Config(vocab_size=len(toys.WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    checkpoints = toys.save_untrained(
        tmp_path / "run", lambda: transformers.GPT2LMHeadModel(config), toys.word_tokenizer()
    )
    assert not Seq2Seq.recognises(checkpoints)
    with pytest.raises(TaskError, match=r"needs an encoder and a decoder .* this is a causal language model") as found:
        task_for(checkpoints)
    assert found.value.code == "model-mismatch"


def test_models_of_images_with_a_like_name_are_not_recognised(untrained: Path, tmp_path: Path) -> None:
    checkpoints = copied(
        untrained, tmp_path / "run", architectures=["WhisperForConditionalGeneration"], model_type="whisper"
    )
    assert not Seq2Seq.recognises(checkpoints)


def test_a_folder_without_a_tokenizer_is_refused(untrained: Path, tmp_path: Path) -> None:
    checkpoints = copied(untrained, tmp_path / "run", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(TaskError, match=r"must have the model's tokenizer") as found:
        task_for(checkpoints)
    assert found.value.code == "model-mismatch"


@pytest.mark.parametrize("make", [toys.t5, lambda: toys.marian(len(toys.WORDS), toys.END, toys.PAD)])
def test_a_missing_first_token_is_named(tmp_path: Path, val_set: Path, make: Callable[[], Any]) -> None:
    toys.save_untrained(tmp_path / "made", make, toys.word_tokenizer())
    checkpoints = copied(tmp_path / "made", tmp_path / "run", "generation_config.json", decoder_start_token_id=None)
    with pytest.raises(EngineError, match="decoder_start_token_id") as found:
        task, data = opened(checkpoints, val_set)
        task.loss(loaded(checkpoints, task), data.batch(torch.arange(2)))
    assert found.value.code == "model-mismatch"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "`num_beams` of task `seq2seq` must be at least 1"),
        ({"num_beams": 1000}, "`num_beams` of task `seq2seq` must be at most 100"),
        ({"bleu_tokenizer": "spm"}, "`bleu_tokenizer` of task `seq2seq` must be one of 13a, intl"),
        ({"max_length": 20}, "`max_length` must be an option"),
        ({"num_beam": 4}, "Did you mean `num_beams`"),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words) as found:
        Seq2Seq.from_options(options)
    assert found.value.code == "invalid-task-options"


def test_an_option_of_bleu_changes_its_counts(marian: Path, val_set: Path) -> None:
    checkpoints = discover(marian)
    found = {}
    for tokenizer in ("13a", "char"):
        task, data = opened(checkpoints, val_set, bleu_tokenizer=tokenizer, **SHORT)
        batch = data.batch(torch.arange(4))
        found[tokenizer] = task.generate(loaded(checkpoints, task), batch)["bleu_counts"]  # type: ignore[attr-defined]
    assert int(found["char"][:, 1].sum()) > 2 * int(found["13a"][:, 1].sum())
