"""The task `causal-lm`: models of transformers, texts and rows, and values that do not depend on packing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import bind
from ladle_engine.tasks.causal_lm import BITS_PER_BYTE, LOSS, PERPLEXITY, CausalLm, CausalLmOptions
from ladle_engine.tasks.choose import choose_task
from ladle_engine.tasks.text.language import causal_sets
from ladle_engine.tasks.text.language.encoding import Encoder
from ladle_engine.testing import check_task
from tests.unit.tasks.language_models import LINES, causal_folder, causal_model
from tests.unit.tasks.text_models import TEXTS, gpt2_tokenizer, roberta_tokenizer, saved

KINDS = ("gpt2", "llama", "qwen2", "gpt-neox", "opt", "mistral", "gemma2", "bloom")
BY_LINE = {"documents": "line", "block_size": 60}


def loaded(task: CausalLm, checkpoints: CheckpointSet) -> nn.Module:
    model = task.build_model(checkpoints)
    bind(model, checkpoints, task.stored_names(model, checkpoints)).load(checkpoints.reference)
    return model.eval()


@torch.no_grad()
def statistics(task: CausalLm, model: nn.Module, data: Any, batch_size: int = 3) -> dict[str, Tensor]:
    batches = [task.evaluate(model, data.batch(part)) for part in torch.arange(len(data)).split(batch_size)]
    return {name: torch.cat([batch[name] for batch in batches]).double() for name in batches[0]}


def metric(which: Any, values: dict[str, Tensor]) -> float:
    return float(which.of(values, torch.ones(1, len(values["nll"]), dtype=torch.float64)))


@torch.no_grad()
def nll_alone(model: Any, tokenizer: Any, text: str) -> tuple[float, int]:
    """By transformers' own loss, of one document on its own."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    return float(model(ids, labels=ids).loss) * (ids.shape[1] - 1), ids.shape[1] - 1


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def rows(path: Path, *rows: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("kind", KINDS)
def test_documents_that_are_packed_score_as_each_does_alone(kind: str, tmp_path: Path) -> None:
    checkpoints, tokenizer = causal_folder(tmp_path / "runs", kind)
    task = CausalLm(CausalLmOptions(**BY_LINE))  # type: ignore[arg-type]
    assert task.recognises(checkpoints)
    model = loaded(task, checkpoints)
    data = task.open_data(write(tmp_path / "val.txt", LINES), checkpoints)
    assert len(data) < len(TEXTS * 2), "some blocks have several documents"
    values = statistics(task, model, data)
    own = type(model).from_pretrained(tmp_path / "runs" / "checkpoint-20").eval()  # type: ignore[attr-defined]
    alone = [nll_alone(own, tokenizer, line) for line in TEXTS * 2]
    assert float(values["nll"].sum()) == pytest.approx(sum(nll for nll, _ in alone), rel=1e-6)
    assert int(values["tokens"].sum()) == sum(count for _, count in alone)
    for batch_size in (1, 8):
        again = statistics(task, model, data, batch_size)
        torch.testing.assert_close(again["nll"], values["nll"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_the_task_follows_the_rules(kind: str, tmp_path: Path) -> None:
    causal_folder(tmp_path / "runs", kind)
    check_task(CausalLm, tmp_path / "runs", write(tmp_path / "val.txt", LINES), options=BY_LINE)


def test_the_metrics_are_those_of_the_whole_text(tmp_path: Path) -> None:
    checkpoints, tokenizer = causal_folder(tmp_path / "runs")
    task = CausalLm(CausalLmOptions(block_size=16))
    model = loaded(task, checkpoints)
    text = "größer und schöner, 日本: " + LINES
    data = task.open_data(write(tmp_path / "val.txt", text), checkpoints)
    values = statistics(task, model, data)
    ids = tokenizer(text).input_ids
    assert int(values["tokens"].sum()) == len(ids) - 1, "every token but the first"
    first = len(tokenizer.decode(ids[:1]).encode())
    assert int(values["bytes"].sum()) == len(text.encode()) - first
    loss = float(values["nll"].sum()) / (len(ids) - 1)
    assert metric(LOSS, values) == pytest.approx(loss, rel=1e-12)
    assert metric(PERPLEXITY, values) == pytest.approx(math.exp(loss), rel=1e-12)
    bits = float(values["nll"].sum()) / math.log(2) / (len(text.encode()) - first)
    assert metric(BITS_PER_BYTE, values) == pytest.approx(bits, rel=1e-12)


def test_overlapping_windows_give_the_perplexity_of_the_guide_of_transformers(tmp_path: Path) -> None:
    checkpoints, tokenizer = causal_folder(tmp_path / "runs")
    task = CausalLm(CausalLmOptions(block_size=32, stride=12))
    model: Any = loaded(task, checkpoints)
    data = task.open_data(write(tmp_path / "val.txt", LINES), checkpoints)
    values = statistics(task, model, data)
    ids = tokenizer(LINES, return_tensors="pt").input_ids
    nlls, counts, guide_counts, before = [], [], [], 0
    # The guide's loop (huggingface.co/docs/transformers/perplexity).
    for begin in range(0, ids.shape[1], 12):
        end = min(begin + 32, ids.shape[1])
        targets = ids[:, begin:end].clone()
        targets[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = float(model(ids[:, begin:end], labels=targets).loss)
        counts.append(int((targets[:, 1:] != -100).sum()))
        guide_counts.append(int((targets != -100).sum()) - 1)
        nlls.append(loss)
        before = end
        if end == ids.shape[1]:
            break
    assert sum(counts) == ids.shape[1] - 1 == int(values["tokens"].sum())
    exact = math.exp(np.dot(nlls, counts) / sum(counts))
    assert metric(PERPLEXITY, values) == pytest.approx(exact, rel=1e-5)
    # The guide weighs each window but the first by one token too few.
    assert metric(PERPLEXITY, values) == pytest.approx(
        math.exp(np.dot(nlls, guide_counts) / sum(guide_counts)), rel=0.01
    )


def test_the_loss_that_is_trained_is_the_loss_per_token(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    task = CausalLm(CausalLmOptions(**BY_LINE))  # type: ignore[arg-type]
    model = loaded(task, checkpoints)
    data = task.open_data(write(tmp_path / "val.txt", LINES), checkpoints)
    loss = task.loss(model, data.batch(torch.arange(len(data))))
    assert float(loss.detach()) == pytest.approx(metric(LOSS, statistics(task, model, data)), rel=1e-6)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_folder_of_texts_has_a_document_per_file_and_names_what_it_passes_over(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    texts = tmp_path / "texts"
    (texts / "more").mkdir(parents=True)
    write(texts / "b.txt", TEXTS[1])
    write(texts / "a.TXT", TEXTS[0])
    write(texts / "more" / "c.txt", TEXTS[2])
    write(texts / "empty.txt", "\n")
    write(texts / "README.md", "no text of the set")
    data = CausalLm(CausalLmOptions(block_size=48)).open_data(texts, checkpoints)
    assert int((data.batch(torch.arange(len(data)))["positions"] == 0).sum()) == 3
    assert any("passed over: 1, the first is `README.md`" in remark for remark in data.remarks)  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", [{}, {"text": "body of it"}])
def test_texts_of_a_table_are_documents(tmp_path: Path, columns: dict[str, str]) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    name = columns.get("text", "text")
    path = rows(tmp_path / "val.jsonl", *({name: text, "id": 1} for text in [*TEXTS, "", None]))
    task = CausalLm(CausalLmOptions(block_size=60, columns=columns))
    data = task.open_data(path, checkpoints)
    lines = CausalLm(CausalLmOptions(**BY_LINE)).open_data(  # type: ignore[arg-type]
        write(tmp_path / "val.txt", "\n".join(TEXTS)), checkpoints
    )
    assert torch.equal(data.batch(torch.tensor([0]))["input_ids"], lines.batch(torch.tensor([0]))["input_ids"])
    assert data.remarks == ["`val.jsonl`: Documents without any token, left out: 2."]  # type: ignore[attr-defined]


def test_only_completions_are_predicted(tmp_path: Path) -> None:
    checkpoints, tokenizer = causal_folder(tmp_path / "runs")
    path = rows(
        tmp_path / "val.jsonl",
        {"prompt": "the quick brown", "completion": " fox jumps"},
        {"prompt": "", "completion": "hello world"},
        {"prompt": "nothing follows", "completion": ""},
    )
    task = CausalLm(CausalLmOptions(add_bos=True, add_eos=True))
    data = task.open_data(path, checkpoints)
    assert len(data) == 2
    batch = data.batch(torch.arange(2))
    predicted = [row[row >= 0].tolist() for row in batch["targets"]]
    assert predicted[0] == [*tokenizer(" fox jumps").input_ids, tokenizer.eos_token_id]
    assert predicted[1] == [*tokenizer("hello world").input_ids, tokenizer.eos_token_id]
    assert batch["bytes"].tolist() == [len(" fox jumps"), len("hello world")]
    assert data.remarks == ["`val.jsonl`: Rows with nothing to predict, left out: 1, the first is `val.jsonl`, line 3."]  # type: ignore[attr-defined]


TEMPLATE = (
    "{% for message in messages %}{{ '[' + message.role + ']' }}{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '[' + message.role + ']' }}{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ message.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = (
    {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world, again"},
                  {"role": "user", "content": "the sea"}, {"role": "assistant", "content": "shells"}]},
    {"conversations": [{"from": "human", "value": "a film"}, {"from": "gpt", "value": "boring"}]},
)  # fmt: skip


@pytest.mark.parametrize("template", [TEMPLATE, MARKED])
@pytest.mark.parametrize("chat", CHAT)
def test_only_what_the_assistant_says_is_predicted(tmp_path: Path, template: str, chat: dict[str, Any]) -> None:
    tokenizer = gpt2_tokenizer(tmp_path / "tokenizer")
    tokenizer.chat_template = template
    checkpoints = saved(tmp_path / "runs", lambda: causal_model("gpt2"), tokenizer, steps=2)
    path = rows(tmp_path / "val.jsonl", chat, chat)
    everything = CausalLm().open_data(path, checkpoints).batch(torch.tensor([0]))
    answers = CausalLm(CausalLmOptions(loss_on="assistant")).open_data(path, checkpoints).batch(torch.tensor([0]))
    assert torch.equal(everything["input_ids"], answers["input_ids"])
    assert int((everything["targets"] >= 0).sum()) == everything["input_ids"].shape[1]
    said = [turn.get("content", turn.get("value")) for turn in next(iter(chat.values()))[1::2]]
    assert tokenizer.decode(answers["targets"][answers["targets"] >= 0]) == "".join(f"{each}</s>" for each in said)
    assert int(answers["bytes"]) == sum(len(f"{each}</s>") for each in said)


def test_a_prompt_of_messages_is_followed_by_its_answer(tmp_path: Path) -> None:
    tokenizer = gpt2_tokenizer(tmp_path / "tokenizer")
    tokenizer.chat_template = TEMPLATE
    checkpoints = saved(tmp_path / "runs", lambda: causal_model("gpt2"), tokenizer, steps=2)
    row = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ho"}]}
    batch = CausalLm().open_data(rows(tmp_path / "val.jsonl", row, row), checkpoints).batch(torch.tensor([1]))
    assert tokenizer.decode(batch["targets"][batch["targets"] >= 0]) == "ho</s>"


def test_a_call_of_a_tool_has_no_content(tmp_path: Path) -> None:
    tokenizer = gpt2_tokenizer(tmp_path / "tokenizer")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}{{ message.content or 'calls' }}{% endfor %}"
    )
    checkpoints = saved(tmp_path / "runs", lambda: causal_model("gpt2"), tokenizer, steps=2)
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": []}]}
    batch = CausalLm().open_data(rows(tmp_path / "val.jsonl", row, row), checkpoints).batch(torch.tensor([0]))
    assert tokenizer.decode([*batch["input_ids"][0, :1], *batch["targets"][0]]) == "userhiassistantcalls"


def test_conversations_of_parquet_are_those_of_json_lines(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    tokenizer = gpt2_tokenizer(tmp_path / "tokenizer")
    tokenizer.chat_template = TEMPLATE
    checkpoints = saved(tmp_path / "runs", lambda: causal_model("gpt2"), tokenizer, steps=2)
    made = [CHAT[0], {"messages": CHAT[0]["messages"][:2]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), tmp_path / "val.parquet")
    task = CausalLm(CausalLmOptions(loss_on="assistant"))
    of_parquet = task.open_data(tmp_path / "val.parquet", checkpoints).batch(torch.arange(2))
    of_lines = task.open_data(rows(tmp_path / "val.jsonl", *made), checkpoints).batch(torch.arange(2))
    assert all(torch.equal(tensor, of_lines[name]) for name, tensor in of_parquet.items())


def test_a_tokenizer_that_adds_special_tokens_has_its_way_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    tokenizer = roberta_tokenizer(tmp_path / "tokenizer")
    checkpoints = saved(tmp_path / "runs", lambda: causal_model("gpt2"), tokenizer, steps=2)
    path = write(tmp_path / "val.txt", LINES)
    ids = tokenizer(LINES, add_special_tokens=False).input_ids
    for told, wanted in (({}, [*ids, 2]), ({"add_bos": False}, [*ids[1:], 2]), ({"add_eos": False}, ids)):
        data = CausalLm(CausalLmOptions(block_size=32, **told)).open_data(path, checkpoints)  # type: ignore[arg-type]
        targets = data.batch(torch.arange(len(data)))["targets"]
        assert targets[targets >= 0].tolist() == wanted


class WithoutPlaces(Encoder):
    """As of the tokenizers of transformers that are written in Python."""

    def __init__(self, tokenizer: Any, vocabulary: int | None) -> None:
        super().__init__(tokenizer, vocabulary)
        self.tells_places = False


def test_a_tokenizer_that_does_not_tell_places_makes_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    path = write(tmp_path / "val.txt", LINES)
    prompts = rows(tmp_path / "val.jsonl", *({"prompt": text[:9], "completion": text[9:]} for text in TEXTS))
    task = CausalLm(CausalLmOptions(**BY_LINE))  # type: ignore[arg-type]
    fast = [task.open_data(each, checkpoints) for each in (path, prompts)]
    monkeypatch.setattr(causal_sets, "Encoder", WithoutPlaces)
    slow = [task.open_data(each, checkpoints) for each in (path, prompts)]
    one, other = (data[0].batch(torch.arange(len(data[0]))) for data in (fast, slow))
    assert torch.equal(one["targets"], other["targets"])
    assert float(one["bytes"].sum()) == pytest.approx(float(other["bytes"].sum()), rel=0.1)
    bytes_of_completions = [len(text[9:]) for text in TEXTS]
    assert slow[1].batch(torch.arange(5))["bytes"].tolist() == bytes_of_completions


def test_links_of_a_folder_must_stay_in_it(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        write(tmp_path / "texts" / f"{number}.txt", text)
    (tmp_path / "texts" / "again.txt").symlink_to("0.txt")
    (tmp_path / "texts" / "none.txt").write_bytes(b"")
    data = CausalLm(CausalLmOptions(block_size=60)).open_data(tmp_path / "texts", checkpoints)
    assert int((data.batch(torch.arange(len(data)))["positions"] == 0).sum()) == len(TEXTS) + 1
    assert any("without any token, left out: 1" in remark for remark in data.remarks)  # type: ignore[attr-defined]
    (tmp_path / "texts" / "out.txt").symlink_to(write(tmp_path / "outside.txt", "secret"))
    with pytest.raises(EngineError, match=r"`.*out\.txt` leads out") as raised:
        CausalLm().open_data(tmp_path / "texts", checkpoints)
    assert raised.value.code == "path-not-allowed"


def test_a_config_with_an_infinite_number_is_read_as_transformers_wrote_it(tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1}
    config = transformers.Mamba2Config(**sizes, vocab_size=330, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    assert math.inf in config.time_step_limit
    checkpoints = saved(tmp_path / "runs", lambda: transformers.Mamba2ForCausalLM(config), steps=2)
    assert CausalLm().build_model(checkpoints).config.time_step_limit[1] == math.inf  # type: ignore[union-attr]


def test_rows_beyond_the_block_are_cut_and_told_of(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    path = rows(tmp_path / "val.jsonl", *({"prompt": "a", "completion": text * 9} for text in TEXTS))
    data = CausalLm(CausalLmOptions(block_size=20)).open_data(path, checkpoints)
    assert data.batch(torch.arange(5))["input_ids"].shape == (5, 20)
    assert "Rows longer than `block_size`, cut: 5" in data.remarks[0]  # type: ignore[attr-defined]


def test_without_a_tokenizer_nobody_counts_bytes(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "runs", lambda: causal_model("gpt2"), steps=2)
    task = choose_task(checkpoints, CausalLm, {})
    assert [each.name for each in task.metrics] == ["loss", "perplexity", "token_accuracy"]
    np.arange(300, dtype=np.uint16).tofile(tmp_path / "val.bin")
    assert len(task.open_data(tmp_path / "val.bin", checkpoints)) == 5
    with pytest.raises(EngineError, match="must have the model's tokenizer"):
        task.open_data(write(tmp_path / "val.txt", LINES), checkpoints)


@pytest.mark.parametrize("name", ["val.bin", "val.npz"])
def test_tokens_of_a_file_stand_for_the_bytes_of_their_text(tmp_path: Path, name: str) -> None:
    checkpoints, tokenizer = causal_folder(tmp_path / "runs")
    text = "größer, 日本: " + LINES
    ids = np.array(tokenizer(text).input_ids, dtype=np.uint16)
    if name == "val.bin":
        ids.tofile(tmp_path / name)
    else:
        np.savez(tmp_path / name, tokens=ids)
    task = CausalLm(CausalLmOptions(block_size=16))
    of_tokens = task.open_data(tmp_path / name, checkpoints)
    of_text = task.open_data(write(tmp_path / "val.txt", text), checkpoints)
    assert len(of_tokens) == len(of_text)
    one, other = (data.batch(torch.arange(len(data))) for data in (of_tokens, of_text))
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert int(one["bytes"].sum()) == int(other["bytes"].sum())


def test_a_limit_takes_the_first_blocks(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    path = write(tmp_path / "val.txt", LINES * 5)
    all_of_it = CausalLm(CausalLmOptions(block_size=16)).open_data(path, checkpoints)
    some = CausalLm(CausalLmOptions(block_size=16, limit=4)).open_data(path, checkpoints)
    assert len(some) == 4 < len(all_of_it)
    indices = torch.arange(4)
    assert torch.equal(some.batch(indices)["targets"], all_of_it.batch(indices)["targets"])


def test_documents_that_are_joined_follow_each_other_in_a_block(tmp_path: Path) -> None:
    checkpoints, tokenizer = causal_folder(tmp_path / "runs")
    options = CausalLmOptions(documents="line", boundaries=False, block_size=16, add_eos=True)
    data = CausalLm(options).open_data(write(tmp_path / "val.txt", LINES), checkpoints)
    batch = data.batch(torch.arange(len(data)))
    assert not (batch["positions"][:, 1:] == 0).any()
    wanted = [token for line in TEXTS * 2 for token in [*tokenizer(line).input_ids, tokenizer.eos_token_id]]
    assert batch["targets"][batch["targets"] >= 0].tolist() == wanted[1:]


def test_an_option_that_does_nothing_is_told_of(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    options = CausalLmOptions(block_size=16, separator=7, loss_on="assistant", documents="line")
    data = CausalLm(options).open_data(write(tmp_path / "val.txt", LINES), checkpoints)
    assert data.remarks == [  # type: ignore[attr-defined]
        "The task option `loss_on` has no effect on plain text.",
        "The task option `separator` has no effect on plain text.",
    ]
    np.arange(300, dtype=np.uint16).tofile(tmp_path / "val.bin")
    data = CausalLm(options).open_data(tmp_path / "val.bin", checkpoints)
    assert [remark.split("`")[1] for remark in data.remarks] == ["documents", "loss_on"]  # type: ignore[attr-defined]


BAD: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("val.txt", "short", {}, "too-little-data", "makes one block of [0-9]+ tokens. Set the task option `block_size`"),
    ("val.txt", "", {}, "empty-data", "without any token, left out: 1"),
    ("val.txt", "a", {}, "empty-data", "Documents of a single token"),
    ("val.txt", LINES, {"block_size": 65}, "invalid-task-options", "`block_size` .* must be at most 64"),
    ("val.txt", LINES, {"block_size": 32, "stride": 32}, "invalid-task-options", "`stride` .* must be below"),
    ("val.txt", LINES, {"loss_on": "user"}, "invalid-task-options", "must be one of all, assistant"),
    ("val.jsonl", json.dumps(CHAT[0]), {}, "model-mismatch", "needs the chat template of the model"),
    ("val.jsonl", json.dumps({"prompt": "a b"}), {}, "invalid-data", "must be the task's `completion`"),
    ("val.jsonl", json.dumps({"words": "a b"}), {}, "invalid-data", "the columns there are `words`"),
    ("val.jsonl", json.dumps({"text": "a"}), {"columns": {"source": "text"}}, "invalid-task-options", "`source`"),
    ("val.jsonl", json.dumps({"prompt": "a", "completion": ""}), {}, "empty-data", "nothing to predict, left out: 1"),
    ("val.jsonl", json.dumps({"messages": [{"role": "user"}]}), {}, "invalid-data", "`role` and `content`"),
    ("val.jsonl", '{"text": "a \\ud800 b"}', {}, "invalid-data", "."),
]


@pytest.mark.parametrize(("name", "content", "options", "code", "says"), BAD)
def test_what_cannot_be_used_is_refused_in_words(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], code: str, says: str
) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    with pytest.raises(EngineError, match=says) as raised:
        CausalLm.from_options(options).open_data(write(tmp_path / name, content), checkpoints)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"caf\xe9 au lait", "0xe9 at place 3"), ("text".encode("utf-16"), "UTF-16"), (b"\x1f\x8b\x08", "gzip")],
)
def test_a_text_that_is_not_utf8_is_refused_by_place(tmp_path: Path, content: bytes, says: str) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(EngineError, match=says) as raised:
        CausalLm().open_data(tmp_path / "val.txt", checkpoints)
    assert raised.value.code == "invalid-data"


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    import transformers

    tokenizer = gpt2_tokenizer(tmp_path / "tokenizer")
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=100)
    checkpoints = saved(tmp_path / "runs", lambda: transformers.GPT2LMHeadModel(config), tokenizer, steps=2)
    with pytest.raises(EngineError, match="must be the model's") as raised:
        CausalLm().open_data(write(tmp_path / "val.txt", LINES), checkpoints)
    assert raised.value.code == "model-mismatch"


def test_a_model_that_sees_what_follows_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    checkpoints = saved(tmp_path / "runs", lambda: transformers.BertLMHeadModel(config), steps=2)
    task = CausalLm()
    ids = torch.tensor([[1, 2, 3]])
    batch = {"input_ids": ids, "targets": ids, "positions": torch.arange(3)[None], "bytes": ids[:, 0]}
    with pytest.raises(EngineError, match="see only the tokens before") as raised:
        task.evaluate(loaded(task, checkpoints), batch)
    assert raised.value.code == "model-mismatch"
