"""Texts, pairs, several labels and regression, against transformers and scikit-learn; and what cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import DataError, EngineError, TaskError
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.choose import choose_task
from ladle_engine.tasks.text_classification import TextClassification
from ladle_engine.testing import check_task
from tests.unit.tasks import text_models
from tests.unit.tasks.text_models import TEXTS, bert_classifier, rows_file, saved

transformers = pytest.importorskip("transformers")

Rows = Sequence[Mapping[str, Any]]
LONGER = (*TEXTS, "a", "the dog and the fox and the film", "boring", "hello " * 12, "sea world")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes: negative, neutral, positive."""
    root = tmp_path_factory.mktemp("bert")
    names = {0: "negative", 1: "neutral", 2: "positive"}
    saved(
        root / "run", lambda: bert_classifier(num_labels=3, id2label=names), text_models.bert_tokenizer(root / "made")
    )
    return root / "run"


def with_config(folder: Path, tmp_path: Path, **changes: Any) -> CheckpointSet:
    copy = shutil.copytree(folder, tmp_path / "changed")
    for home in copy.iterdir():
        config = json.loads((home / "config.json").read_text())
        (home / "config.json").write_text(json.dumps({**config, **changes}))
    return discover(copy)


def opened(checkpoints: CheckpointSet, rows: Rows, tmp_path: Path, **options: Any) -> Any:
    """The data set, and the task."""
    task = choose_task(checkpoints, TextClassification, options)
    return task.open_data(rows_file(tmp_path / "val.jsonl", map(dict, rows)), checkpoints), task


def labels_of(checkpoints: CheckpointSet, rows: Rows, tmp_path: Path, **options: Any) -> Tensor:
    data, _ = opened(checkpoints, rows, tmp_path, **options)
    return data.batch(torch.arange(len(data)))["labels"]


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": TEXTS[number % len(TEXTS)], "label": label} for number, label in enumerate(labels)]


def refused(checkpoints: CheckpointSet, rows: Rows, tmp_path: Path, **options: Any) -> EngineError:
    with pytest.raises(EngineError) as found:
        opened(checkpoints, rows, tmp_path, **options)
    return found.value


# Values that do not depend on the batch

TINY = {"vocab_size": 400, "num_labels": 3}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def models() -> dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]]:
    """Name -> model, tokenizer."""
    t = transformers
    bart = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 1,
            "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 64}  # fmt: skip
    gpt2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0, "eos_token_id": 1,
          "decoder_start_token_id": 0}  # fmt: skip
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64}
    long = {"max_position_embeddings": 64}
    return {
        "bert": (lambda: bert_classifier(400, num_labels=3), text_models.bert_tokenizer),
        "distilbert": (
            lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(**TINY, **distil)),
            text_models.bert_tokenizer,
        ),
        "roberta": (
            lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**TINY, **SMALL, **long)),
            text_models.roberta_tokenizer,
        ),
        "gpt2": (
            lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**TINY, **gpt2)), text_models.gpt2_tokenizer
        ),
        "gpt2-with-padding": (
            lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**TINY, **gpt2, pad_token_id=1)),
            text_models.gpt2_tokenizer,
        ),
        "llama": (
            lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**TINY, **SMALL, **long)),
            text_models.gpt2_tokenizer,
        ),
        "bart": (
            lambda: t.BartForSequenceClassification(t.BartConfig(**TINY, **bart)), text_models.roberta_tokenizer
        ),
        "t5": (lambda: t.T5ForSequenceClassification(t.T5Config(**TINY, **t5)), text_models.t5_tokenizer),
        "xlnet": (
            lambda: t.XLNetForSequenceClassification(
                t.XLNetConfig(**TINY, d_model=16, n_layer=2, n_head=2, d_inner=24, pad_token_id=1)
            ),
            text_models.roberta_tokenizer,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", models())
def test_a_text_has_the_value_in_any_batch_that_it_has_alone_in_transformers(name: str, tmp_path: Path) -> None:
    if name == "t5":
        pytest.importorskip("google.protobuf")
    make, make_tokenizer = models()[name]
    tokenizer = make_tokenizer(tmp_path / "made")
    checkpoints = saved(tmp_path / "run", make, tokenizer, steps=2)
    rows = [{"text": text, "label": number % 3} for number, text in enumerate(LONGER)]
    data, task = opened(checkpoints, rows, tmp_path)
    model = type(make()).from_pretrained(tmp_path / "run" / "checkpoint-20").eval()
    losses = []
    with torch.no_grad():
        for size in (1, 3, 8):
            batches = torch.arange(len(LONGER)).split(size)
            losses.append(torch.cat([task.evaluate(model, data.batch(each))["loss"] for each in batches]))
        alone = [model(**tokenizer(text, return_tensors="pt")).logits for text in LONGER]
    expected = F.cross_entropy(torch.cat(alone), torch.arange(len(LONGER)) % 3, reduction="none")
    for found in losses:
        assert torch.allclose(found, expected, rtol=0, atol=2e-6), name


def test_a_model_that_sees_padding_gets_the_same_of_it_in_every_batch(tmp_path: Path) -> None:
    config = transformers.FNetConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, intermediate_size=24, max_position_embeddings=64,
        num_labels=3, pad_token_id=0,
    )  # fmt: skip
    tokenizer = text_models.bert_tokenizer(tmp_path / "made")
    checkpoints = saved(tmp_path / "run", lambda: transformers.FNetForSequenceClassification(config), tokenizer)
    data, task = opened(checkpoints, labelled(0, 1, 2, 0, 1), tmp_path, max_length=40)
    assert "padded to 40 tokens" in data.remarks[0]
    model = transformers.FNetForSequenceClassification.from_pretrained(tmp_path / "run" / "checkpoint-30").eval()
    whole = task.evaluate(model, data.batch(torch.arange(5)))["loss"]
    alone = torch.cat([task.evaluate(model, data.batch(torch.tensor([each])))["loss"] for each in range(5)])
    assert torch.allclose(whole, alone, rtol=0, atol=1e-6)


