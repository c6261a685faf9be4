"""Tags of words, against transformers and seqeval; CoNLL files; and what cannot be used."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine import average, rebuild
from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import EngineError
from ladle_engine.tasks.choose import choose_task
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.text.classification.spans import Tags
from ladle_engine.tasks.token_classification import OF_SPANS, TokenClassification
from ladle_engine.testing import check_task
from tests.unit.tasks import text_models
from tests.unit.tasks.text_models import TEXTS, rows_file, saved

transformers = pytest.importorskip("transformers")

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
Rows = Sequence[Mapping[str, Any]]


def config_of(kind: str, **settings: Any) -> Any:
    names = {"id2label": dict(enumerate(TAGS)), "label2id": {name: number for number, name in enumerate(TAGS)}}
    return getattr(transformers, f"{kind}Config")(**{"vocab_size": 400, **names, **settings})


def bert_tagger(**settings: Any) -> Any:
    config = config_of("Bert", **{**SMALL, "max_position_embeddings": 64, **settings})
    return transformers.BertForTokenClassification(config)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bert")
    saved(root / "run", bert_tagger, text_models.bert_tokenizer(root / "made"))
    return root / "run"


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    words = [word for text in TEXTS for word in text.split()] + ["unbelievablylongword", "十二"]
    lengths = [chance.randint(1, 5) for _ in range(count)]
    return [
        {"tokens": chance.choices(words, k=length), "ner_tags": chance.choices(TAGS, k=length)} for length in lengths
    ]


def opened(checkpoints: CheckpointSet, rows: Rows, tmp_path: Path, **options: Any) -> Any:
    """The data set, and the task."""
    task = choose_task(checkpoints, TokenClassification, options)
    return task.open_data(rows_file(tmp_path / "val.jsonl", map(dict, rows)), checkpoints), task


def refused(checkpoints: CheckpointSet, rows: Rows, tmp_path: Path, **options: Any) -> EngineError:
    with pytest.raises(EngineError) as found:
        opened(checkpoints, rows, tmp_path, **options)
    return found.value


def words_and_labels(data: Any, index: int) -> list[int]:
    labels = data.batch(torch.tensor([index]))["labels"][0]
    return labels[labels != -100].tolist()


# Spans


@pytest.mark.filterwarnings("ignore:.*seems not to be NE tag")
@pytest.mark.parametrize(
    "names",
    [
        ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
        ("O", "I-PER", "I-LOC", "B-PER"),
        ("O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B"),
        ("O", "B", "I"),
        ("O", "B-long-type", "I-long-type", "B-long", "I-long"),
        ("O", "B-A", "I-A", "L-A", "U-A"),
    ],
)
def test_spans_are_seqevals_for_any_sequence_of_tags(names: tuple[str, ...]) -> None:
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    chance = random.Random(0)
    lengths = [1, 2, 2, 3, *(chance.randint(1, 9) for _ in range(150))]
    true, predicted = ([chance.choices(range(len(names)), k=length) for length in lengths] for _ in range(2))
    width = max(lengths)
    as_tensor = [torch.tensor([row + [-1] * (width - len(row)) for row in rows]) for rows in (true, predicted)]
    tags = Tags(names)
    counts = tags.counts(as_tensor[1].clamp(min=0), as_tensor[0])
    for number, (wanted, guess) in enumerate(zip(true, predicted, strict=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entities = [set(sequence_labeling.get_entities([[names[each] for each in row]])) for row in (wanted, guess)]
        for kind, row in zip(tags.types, counts[number].T.tolist(), strict=True):
            theirs, ours = ({each for each in found if each[0] == kind} for found in entities)
            assert row == [len(theirs & ours), len(ours), len(theirs)], (kind, wanted, guess)


def test_scores_of_spans_are_seqevals_and_exact_for_any_split() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    chance = random.Random(1)
    true, predicted = ([chance.choices(TAGS, k=6) for _ in range(80)] for _ in range(2))
    numbers = [torch.tensor([[TAGS.index(tag) for tag in row] for row in rows]) for rows in (true, predicted)]
    whole = Tags(TAGS).counts(numbers[1], numbers[0])
    parts = torch.cat([Tags(TAGS).counts(numbers[1][part], numbers[0][part]) for part in torch.arange(80).split(7)])
    assert torch.equal(whole, parts)
    values, ones = {"spans": whole.flatten(1).double()}, torch.ones(1, 80, dtype=torch.float64)
    scores = {metric.name: float(metric.of(values, ones)) for metric in OF_SPANS if metric.of}
    assert scores == pytest.approx(
        {
            "span-f1": seqeval.f1_score(true, predicted),
            "span-precision": seqeval.precision_score(true, predicted),
            "span-recall": seqeval.recall_score(true, predicted),
            "macro-span-f1": seqeval.f1_score(true, predicted, average="macro"),
        },
        abs=1e-12,
    )


# Models


def models() -> dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]]:
    """Name -> model, tokenizer."""
    t = transformers
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64}
    xlnet = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "pad_token_id": 1}
    gpt2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0, "eos_token_id": 1}
    return {
        "bert": (bert_tagger, text_models.bert_tokenizer),
        "distilbert": (
            lambda: t.DistilBertForTokenClassification(config_of("DistilBert", **distil)), text_models.bert_tokenizer
        ),
        "roberta": (
            lambda: t.RobertaForTokenClassification(config_of("Roberta", **SMALL, max_position_embeddings=64)),
            text_models.roberta_tokenizer,
        ),
        "gpt2": (lambda: t.GPT2ForTokenClassification(config_of("GPT2", **gpt2)), text_models.gpt2_tokenizer),
        "xlnet": (lambda: t.XLNetForTokenClassification(config_of("XLNet", **xlnet)), text_models.roberta_tokenizer),
        "byt5": (lambda: t.T5ForTokenClassification(config_of("T5", **t5)), lambda _: t.ByT5Tokenizer()),
    }  # fmt: skip


@pytest.mark.parametrize("name", models())
def test_a_sentence_has_the_values_in_any_batch_that_it_has_alone_in_transformers(name: str, tmp_path: Path) -> None:
    make, make_tokenizer = models()[name]
    tokenizer = make_tokenizer(tmp_path / "made")
    checkpoints = saved(tmp_path / "run", make, tokenizer, steps=2)
    rows = sentences(12)
    data, task = opened(checkpoints, rows, tmp_path)
    model = type(make()).from_pretrained(tmp_path / "run" / "checkpoint-20").eval()
    found: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for size in (1, 3, 8):
            batches = [task.evaluate(model, data.batch(each)) for each in torch.arange(len(rows)).split(size)]
            found.append({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})
    for scores in found[1:]:
        assert scores["nll"].tolist() == pytest.approx(found[0]["nll"].tolist(), rel=2e-6, abs=5e-6)
        assert all(torch.equal(scores[name], found[0][name]) for name in ("words", "correct", "spans"))
    for row, nll, words in zip(rows, found[0]["nll"], found[0]["words"], strict=True):
        expected, count = alone(model, tokenizer, row)
        assert words == count
        assert float(nll) == pytest.approx(expected, rel=2e-6, abs=5e-6)


def alone(model: Any, tokenizer: Any, row: Mapping[str, Any]) -> tuple[float, int]:
    """The sum of the losses of a sentence's words, and how many they are."""
    logits, labels = words_alone(model, tokenizer, row)
    return float(F.cross_entropy(logits, labels, reduction="sum")), len(labels)


