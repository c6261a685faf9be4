"""Files of tokens, texts in pieces, blocks, and losses by chunks: what language models' data are made of."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from ladle_engine.errors import DataError, EngineError
from ladle_engine.tasks.text import token_losses
from ladle_engine.tasks.text.language import encoding, text_files
from ladle_engine.tasks.text.language.blocks import Packer
from ladle_engine.tasks.text.language.encoding import Encoder, token_runs
from ladle_engine.tasks.text.language.predictions import Abilities, abilities_of, predict, predict_packed
from ladle_engine.tasks.text.language.text_files import text_pieces
from ladle_engine.tasks.text.language.token_files import Vocabulary, open_token_file
from tests.unit.tasks.language_models import LINES, causal_model
from tests.unit.tasks.text_models import bert_tokenizer, gpt2_tokenizer, unigram_tokenizer

IDS = np.arange(100) % 50


def nano_gpt(path: Path, ids: np.ndarray[Any, Any] = IDS) -> None:
    ids.astype(np.uint16).tofile(path)


def llm_c(path: Path) -> None:
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240520, 1, len(IDS)
    path.write_bytes(header.tobytes() + IDS.astype(np.uint16).tobytes())


def llm_c_llama(path: Path) -> None:
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240801, 7, len(IDS)
    path.write_bytes(header.tobytes() + IDS.astype(np.uint32).tobytes())


def megatron(path: Path) -> None:
    IDS.astype(np.int32).tofile(path)
    lengths = np.array([30, 70], dtype=np.int32)
    places = np.array([0, 120], dtype=np.int64)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, 2, 3)
    documents = np.array([0, 1, 2], dtype=np.int64)
    path.with_suffix(".idx").write_bytes(head + lengths.tobytes() + places.tobytes() + documents.tobytes())


def npy(path: Path) -> None:
    np.save(path, IDS.astype(np.uint16))


def npz(path: Path) -> None:
    np.savez_compressed(path, tokens=IDS.astype(np.int64), other=np.zeros(3))


def safetensors(path: Path) -> None:
    save_file({"tokens": IDS.astype(np.uint16)}, path)


@pytest.mark.parametrize(
    ("write", "name", "starts"),
    [
        (nano_gpt, "val.bin", [0, 100]),
        (llm_c, "val.bin", [0, 100]),
        (llm_c_llama, "val.bin", [0, 100]),
        (megatron, "val.bin", [0, 30, 100]),
        (npy, "val.npy", [0, 100]),
        (npz, "val.npz", [0, 100]),
        (safetensors, "val.safetensors", [0, 100]),
    ],
)
def test_files_of_tokens_are_read_as_their_tools_write_them(
    write: Any, name: str, starts: list[int], tmp_path: Path
) -> None:
    write(tmp_path / name)
    opened = open_token_file(tmp_path / name, Vocabulary(size=50), None, None)
    assert opened.starts.tolist() == starts
    assert not opened.are_rows
    assert opened.source.read(0, 100)["id"].tolist() == IDS.tolist()
    assert opened.source.read(37, 41)["id"].tolist() == IDS[37:41].tolist()


def test_an_index_may_be_named_in_place_of_its_data(tmp_path: Path) -> None:
    megatron(tmp_path / "val.bin")
    assert open_token_file(tmp_path / "val.idx", Vocabulary(size=50), None, None).starts.tolist() == [0, 30, 100]


def test_a_table_of_tokens_has_a_row_per_example(tmp_path: Path) -> None:
    np.save(tmp_path / "val.npy", IDS.reshape(4, 25))
    opened = open_token_file(tmp_path / "val.npy", Vocabulary(size=50), None, None)
    assert opened.are_rows
    assert opened.starts.tolist() == [0, 25, 50, 75, 100]


def test_each_separator_begins_a_document(tmp_path: Path) -> None:
    nano_gpt(tmp_path / "val.bin")
    assert open_token_file(tmp_path / "val.bin", Vocabulary(size=50), None, 7).starts.tolist() == [0, 7, 57, 100]


def test_ids_have_the_type_that_is_named_or_that_a_large_vocabulary_needs(tmp_path: Path) -> None:
    ids = np.array([1, 100_000, 5], dtype=np.uint32)
    ids.tofile(tmp_path / "val.bin")
    for vocabulary, dtype in ((150_000, None), (None, "uint32")):
        opened = open_token_file(tmp_path / "val.bin", Vocabulary(size=vocabulary), dtype, None)
        assert opened.source.read(0, 3)["id"].tolist() == ids.tolist()


def broken_header(path: Path) -> None:
    llm_c(path)
    path.write_bytes(path.read_bytes()[:-2])


def cut_npy(path: Path) -> None:
    npy(path)
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("write", "name", "vocabulary", "says"),
    [
        (nano_gpt, "val.bin", 40, "0 to 39, but token 40 of .* is 40"),
        (
            lambda path: IDS.astype(np.uint32).tofile(path),
            "val.bin",
            50,
            "Set the task option `token_dtype` to `uint32`",
        ),
        (lambda path: path.write_bytes(b"abc"), "val.bin", 50, "whole tokens of 2 bytes"),
        (lambda path: path.write_bytes(b""), "val.bin", 50, "holds none"),
        (broken_header, "val.bin", 50, "its header says 100"),
        (lambda path: np.array([-1, 3], dtype=np.int32).tofile(path), "val.bin", 70_000, "token 0 of .* is 4294967295"),
        (lambda path: np.save(path, np.zeros(3)), "val.npy", 50, "whole numbers, but in .* they are float64"),
        (lambda path: np.save(path, np.zeros((2, 2, 2), dtype=int)), "val.npy", 50, r"their shape is \(2, 2, 2\)"),
        (lambda path: path.write_bytes(b"no array"), "val.npy", 50, "array of numpy"),
        (cut_npy, "val.npy", 50, "is cut"),
        (lambda path: np.savez(path, words=IDS), "val.npz", 50, "named `tokens` or .* but holds `words`"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "val.npz", 50, "does not read"),
        (lambda path: save_file({"words": IDS}, path), "val.safetensors", 50, "holds `words`"),
        (lambda path: path.write_bytes(b"0"), "val.safetensors", 50, "does not read"),
    ],
)
def test_files_that_are_no_tokens_are_refused_in_words(
    write: Any, name: str, vocabulary: int, says: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=says):
        open_token_file(tmp_path / name, Vocabulary(size=vocabulary), None, None)


def test_an_id_beyond_the_vocabulary_far_behind_is_named_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle_engine.tasks.text.language.token_files.LOOKED_AT", 10)
    nano_gpt(tmp_path / "val.bin")
    opened = open_token_file(tmp_path / "val.bin", Vocabulary(size=40), None, None)
    with pytest.raises(DataError, match="token 40 of"):
        opened.source.read(30, 50)


def packed(packer: Packer) -> list[list[tuple[int, int, int]]]:
    pieces = packer.pieces()
    rows = list(zip(pieces.starts.tolist(), pieces.lengths.tolist(), pieces.skipped.tolist(), strict=True))
    return [rows[first:last] for first, last in zip(pieces.offsets[:-1], pieces.offsets[1:], strict=True)]


def test_every_token_but_the_first_of_a_document_is_predicted_once() -> None:
    for stride in (None, 1, 3, 7):
        for length in range(2, 40):
            packer = Packer(8, stride=stride)
            packer.add(100, length)
            predicted = [
                start + place + 1
                for block in packed(packer)
                for start, count, skipped in block
                for place in range(skipped, count)
            ]
            assert sorted(predicted) == list(range(101, 100 + length)), (stride, length)
            assert packer.pieces().num_predicted == length - 1


def test_documents_that_fit_stand_together_and_are_never_cut() -> None:
    packer = Packer(10)
    start = 0
    for length in (4, 5, 5, 12, 3, 1, 11):
        packer.add(start, length)
        start += length
    assert packed(packer) == [
        [(0, 3, 0), (4, 4, 0)],
        [(9, 4, 0), (24, 1, 0), (26, 2, 0)],
        [(14, 10, 0)],
        [(30, 10, 0)],
    ]


def test_documents_in_rows_of_their_own_are_padded_to_twice_their_length_at_most() -> None:
    torch.manual_seed(0)
    model = causal_model("opt").eval()
    lengths = [[40], [1, 2, 3, 2, 1, 3, 5], [20, 19]]
    positions = torch.zeros(3, 40, dtype=torch.long)
    ids, targets = torch.randint(330, (3, 40)), torch.full((3, 40), token_losses.IGNORED)
    for row, counts in enumerate(lengths):
        column = 0
        for count in counts:
            positions[row, column:] = torch.arange(40 - column)
            targets[row, column : column + count] = torch.randint(330, (count,))
            column += count
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, named: shapes.append(named["input_ids"].shape), with_kwargs=True
    )
    with torch.no_grad():
        abilities_of(model)
        shapes.clear()
        nll, correct = predict_packed(model, ids, positions, targets)
        hook.remove()
        assert sum(rows * width for rows, width in shapes) <= 2 * sum(map(sum, lengths))
        for row, counts in enumerate(lengths):
            column = 0
            for count in counts:
                part = slice(column, column + count)
                logits = model(ids[row : row + 1, part]).logits[0]
                expected = F.cross_entropy(logits, targets[row, part], reduction="none")
                torch.testing.assert_close(nll[row, part], expected, rtol=1e-5, atol=1e-5)
                assert torch.equal(correct[row, part], logits.argmax(dim=-1) == targets[row, part])
                column += count
            assert not nll[row, column:].any()


@pytest.mark.parametrize("make", ["gpt2", "bert", "unigram"])
def test_a_long_text_has_the_tokens_of_the_whole(make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = {
        "gpt2": lambda: gpt2_tokenizer(tmp_path),
        "bert": lambda: bert_tokenizer(tmp_path),
        "unigram": unigram_tokenizer,
    }[make]()
    text = "größer, 日本 - \n\n" + LINES * 20 + "   the end \n"
    expected = tokenizer(text, add_special_tokens=False).input_ids
    monkeypatch.setattr(encoding, "PIECE_CHARS", 700)
    monkeypatch.setattr(encoding, "MARGIN_CHARS", 40)
    for size in (100, 331, 5000):
        pieces = [(text[start : start + size], start + size >= len(text)) for start in range(0, len(text), size)]
        runs = list(token_runs(Encoder(tokenizer, None), pieces))
        assert [run.is_last for run in runs] == [False] * (len(runs) - 1) + [True]
        assert np.concatenate([run.ids for run in runs]).tolist() == expected, size
        assert sum(int(run.num_bytes.sum()) for run in runs) == len(text.encode())
        assert len(runs) > 1


def test_one_endless_word_is_cut_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE_CHARS", 700)
    monkeypatch.setattr(encoding, "MARGIN_CHARS", 40)
    tokenizer = gpt2_tokenizer(tmp_path)
    word = "xyz" * 2000
    runs = list(
        token_runs(
            Encoder(tokenizer, None), [(word[start : start + 600], start == 5400) for start in range(0, 6000, 600)]
        )
    )
    assert tokenizer.decode(np.concatenate([run.ids for run in runs])) == word
    assert sum(int(run.num_bytes.sum()) for run in runs) == len(word)


def texts_of(path: Path, documents: str) -> list[str]:
    whole: list[str] = [""]
    for text, ends in text_pieces(path, documents):
        whole[-1] += text
        if ends:
            whole.append("")
    assert whole[-1] == ""
    return whole[:-1]


def test_documents_of_a_file_are_all_of_it_its_paragraphs_or_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n\r\n \r\nthrée\rfour\n\n\n\nfive".encode())
    for chunk in (1 << 20, 1, 2, 3, 7):
        monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk)
        assert texts_of(path, "file") == ["one\ntwo\n\n \nthrée\nfour\n\n\n\nfive"]
        assert texts_of(path, "line") == ["one", "two", "thrée", "four", "five"]
        assert [text.strip() for text in texts_of(path, "paragraph")] == ["one\ntwo", "thrée\nfour", "five"]


def test_what_is_not_utf8_is_told_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes("ä".encode() * 7 + b"\xff" + b"more")
    for chunk in (1 << 20, 3):
        monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk)
        with pytest.raises(EngineError, match="0xff at place 14"):
            texts_of(path, "file")


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_losses_by_chunks_are_those_of_all_logits_with_their_gradients(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = causal_model(kind).eval()
    ids = torch.randint(330, (3, 20))
    targets = torch.randint(330, (3, 20))
    targets[0, 5:] = token_losses.IGNORED
    logits = model(ids).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 20)
    wanted_gradients = torch.autograd.grad(wanted.sum(), list(model.parameters()))
    for chunk in (1 << 30, 330 * 4):
        monkeypatch.setattr(token_losses, "CHUNK_NUMBERS", chunk)
        nll, correct = predict(model, {"input_ids": ids}, targets)
        torch.testing.assert_close(nll, wanted)
        assert torch.equal(correct, (logits.argmax(dim=-1) == targets))
        gradients = torch.autograd.grad(nll.sum(), list(model.parameters()))
        for gradient, expected in zip(gradients, wanted_gradients, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_losses_are_float32_whatever_the_model_is() -> None:
    torch.manual_seed(0)
    model = causal_model("llama").to(torch.bfloat16).eval()
    ids = torch.randint(330, (2, 10))
    with torch.no_grad():
        nll, _ = predict(model, {"input_ids": ids}, ids)
        logits = model(ids).logits
    assert nll.dtype == torch.float32
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(nll, F.cross_entropy(logits.float().transpose(1, 2), ids, reduction="none"))


def test_what_a_model_can_do_is_found_by_experiment() -> None:
    found = {kind: abilities_of(causal_model(kind)) for kind in ("gpt2", "opt", "gemma2", "bloom")}
    assert {kind: each.packs for kind, each in found.items()} == {
        "gpt2": True, "opt": False, "gemma2": True, "bloom": False
    }  # fmt: skip
    # Gemma 2 caps its logits.
    assert {kind: each.head_is_last for kind, each in found.items()} == {
        "gpt2": True, "opt": True, "gemma2": False, "bloom": True
    }  # fmt: skip


def test_an_experiment_leaves_the_model_as_it_was() -> None:
    model = causal_model("gpt2").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    abilities_of(model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "forward" not in vars(model.lm_head)


@pytest.mark.parametrize("fill", [0.0, math.nan])
def test_nothing_is_found_without_weights(fill: float) -> None:
    model = causal_model("opt").eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(fill)
    for _ in range(2):
        assert abilities_of(model) == Abilities(head_is_last=True, packs=False, sees_what_follows=False)
    model.load_state_dict(weights)
    assert not abilities_of(model).packs
    gpt2 = causal_model("gpt2")
    with torch.no_grad():
        gpt2.transformer.wte.weight.fill_(fill)
    assert not abilities_of(gpt2).packs
    gpt2.load_state_dict(causal_model("gpt2").state_dict())
    assert abilities_of(gpt2).packs


def test_the_mean_of_a_uniform_model_is_the_logarithm_of_its_vocabulary() -> None:
    model = causal_model("gpt2").eval()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        nll, _ = predict(model, {"input_ids": torch.ones(1, 5, dtype=torch.long)}, torch.ones(1, 5, dtype=torch.long))
    assert float(nll.mean()) == pytest.approx(math.log(330), rel=1e-6)