def test_the_loss_is_float32_whatever_the_models_dtype(bert: Path, tmp_path: Path) -> None:
    data, task = opened(discover(bert), labelled(0, 1, 2), tmp_path)
    model = transformers.BertForSequenceClassification.from_pretrained(bert / "checkpoint-30", dtype=torch.bfloat16)
    scores = task.evaluate(model.eval(), data.batch(torch.arange(3)))
    assert scores["loss"].dtype == torch.float32
    logits = model(**task_inputs(data)).logits
    assert logits.dtype == torch.bfloat16
    assert torch.equal(scores["loss"], F.cross_entropy(logits.float(), torch.arange(3), reduction="none"))


def task_inputs(data: Any) -> dict[str, Tensor]:
    batch = data.batch(torch.arange(len(data)))
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def test_the_task_follows_the_rules_for_each_kind_of_problem(bert: Path, tmp_path: Path) -> None:
    rows_file(tmp_path / "val.jsonl", labelled(0, 1, 2, 1, 0, 2))
    check_task(TextClassification, bert, tmp_path / "val.jsonl")
    rows_file(tmp_path / "sets.jsonl", labelled([0], [1, 2], [], [0, 1, 2], [2], [0]))
    multi = {"problem_type": "multi_label_classification"}
    check_task(TextClassification, bert, tmp_path / "sets.jsonl", options=multi)
    saved(tmp_path / "one", lambda: bert_classifier(num_labels=1), text_models.bert_tokenizer(tmp_path / "made"))
    rows_file(tmp_path / "scores.jsonl", labelled(0.5, 2, -1, 3.25, 0, 1))
    check_task(TextClassification, tmp_path / "one", tmp_path / "scores.jsonl")


# Problems


def metric_names(task: Task) -> list[str]:
    return [metric.name for metric in task.metrics]