def words_alone(model: Any, tokenizer: Any, row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """As `run_ner.py` does it: the first token of each word has its tag. Logits of the words, and numbers of tags."""
    if tokenizer.is_fast:
        encoded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        word_ids = encoded.word_ids(0)
    else:
        pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in row["tokens"]]
        word_ids = [number for number, piece in enumerate(pieces) for _ in piece] + [None]
        ids = [each for piece in pieces for each in piece] + [tokenizer.eos_token_id]
        encoded = {"input_ids": torch.tensor([ids])}
    labels, before = [], None
    for word in word_ids:
        labels.append(TAGS.index(row["ner_tags"][word]) if word is not None and word != before else -100)
        before = word
    with torch.no_grad():
        logits = model(**encoded).logits[0]
    words = torch.tensor(labels) != -100
    return logits[words], torch.tensor(labels)[words]


def test_the_task_follows_the_rules(bert: Path, tmp_path: Path) -> None:
    check_task(TokenClassification, bert, rows_file(tmp_path / "val.jsonl", sentences(9)))


def test_the_loss_that_is_trained_counts_each_word_alike(bert: Path, tmp_path: Path) -> None:
    data, task = opened(discover(bert), sentences(9), tmp_path)
    model = transformers.BertForTokenClassification.from_pretrained(bert / "checkpoint-30").eval()
    batch = data.batch(torch.arange(9))
    with torch.no_grad():
        scores, loss = task.evaluate(model, batch), task.loss(model, batch)
    assert float(loss) == pytest.approx(float(scores["nll"].sum() / scores["words"].sum()), rel=1e-5)


def test_the_report_says_what_transformers_and_seqeval_say(bert: Path, tmp_path: Path) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    rows = sentences(60)
    path = rows_file(tmp_path / "val.jsonl", rows)
    outcome = average(bert, path, output=tmp_path / "out", task=TokenClassification, method="uniform")
    assert outcome.metric == "span-f1"
    model = transformers.BertForTokenClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    _, select = split(60, 0.5, 0)
    true, predicted, nll, count = [], [], 0.0, 0
    for row in (rows[each] for each in select):
        encoded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            guess = model(**encoded).logits[0].argmax(dim=1).tolist()
        firsts = [encoded.word_ids(0).index(word) for word in range(len(row["tokens"]))]
        true.append(row["ner_tags"])
        predicted.append([TAGS[guess[place]] for place in firsts])
        loss, words = alone(model, tokenizer, row)
        nll, count = nll + loss, count + words
    winner = next(each for each in outcome.candidates if each.method == outcome.method).select
    assert winner == pytest.approx(
        {
            "span-f1": seqeval.f1_score(true, predicted),
            "span-precision": seqeval.precision_score(true, predicted),
            "span-recall": seqeval.recall_score(true, predicted),
            "macro-span-f1": seqeval.f1_score(true, predicted, average="macro"),
            "accuracy": seqeval.accuracy_score(true, predicted),
            "loss": nll / count,
        },
        abs=1e-5,
    )