def test_metrics_go_by_the_kind_of_problem_that_the_config_says(bert: Path, tmp_path: Path) -> None:
    checkpoints = discover(bert)

    def of(**config: Any) -> list[str]:
        changed = {**(checkpoints.config or {}), **config}
        return metric_names(choose_task(replace(checkpoints, config=changed), TextClassification, {}))

    assert of() == ["accuracy", "macro-f1", "mcc", "loss"]
    assert of(problem_type="multi_label_classification") == ["micro-f1", "macro-f1", "accuracy", "loss"]
    assert of(id2label={"0": "x"}) == ["pearson", "spearman", "loss"]
    assert of(id2label=None) == ["accuracy", "f1", "macro-f1", "mcc", "loss"], "two classes, by default"
    assert set(of()) < {metric.name for metric in TextClassification.metrics}


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"problem_type": "regression"}, {}, "must have 1 number .* has 3 labels"),
        ({"problem_type": "ranking"}, {}, "must be one of single_label_classification, .* but is 'ranking'"),
        ({"id2label": {"0": "x"}}, {"problem_type": "single_label_classification"}, "at least 2 classes"),
        ({}, {"problem_type": "regression"}, "as the task option says, must have 1 number"),
    ],
)
def test_a_config_and_options_that_contradict_each_other_are_named(
    bert: Path, config: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    checkpoints = discover(bert)
    checkpoints = replace(checkpoints, config={**(checkpoints.config or {}), **config})
    with pytest.raises(TaskError, match=message) as found:
        choose_task(checkpoints, TextClassification, options)
    assert found.value.code == "model-mismatch"


def test_scores_are_those_of_transformers_and_scikit_learn_for_each_problem(bert: Path, tmp_path: Path) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    # No text is there twice: equal scores differ by rounding, which a rank correlation sees.
    texts = [f"{start} {text}" for text in LONGER for start in ("hello", "the film", "sea shore")]
    tokenizer = text_models.bert_tokenizer(tmp_path / "made")
    saved(tmp_path / "one", lambda: bert_classifier(num_labels=1), tokenizer)
    saved(
        tmp_path / "many",
        lambda: bert_classifier(num_labels=4, problem_type="multi_label_classification"),
        tokenizer,
    )
    sets = (torch.rand(len(texts), 4) < 0.4).int().tolist()
    labels: dict[Path, list[Any]] = {
        bert: [number % 3 for number in range(len(texts))],
        tmp_path / "one": torch.randn(len(texts)).tolist(),
        tmp_path / "many": sets,
    }
    for number, (folder, answers) in enumerate(labels.items()):
        rows = [{"text": text, "label": label} for text, label in zip(texts, answers, strict=True)]
        path = rows_file(tmp_path / f"val-{number}.jsonl", rows)
        outcome = average(folder, path, output=tmp_path / f"out-{number}", task=TextClassification, method="uniform")
        from ladle_engine.tasks.examples import split

        _, select = split(len(texts), 0.5, 0)
        own = transformers.AutoTokenizer.from_pretrained(folder / "checkpoint-30")
        model = transformers.BertForSequenceClassification.from_pretrained(folder / outcome.best_checkpoint).eval()
        if outcome.method != "best":
            model = transformers.BertForSequenceClassification.from_pretrained(outcome.folder).eval()
        chosen = [texts[each] for each in select]
        expected = torch.tensor([answers[each] for each in select])
        with torch.no_grad():
            logits = torch.cat([model(**own(text, return_tensors="pt")).logits for text in chosen])
        winner = next(each for each in outcome.candidates if each.method == outcome.method).select
        if folder == bert:
            scores = {
                "accuracy": sklearn_metrics.accuracy_score(expected, logits.argmax(1)),
                "macro-f1": sklearn_metrics.f1_score(expected, logits.argmax(1), average="macro"),
                "mcc": sklearn_metrics.matthews_corrcoef(expected, logits.argmax(1)),
                "loss": float(F.cross_entropy(logits, expected)),
            }
        elif folder.name == "one":
            scores = {
                "pearson": stats.pearsonr(logits[:, 0], expected).statistic,
                "spearman": stats.spearmanr(logits[:, 0], expected).statistic,
                "loss": float(F.mse_loss(logits[:, 0], expected)),
            }
        else:
            scores = {
                "micro-f1": sklearn_metrics.f1_score(expected, logits > 0, average="micro"),
                "macro-f1": sklearn_metrics.f1_score(expected, logits > 0, average="macro", zero_division=0),
                "accuracy": sklearn_metrics.accuracy_score(expected, logits > 0),
                "loss": float(F.binary_cross_entropy_with_logits(logits, expected.float())),
            }
        assert winner == pytest.approx(scores, abs=1e-5)


# Labels


@pytest.mark.parametrize(
    "labels",
    [
        (0, 1, 2, 0),
        ("negative", "neutral", "positive", "negative"),
        ("Negative", "NEUTRAL", " positive", "negative "),
        ("LABEL_0", "LABEL_1", "LABEL_2", "label_0"),
        ("0", "1", "2", "0"),
        (0.0, 1.0, 2.0, 0.0),
        (0, "1", 2.0, "0"),
        ("0.0", "1.0", "2.0", "0.0"),
    ],
)
def test_labels_are_known_by_number_and_by_name(bert: Path, tmp_path: Path, labels: tuple[Any, ...]) -> None:
    assert labels_of(discover(bert), labelled(*labels), tmp_path).tolist() == [0, 1, 2, 0]


def test_two_classes_may_be_false_and_true(bert: Path, tmp_path: Path) -> None:
    two = with_config(bert, tmp_path, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert labels_of(two, labelled(True, False, True), tmp_path).tolist() == [1, 0, 1]
    named = replace(two, config={**(two.config or {}), "id2label": {"0": "True", "1": "False"}})
    assert labels_of(named, labelled(True, False, True), tmp_path).tolist() == [0, 1, 0]


def test_names_that_are_numbers_are_names_where_they_cannot_be_anything_else(bert: Path, tmp_path: Path) -> None:
    stars = with_config(bert, tmp_path, id2label={"0": "1", "1": "2", "2": "3"})
    assert labels_of(stars, labelled(1, 2, 3), tmp_path).tolist() == [0, 1, 2]
    assert labels_of(stars, labelled(0, 1, 2), tmp_path).tolist() == [0, 1, 2]
    error = refused(stars, labelled(1, 2, 1), tmp_path)
    assert error.code == "invalid-data"
    assert "must be clear whether labels are the names of classes or their numbers" in error.message


def test_numbers_that_a_file_has_names_for_are_these_names(bert: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.core.pa.table({"text": list(TEXTS[:3]), "label": [0, 1, 2]})
    feature = {"names": ["positive", "negative", "neutral"], "_type": "ClassLabel"}
    described = json.dumps({"info": {"features": {"label": feature}}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": described}), tmp_path / "val.parquet")
    task = choose_task(discover(bert), TextClassification, {})
    batch = task.open_data(tmp_path / "val.parquet", discover(bert)).batch(torch.arange(3))
    assert batch["labels"].tolist() == [2, 0, 1]


def test_names_for_a_model_without_names_say_what_is_missing(bert: Path, tmp_path: Path) -> None:
    unnamed = with_config(bert, tmp_path, id2label={str(each): f"LABEL_{each}" for each in range(3)})
    error = refused(unnamed, labelled("good", "bad"), tmp_path)
    assert error.code == "unknown-classes"
    assert "give it an `id2label`" in error.message


@pytest.mark.parametrize("label", ["5", "-1", "0.5", ""])
def test_a_number_in_a_csv_that_no_class_has_does_not_ask_for_names(bert: Path, tmp_path: Path, label: str) -> None:
    unnamed = with_config(bert, tmp_path, id2label={str(each): f"LABEL_{each}" for each in range(3)})
    (tmp_path / "val.csv").write_text(f"text,label\na film,1\nthe dog,{label}\n")
    task = choose_task(unnamed, TextClassification, {})
    with pytest.raises(DataError, match="whole numbers from 0 to 2, but") as found:
        task.open_data(tmp_path / "val.csv", unnamed)
    assert "id2label" not in found.value.message


@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        (("negative", "angry"), "unknown-classes", ("negative, neutral, positive", "'angry'", "line 2")),
        ((0, 3), "unknown-classes", ("from 0 to 2", "is 3", "line 2")),
        ((0, -1), "unknown-classes", ("is -1", "held back")),
        ((0, None), "invalid-data", ("absent", "line 2")),
        ((0, 1.5), "invalid-data", ("1.5", "problem_type")),
        ((0, [1]), "invalid-data", ("one label for each text", "problem_type")),
        ((0, {"a": 1}), "invalid-data", ("one label for each text",)),
        ((0, ""), "unknown-classes", ("''", "line 2")),
    ],
)
def test_labels_that_the_model_does_not_know_are_named_with_their_place(
    bert: Path, tmp_path: Path, labels: tuple[Any, ...], code: str, words: tuple[str, ...]
) -> None:
    error = refused(discover(bert), labelled(*labels), tmp_path)
    assert error.code == code
    assert all(word in error.message for word in words), error.message


MULTI = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize(
    "labels",
    [
        ([0, 2], [], [1], [0, 1, 2]),
        (["negative", "Positive"], [], ["neutral"], ["negative", "neutral", "positive"]),
        ([1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]),
        ([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]),
        ([True, False, True], [False, False, False], [False, True, False], [True, True, True]),
        ("[0, 2]", "[]", "[1]", "[0, 1, 2]"),
        ('["negative", "positive"]', "[]", '["neutral"]', '["neutral", "negative", "positive"]'),
        ([0, 2], [], 1, [2, 1, 0]),
    ],
)
def test_sets_of_labels_are_lists_of_labels_or_of_zeros_and_ones(
    bert: Path, tmp_path: Path, labels: tuple[Any, ...]
) -> None:
    found = labels_of(discover(bert), labelled(*labels), tmp_path, **MULTI)
    assert found.int().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]


def test_columns_that_are_named_as_labels_are_labels(bert: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "a film", "Positive": 1, "neutral": 0, "negative": 1},
        {"text": "the dog", "Positive": 0, "neutral": 1, "negative": 0},
    ]
    assert labels_of(discover(bert), rows, tmp_path, **MULTI).int().tolist() == [[1, 0, 1], [0, 1, 0]]
    csv = tmp_path / "val.csv"
    csv.write_text("id,comment_text,positive,neutral,negative\n1,a film,1,0,1\n2,the dog,0,1,0\n")
    task = choose_task(discover(bert), TextClassification, MULTI)
    batch = task.open_data(csv, discover(bert)).batch(torch.arange(2))
    assert batch["labels"].int().tolist() == [[1, 0, 1], [0, 1, 0]]
    error = refused(discover(bert), [{**rows[0], "neutral": 2}, rows[1]], tmp_path, **MULTI)
    assert "must have 0 or 1 in every row" in error.message
    assert "neutral" in error.message


@pytest.mark.parametrize(
    ("labels", "code", "word"),
    [
        (([0, 5], []), "unknown-classes", "is 5"),
        (([0], ["angry"]), "unknown-classes", "'angry'"),
        (([0], None), "invalid-data", "absent"),
        (([0], [[1]]), "invalid-data", "must be a list"),
        (([0], [0.5]), "invalid-data", "0.5"),
    ],
)
def test_sets_with_labels_that_the_model_does_not_know_are_refused(
    bert: Path, tmp_path: Path, labels: tuple[Any, ...], code: str, word: str
) -> None:
    error = refused(discover(bert), labelled(*labels), tmp_path, **MULTI)
    assert error.code == code
    assert word in error.message


@pytest.mark.parametrize("label", ["good", None, True, [1.0], float("nan"), "nan"])
def test_a_regression_needs_numbers(bert: Path, tmp_path: Path, label: Any) -> None:
    one = with_config(bert, tmp_path, id2label={"0": "LABEL_0"})
    assert labels_of(one, labelled(1, 2.5, "3"), tmp_path).tolist() == [1.0, 2.5, 3.0]
    error = refused(one, labelled(1.0, label), tmp_path)
    assert error.code == "invalid-data"
    assert "number" in error.message
    assert "line 2" in error.message or "NaN" in error.message


# Texts


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"sentence": "a film", "label": 0}, ("a film",)),
        ({"premise": "a film", "hypothesis": "the dog", "label": 0}, ("a film", "the dog")),
        ({"sentence1": "a film", "sentence2": "the dog", "label": 0, "idx": 3}, ("a film", "the dog")),
        ({"question": "a film", "sentence": "the dog", "label": 0}, ("a film", "the dog")),
        ({"question1": "a film", "question2": "the dog", "label": 0}, ("a film", "the dog")),
        ({"id": "7", "title": "x", "text": "a film", "label": 0}, ("a film",)),
        ({"content": "a film", "category": "neutral"}, ("a film",)),
    ],
)
def test_columns_are_found_by_their_usual_names(
    bert: Path, tmp_path: Path, row: dict[str, Any], texts: tuple[str, ...]
) -> None:
    data, _ = opened(discover(bert), [row, row], tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert / "checkpoint-30")
    expected = tokenizer(*texts, return_tensors="pt")
    batch = data.batch(torch.tensor([0]))
    assert batch["input_ids"].tolist() == expected["input_ids"].tolist()
    assert batch["token_type_ids"].tolist() == expected["token_type_ids"].tolist()


def test_columns_that_are_named_otherwise_are_given_as_options(bert: Path, tmp_path: Path) -> None:
    row = {"a": "a film", "b": "the dog", "c": "neutral"}
    given = {"text": "a", "text_pair": "b", "label": "c"}
    data, _ = opened(discover(bert), [row, row], tmp_path, columns=given)
    assert data.batch(torch.tensor([1]))["labels"].tolist() == [1]
    single, _ = opened(discover(bert), [row, row], tmp_path, columns={"text": "a", "label": "c"})
    assert len(single.batch(torch.tensor([0]))["input_ids"][0]) < len(data.batch(torch.tensor([0]))["input_ids"][0])
    error = refused(discover(bert), [row], tmp_path)
    assert "`a` (text), `b` (text), `c` (text)" in error.message
    error = refused(discover(bert), [row], tmp_path, columns={"text": "z", "label": "c"})
    assert "`z`" in error.message
    error = refused(discover(bert), [row], tmp_path, columns={"texts": "a", "label": "c"})
    assert error.code == "invalid-task-options"


@pytest.mark.parametrize(
    "row", [{"text": None, "label": 0}, {"text": 3, "label": 0}, {"label": 0}, {"text": ["a"], "label": 0}]
)
def test_a_text_that_is_none_is_named_with_its_place(bert: Path, tmp_path: Path, row: dict[str, Any]) -> None:
    error = refused(discover(bert), [{"text": "a film", "label": 0}, row], tmp_path)
    assert isinstance(error, DataError)
    assert error.code == "invalid-data"
    assert "text" in error.message