def test_cached_outputs_are_those_of_the_words(bert: Path, tmp_path: Path) -> None:
    """Newton's method on what transformers puts out for each sentence alone; of two sets, with longer sentences in one
    of them."""
    sets = {"short": sentences(40), "long": [joined(*pair) for pair in pairwise(sentences(31, seed=3))]}
    outcome = average(
        bert,
        {name: rows_file(tmp_path / f"{name}.jsonl", rows) for name, rows in sets.items()},
        output=tmp_path / "out", task=TokenClassification, method="cached-outputs",
        metric="macro-span-f1", judge_by={"short": 1, "long": 3},
    )  # fmt: skip
    homes = [bert / f"checkpoint-{step}" for step in (10, 20, 30)]
    models = [transformers.BertForTokenClassification.from_pretrained(home).eval() for home in homes]
    tokenizer = transformers.AutoTokenizer.from_pretrained(homes[0])
    parts = []
    for weight, rows in zip((0.25, 0.75), sets.values(), strict=True):
        fit, _ = split(len(rows), 0.5, 0)
        found = [[words_alone(model, tokenizer, rows[each]) for each in fit] for model in models]
        logits_KWC = torch.stack([torch.cat([logits for logits, _ in of_one]) for of_one in found]).double()
        labels_W = torch.cat([labels for _, labels in found[0]])
        # A word counts by the mean length of the set's sentences, as where coefficients are trained.
        trained = weight * len(rows) / sum(len(row["tokens"]) for row in rows) / len(fit)
        parts.append((logits_KWC, labels_W, trained, weight / len(labels_W)))

    def alpha_of(free: Tensor) -> Tensor:
        return 1 / 3 + torch.cat([free, -free.sum()[None]])

    def losses(free: Tensor) -> list[Tensor]:
        return [
            F.cross_entropy(torch.einsum("k,kwc->wc", alpha_of(free), logits_KWC), labels_W, reduction="sum")
            for logits_KWC, labels_W, _, _ in parts
        ]

    def objective(free: Tensor) -> Tensor:
        loss = sum(part[2] * each for part, each in zip(parts, losses(free), strict=True))
        count = sum(len(rows) // 2 for rows in sets.values())
        return torch.as_tensor(loss) + (alpha_of(free) - 1 / 3).square().sum() / (2 * count * 0.3**2)

    free = torch.zeros(2, dtype=torch.float64)
    for _ in range(20):
        gradient = torch.autograd.functional.jacobian(objective, free)
        free = free - torch.linalg.solve(torch.autograd.functional.hessian(objective, free), gradient)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (row,) = (row for row in report["candidates"] if row["method"] == "cached-outputs")
    assert row["coefficients"][0] == pytest.approx(alpha_of(free).tolist(), abs=2e-3), "outputs are kept as halves"
    details = report["details"]["cached-outputs"]
    assert details["examples"] == 35
    expected = sum(float(part[3] * each) for part, each in zip(parts, losses(free), strict=True))
    assert details["loss_of_outputs"] == pytest.approx(expected, rel=1e-3)
    assert details["loss_of_weights"] == pytest.approx(row["fit"]["loss"], abs=1e-9)
    assert {score.method for score in outcome.candidates} == {"best", "cached-outputs"}


def joined(*rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: [each for row in rows for each in row[name]] for name in ("tokens", "ner_tags")}


def test_a_search_raises_the_f1_of_spans(bert: Path, tmp_path: Path) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    rows = sentences(120)
    average(
        bert, rows_file(tmp_path / "val.jsonl", rows), output=tmp_path / "out", task=TokenClassification,
        metric="macro-span-f1",
        method_options={"methods": ["uniform", "search"], "options": {"search": {"budget": 40.0, "share": 1.0}}},
    )  # fmt: skip

    def f1(method: str, part: int) -> float:
        home = rebuild(tmp_path / "out", bert, output=tmp_path / f"{method}-{part}", candidate=method)
        model = transformers.BertForTokenClassification.from_pretrained(home).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(home)
        found = [words_alone(model, tokenizer, rows[each]) for each in split(len(rows), 0.5, 0)[part]]
        predicted = [[TAGS[tag] for tag in logits.argmax(dim=1)] for logits, _ in found]
        true = [[TAGS[tag] for tag in labels] for _, labels in found]
        return float(seqeval.f1_score(true, predicted, average="macro"))

    assert f1("search", 0) > f1("uniform", 0) + 0.01, "where it searches, it finds something better than its start"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (row,) = (row for row in report["candidates"] if row["method"] == "search")
    assert row["select"]["macro-span-f1"] == pytest.approx(f1("search", 1), abs=1e-5)


def test_labels_that_are_no_spans_have_an_accuracy_alone(bert: Path) -> None:
    checkpoints = discover(bert)
    speech = replace(checkpoints, config={**(checkpoints.config or {}), "id2label": {"0": "NOUN", "1": "VERB"}})
    task = choose_task(speech, TokenClassification, {})
    assert [metric.name for metric in task.metrics] == ["accuracy", "loss"]


# Tables


@pytest.mark.parametrize("column", ["ner_tags", "tags", "labels", "ner"])
@pytest.mark.parametrize("tags", [["O", "B-PER"], [0, 1], ["o", "b-per"], ["LABEL_0", "LABEL_1"]])
def test_tags_are_names_or_numbers(bert: Path, tmp_path: Path, column: str, tags: list[Any]) -> None:
    rows = [{"tokens": ["hello", "fox"], column: tags}, {"tokens": ["dog"], column: tags[:1]}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert [words_and_labels(data, each) for each in (0, 1)] == [[0, 1], [0]]


def test_columns_that_are_named_otherwise_are_given_as_options(bert: Path, tmp_path: Path) -> None:
    rows = [{"pieces": ["hello", "fox"], "kinds": ["O", "B-PER"]}]
    data, _ = opened(discover(bert), rows, tmp_path, columns={"tokens": "pieces", "tags": "kinds"})
    assert words_and_labels(data, 0) == [0, 1]
    error = refused(discover(bert), rows, tmp_path)
    assert "`pieces` (list of text), `kinds` (list of text)" in error.message


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "invalid-data", ("line 2", "2 words", "1 tags")),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "unknown-classes", ("'B-ORG'", "B-PER", "line 2")),
        ({"tokens": ["a"], "tags": [9]}, "unknown-classes", ("from 0 to 4", "is 9")),
        ({"tokens": [None], "tags": ["O"]}, "invalid-data", ("`tokens`",)),
        ({"tokens": None, "tags": ["O"]}, "invalid-data", ("line 2",)),
        ({"tokens": "a b", "tags": ["O"]}, "invalid-data", ("list of text",)),
        ({"tokens": ["a"], "tags": "O"}, "invalid-data", ("list of",)),
        ({"tokens": ["a"], "tags": [None]}, "invalid-data", ("`tags`",)),
        ({"tokens": ["a"]}, "invalid-data", ("tags",)),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    bert: Path, tmp_path: Path, row: dict[str, Any], code: str, words: tuple[str, ...]
) -> None:
    error = refused(discover(bert), [{"tokens": ["fox"], "tags": ["O"]}, row], tmp_path)
    assert error.code == code
    assert all(word in error.message for word in words), error.message