def test_half_a_pair_is_refused(bert: Path, tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": 0}, {"premise": "a", "hypothesis": None, "label": 0}]
    assert "line 2" in refused(discover(bert), rows, tmp_path).message


def test_an_empty_text_is_one_where_the_tokenizer_adds_something_to_it(bert: Path, tmp_path: Path) -> None:
    rows = [{"text": "", "label": 0}, {"text": "a film", "label": 1}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert data.batch(torch.arange(2))["attention_mask"].sum(dim=1).tolist()[0] == 2
    make, make_tokenizer = models()["gpt2"]
    gpt2 = saved(tmp_path / "gpt2", make, make_tokenizer(tmp_path / "made"), steps=2)
    error = refused(gpt2, rows, tmp_path)
    assert "at least one token, but the one in `val.jsonl`, line 1" in error.message or "line 1" in error.message


def test_an_end_token_in_a_text_is_refused_where_the_model_looks_for_it(tmp_path: Path) -> None:
    make, make_tokenizer = models()["bart"]
    bart = saved(tmp_path / "bart", make, make_tokenizer(tmp_path / "made"), steps=2)
    rows = [{"text": "a film", "label": 0}, {"text": "a </s> film", "label": 1}]
    error = refused(bart, rows, tmp_path)
    assert "line 2 has it 2 times, and the first text 1 times" in error.message


def test_long_texts_are_cut_and_counted(bert: Path, tmp_path: Path) -> None:
    rows = [{"text": "hello " * 100, "label": 0}, {"text": "a film", "label": 1}, {"text": "dog " * 70, "label": 1}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert data.batch(torch.arange(3))["input_ids"].shape == (3, 64), "the model's positions"
    assert "2 of 3 texts have more tokens than 64, and are cut there" in data.remarks[0]
    data, _ = opened(discover(bert), rows, tmp_path, max_length=10)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert / "checkpoint-30")
    expected = tokenizer(rows[0]["text"], truncation=True, max_length=10)["input_ids"]
    assert data.batch(torch.tensor([0]))["input_ids"].tolist() == [expected]
    pairs = [{"premise": "a", "hypothesis": "b", "label": 0}]
    assert "at least 5 for pairs of texts" in refused(discover(bert), pairs, tmp_path, max_length=4).message
    error = refused(discover(bert), rows, tmp_path, max_length=65)
    assert error.code == "invalid-task-options"
    assert "at most 64, the model's positions" in error.message


def test_of_a_very_large_table_the_first_texts_are_looked_at_beforehand(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle_engine.tasks.text.classification.classified.MOST_LOOKED_AT", 2)
    rows = [{"text": "dog " * 70, "label": 0}, {"text": "a film", "label": 1}, {"text": None, "label": 1}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert "1 of the first 2 texts have more tokens than 64" in data.remarks[0]
    with pytest.raises(DataError, match="line 3"):
        data.batch(torch.tensor([2]))


def test_a_tokenizer_that_knows_few_of_the_words_is_told_of(bert: Path, tmp_path: Path) -> None:
    rows = [{"text": "zwölf 十二 двенадцать", "label": 0}, {"text": "十二 двенадцать", "label": 1}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert any("does not know" in remark and "Is it the model's" in remark for remark in data.remarks)


def test_a_token_that_the_model_has_no_row_for_is_named(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert / "checkpoint-30")
    tokenizer.add_tokens([f"extra{number}" for number in range(200)])
    tokenizer.save_pretrained(folder / "checkpoint-30")
    opened(discover(folder), labelled(0, 1), tmp_path)
    error = refused(discover(folder), [{"text": "a film extra199", "label": 0}] * 2, tmp_path)
    assert error.code == "model-mismatch"
    assert "'extra199'" in error.message


def test_what_is_kept_does_not_change_a_batch(bert: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": 0} for text in LONGER]
    data, _ = opened(discover(bert), rows, tmp_path)
    before = data.batch(torch.arange(len(LONGER)))
    data.keep(2000)
    for _ in range(2):
        again = data.batch(torch.arange(len(LONGER)))
        assert all(torch.equal(again[name], before[name]) for name in before)


def test_the_folder_is_recognised_and_others_are_not(bert: Path) -> None:
    assert TextClassification.recognises(discover(bert))
    checkpoints = discover(bert)
    for config in (None, {}, {"architectures": ["BertForTokenClassification"]}, {"architectures": ["BertModel"]}):
        assert not TextClassification.recognises(replace(checkpoints, config=config))


def test_coefficients_are_trained_without_labels(bert: Path, tmp_path: Path) -> None:
    val_set = rows_file(tmp_path / "val.jsonl", labelled(*[number % 3 for number in range(20)]))
    train_set = rows_file(tmp_path / "train.jsonl", [{"text": text} for text in LONGER])
    outcome = average(
        bert, val_set, train_set=train_set, train_set_use="entropy", output=tmp_path / "out", task=TextClassification,
        method="twa", method_options={"steps": 4},
    )  # fmt: skip
    assert any(score.method == "twa" for score in outcome.candidates)
    one = with_config(bert, tmp_path, id2label={"0": "LABEL_0"}).folder
    with pytest.raises(EngineError, match="cannot be trained without labels"):
        average(
            one, val_set, train_set=train_set, train_set_use="entropy", output=tmp_path / "no", task=TextClassification
        )


def test_entropy_is_that_of_what_is_predicted(bert: Path, tmp_path: Path) -> None:
    texts = rows_file(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    model = transformers.BertForSequenceClassification.from_pretrained(bert / "checkpoint-30").eval()
    expected = {
        "single_label_classification": lambda logits: torch.distributions.Categorical(logits=logits).entropy(),
        "multi_label_classification": lambda logits: torch.distributions.Bernoulli(logits=logits).entropy(),
    }
    for problem, entropy in expected.items():
        task: Any = choose_task(discover(bert), TextClassification, {"problem_type": problem})
        data = task._task.open_unlabelled(texts, discover(bert))
        with torch.no_grad():
            found = task._task.entropy(model, data.batch(torch.arange(5)))
            logits = model(**task_inputs(data)).logits
        assert float(found) == pytest.approx(float(entropy(logits).mean()), rel=1e-5)


def test_a_model_for_another_task_is_told_of_before_the_data_are_looked_at(bert: Path, tmp_path: Path) -> None:
    other = with_config(bert, tmp_path, architectures=["GPT2LMHeadModel"])
    with pytest.raises(TaskError, match=r"needs a classification head, .* this is a causal language model") as found:
        average(other.folder, tmp_path / "nothing.csv", output=tmp_path / "out", task=TextClassification)
    assert found.value.code == "model-mismatch"