def test_an_empty_sentence_counts_for_nothing(bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": [], "tags": []}, {"tokens": ["fox", "dog"], "tags": ["O", "B-LOC"]}, {"tokens": [], "tags": []}]
    data, task = opened(discover(bert), rows, tmp_path)
    model = transformers.BertForTokenClassification.from_pretrained(bert / "checkpoint-30").eval()
    scores = task.evaluate(model, data.batch(torch.arange(3)))
    assert scores["words"].tolist() == [0, 2, 0]
    assert scores["nll"][0] == 0
    assert refused(discover(bert), [rows[0], rows[2]], tmp_path).code == "empty-data"


def test_tags_behind_the_cut_are_counted_in_words(bert: Path, tmp_path: Path) -> None:
    rows = [
        {"tokens": ["fox"] * 100, "tags": ["O"] * 100},
        {"tokens": ["fox", "dog"], "tags": ["O", "O"]},
    ]
    data, _ = opened(discover(bert), rows, tmp_path)
    batch = data.batch(torch.arange(2))
    seen = int((batch["labels"] != -100).sum())
    assert batch["input_ids"].shape == (2, 64)
    assert f"{102 - seen} of 102 tags, in 1 of 2 sentences, are beyond 64 tokens" in data.remarks[0]
    data, _ = opened(discover(bert), rows[1:], tmp_path)
    assert not data.remarks


def test_words_without_a_token_are_told_of(bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["fox", "\u200b", "dog", ""], "tags": ["O", "B-PER", "B-LOC", "O"]}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert words_and_labels(data, 0) == [0, 3]
    assert "2 of 4 tags are of words for which the tokenizer has no token" in data.remarks[0]


def test_tags_of_minus_100_are_left_out(bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["fox", "dog"], "tags": [-100, 3]}]
    data, _ = opened(discover(bert), rows, tmp_path)
    assert words_and_labels(data, 0) == [3]
    assert not data.remarks


# CoNLL

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-PER
rejects VBZ B-VP O
German JJ B-NP B-LOC

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
SENTENCES = [(["EU", "rejects", "German"], [1, 0, 3]), (["Peter", "Blackburn"], [1, 2])]


def conll(bert: Path, path: Path, content: str, **options: Any) -> list[tuple[list[str], list[int]]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, newline="")
    return read_conll(bert, path, **options)


def read_conll(bert: Path, path: Path, **options: Any) -> list[tuple[list[str], list[int]]]:
    task: Any = choose_task(discover(bert), TokenClassification, options)
    data = task.open_data(path, discover(bert))
    return data._data._sentences.at(range(len(data)))


@pytest.mark.parametrize("name", ["val.conll", "val.txt", "val.iob2", "val.tsv", "val"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_conll_files_are_known_by_their_name_or_what_is_in_them(
    bert: Path, tmp_path: Path, name: str, end: str
) -> None:
    assert conll(bert, tmp_path / name, CONLL_2003.replace(" ", "\t").replace("\n", end)) == SENTENCES


@pytest.mark.parametrize(
    "content",
    [
        CONLL_2003,
        CONLL_2003.rstrip("\n"),
        CONLL_2003.replace(" ", "\t"),
        CONLL_2003.replace("-DOCSTART- -X- -X- O\n\n", ""),
        CONLL_2003.replace("\n\n", "\n\n\n\n"),
        CONLL_2003.replace("\n\n", "\n \t\n"),
        "\n\n" + CONLL_2003,
        "\ufeff" + CONLL_2003,
        CONLL_2003.replace("EU NNP", "# sentence 1\nEU NNP").replace("Peter NNP", "# id 7 domain=en\nPeter NNP"),
        "EU B-PER\nrejects O\nGerman B-LOC\n\nPeter B-PER\nBlackburn I-PER\n",
        "1\tEU\tB-PER\tO\n2\trejects\tO\tO\n3\tGerman\tB-LOC\tO\n\n1\tPeter\tB-PER\tO\n2\tBlackburn\tI-PER\tO\n",
    ],
)
def test_conll_files_of_many_makers_are_read(bert: Path, tmp_path: Path, content: str) -> None:
    options = {"columns": {"tags": "3"}} if content.startswith("1\t") else {}
    assert conll(bert, tmp_path / "val.conll", content, **options) == SENTENCES


def test_a_hash_may_be_a_word_and_a_word_may_have_blanks_between_tabs(bert: Path, tmp_path: Path) -> None:
    found = conll(bert, tmp_path / "a.conll", "# O\n1 O\n\nfox O\n# B-PER\n")
    assert found == [(["#", "1"], [0, 0]), (["fox", "#"], [0, 1])]
    assert conll(bert, tmp_path / "b.conll", "New York\tB-LOC\n\u00a0\tO\n") == [(["New York", "\u00a0"], [3, 0])]


def test_other_columns_of_a_conll_file_are_given_by_number(bert: Path, tmp_path: Path) -> None:
    content = "B-PER x EU\nO x rejects\n"
    found = conll(bert, tmp_path / "a.conll", content, columns={"tokens": "3", "tags": "1"})
    assert found == [(["EU", "rejects"], [1, 0])]
    with pytest.raises(EngineError, match="`4`"):
        conll(bert, tmp_path / "a.conll", content, columns={"tokens": "4", "tags": "1"})


def test_a_folder_of_conll_files_has_splits(bert: Path, tmp_path: Path) -> None:
    for suffix in (".conll", ".txt"):
        folder = tmp_path / suffix[1:]
        for name, content in {"train": "fox O\n", "valid": CONLL_2003, "test": "dog O\n"}.items():
            folder.mkdir(exist_ok=True)
            (folder / f"{name}{suffix}").write_text(content)
        assert read_conll(bert, folder, split="valid") == SENTENCES
        assert read_conll(bert, folder, split="validation", limit=1) == SENTENCES[:1]
        with pytest.raises(EngineError, match="several"):
            read_conll(bert, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fox O\ndog\n", "line of 2 columns, .* line 2 .* has 1"),
        ("fox O\ndog x O\n", "line 2 .* has 3"),
        ("fox\ndog\n", "at least 2 columns, .* line 1 .* has 1"),
        ("-DOCSTART- O\n\n", "must hold words"),
        ("\n\n", "must hold words"),
        ("fox B-ORG\n", "'B-ORG'"),
    ],
)
def test_conll_files_that_are_broken_are_refused_with_the_line(
    bert: Path, tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        conll(bert, tmp_path / "a.conll", content)


def test_a_large_conll_file_is_read_in_any_order(bert: Path, tmp_path: Path) -> None:
    rows = sentences(3000, seed=3)
    lines = [
        "".join(f"{word} {tag}\n" for word, tag in zip(row["tokens"], row["ner_tags"], strict=True)) for row in rows
    ]
    path = tmp_path / "large.conll"
    path.write_text("\n".join(lines))
    task: Any = choose_task(discover(bert), TokenClassification, {})
    data = task.open_data(path, discover(bert))
    assert len(data) == 3000
    for each in (2999, 0, 1234, 77):
        words, tags = data._data._sentences.at([each])[0]
        assert words == rows[each]["tokens"]
        assert [TAGS[tag] for tag in tags] == rows[each]["ner_tags"]


def test_the_folder_is_recognised_and_others_are_not(bert: Path, tmp_path: Path) -> None:
    checkpoints = discover(bert)
    assert TokenClassification.recognises(checkpoints)
    for architectures in (["BertForSequenceClassification"], ["BertModel"], None):
        assert not TokenClassification.recognises(replace(checkpoints, config={"architectures": architectures}))
    copy = shutil.copytree(bert, tmp_path / "run")
    for home in copy.iterdir():
        (home / "tokenizer.json").unlink()
    assert refused(discover(copy), sentences(3), tmp_path).code == "model-mismatch"


@pytest.mark.parametrize("suffix", ["jsonl", "conll"])
def test_coefficients_are_trained_without_tags(bert: Path, tmp_path: Path, suffix: str) -> None:
    val_set = rows_file(tmp_path / "val.jsonl", sentences(20))
    train_set = tmp_path / f"train.{suffix}"
    if suffix == "jsonl":
        rows_file(train_set, [{"tokens": row["tokens"]} for row in sentences(10, seed=5)])
    else:
        train_set.write_text("fox X\ndog Y\n\nfilm Z\n")
    outcome = average(
        bert, val_set, train_set=train_set, train_set_use="entropy", output=tmp_path / "out",
        task=TokenClassification, method="twa", method_options={"steps": 4},
    )  # fmt: skip
    assert any(score.method == "twa" for score in outcome.candidates)


def test_a_model_for_another_task_is_told_of_before_the_data_are_looked_at(bert: Path) -> None:
    checkpoints = discover(bert)
    other = replace(checkpoints, config={**(checkpoints.config or {}), "architectures": ["BertForMaskedLM"]})
    with pytest.raises(EngineError, match=r"needs a head that classifies tokens, .* a masked language model"):
        choose_task(other, TokenClassification, {})
