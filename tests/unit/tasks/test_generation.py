"""Generated texts: what the folder's settings mean, and that neither batch nor memory changes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ladle_engine.errors import TaskError
from ladle_engine.progress import ProgressEvent, Warned, warnings_to
from ladle_engine.tasks.text.seq2seq import generation
from ladle_engine.tasks.text.seq2seq.generation import Generator
from ladle_engine.tasks.text.seq2seq.generation_settings import GenerationSettings, read_settings
from tests.unit.tasks import seq2seq_models as toys

pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def translator() -> Any:
    """A Bart in the middle of learning: sure of some words and not of others."""
    torch.manual_seed(0)
    model = toys.bart()
    toys.train(model, toys.word_tokenizer(), [110], lambda step: None)
    return model


@pytest.fixture
def warned() -> Iterator[list[str]]:
    messages: list[str] = []

    def on_event(event: ProgressEvent) -> None:
        assert isinstance(event, Warned)
        messages.append(event.message)

    with warnings_to(on_event):
        yield messages


def sources(count: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    batch = toys.word_tokenizer()([source for source, _ in toys.pairs(count, seed)], padding=True, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def settings(**values: Any) -> GenerationSettings:
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 1}
    return GenerationSettings(values={"max_new_tokens": 12, **tokens, **values})


def texts(rows: list[Tensor]) -> list[str]:
    found: list[str] = toys.word_tokenizer().batch_decode(rows, skip_special_tokens=True)
    return found


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "early": {"num_beams": 3, "early_stopping": True},
    "never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    "short": {"num_beams": 4, "length_penalty": -1.0},
    "forced": {"num_beams": 2, "forced_bos_token_id": 16, "forced_eos_token_id": 1, "max_new_tokens": 4},
    "no repeats": {"num_beams": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "none of the source": {"encoder_no_repeat_ngram_size": 2, "num_beams": 2},
    "bad words": {"bad_words_ids": [[14], [15, 16]], "suppress_tokens": [17], "min_length": 5},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_text_does_not_depend_on_its_batch(translator: Any, way: str) -> None:
    input_ids, mask = sources(12)
    together = texts(Generator(settings(**WAYS[way])).generate(translator, input_ids, mask))
    for size in (1, 3, 8):
        alone: list[str] = []
        for part in range(0, 12, size):
            rows = slice(part, part + size)
            length = int(mask[rows].sum(dim=1).max())
            ids = input_ids[rows, :length], mask[rows, :length]
            alone += texts(Generator(settings(**WAYS[way])).generate(translator, *ids))
        assert alone == together, size
    assert len(set(together)) > 6


def test_texts_are_those_of_transformers_itself(translator: Any) -> None:
    input_ids, mask = sources(16)
    expected = translator.generate(
        input_ids=input_ids, attention_mask=mask, num_beams=3, max_new_tokens=12, do_sample=False
    )
    found = Generator(settings(num_beams=3)).generate(translator, input_ids, mask)
    assert texts(found) == texts(list(expected))


class FewRows(nn.Module):
    """A model on a GPU with memory for so many examples at a time."""

    def __init__(self, model: Any, most: int) -> None:
        super().__init__()
        self.model = model
        self.most = most
        self.sizes: list[int] = []

    def generate(self, input_ids: Tensor, **arguments: Any) -> Tensor:
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        found: Tensor = self.model.generate(input_ids=input_ids, **arguments)
        return found


def test_running_out_of_memory_halves_the_batch_and_is_said_once(translator: Any, warned: list[str]) -> None:
    input_ids, mask = sources(24)
    model, generator = FewRows(translator, most=3), Generator(settings(num_beams=2))
    found = texts(generator.generate(model, input_ids, mask))
    assert model.sizes == [24, 12, 6, *[3] * 8]
    assert found == texts(Generator(settings(num_beams=2)).generate(translator, input_ids, mask))
    assert len(warned) == 1
    assert "ran out of memory while texts were generated for 24 examples" in warned[0]
    generator.generate(model, input_ids, mask)
    assert model.sizes[11:] == [3] * 8, "what did not fit is not tried again"
    assert len(warned) == 1


def test_no_memory_for_a_single_example_is_out_of_memory(translator: Any, warned: list[str]) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Generator(settings()).generate(FewRows(translator, most=0), *sources(4))


def test_caches_are_bounded_without_a_change_of_the_texts(translator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    input_ids, mask = sources(24)
    expected = texts(Generator(settings(num_beams=2)).generate(translator, input_ids, mask))
    model = FewRows(translator, most=100)
    model.config = translator.config
    # Two beams of one layer of width 32, and of scores.
    per_example = 2 * (2 * 1 * 32 * (input_ids.shape[1] + 12) + 4 * len(toys.WORDS))
    monkeypatch.setattr(generation, "MOST_NUMBERS", 5 * per_example)
    assert texts(Generator(settings(num_beams=2)).generate(model, input_ids, mask)) == expected
    assert model.sizes == [5, 5, 5, 5, 4]


def test_settings_that_the_model_cannot_follow_are_a_mismatch(translator: Any) -> None:
    with pytest.raises(TaskError, match=r"settings of `generation_config.json`, but says") as found:
        Generator(settings(bad_words_ids=[[1000]])).generate(translator, *sources(2))
    assert found.value.code == "model-mismatch"


# Settings of the folder


def folder_with(tmp_path: Path, generation_config: Any = None, **config: Any) -> Any:
    """Checkpoints with this `generation_config.json`, and with this added to `config.json`."""
    toys.save_untrained(tmp_path, toys.bart, toys.word_tokenizer())
    for home in tmp_path.iterdir():
        (home / "generation_config.json").unlink(missing_ok=True)
        values = json.loads((home / "config.json").read_text())
        (home / "config.json").write_text(json.dumps(values | config))
        if generation_config is not None:
            text = generation_config if isinstance(generation_config, str) else json.dumps(generation_config)
            (home / "generation_config.json").write_text(text)
    return toys.discover(tmp_path)


def test_settings_come_from_the_file_and_sampling_is_turned_off_and_said(tmp_path: Path) -> None:
    found = read_settings(
        folder_with(
            tmp_path,
            {
                "num_beams": 5, "length_penalty": 0.8, "max_length": 40, "do_sample": True, "temperature": 0.7,
                "top_k": 10, "num_beam_groups": 5, "penalty_alpha": 0.6, "max_time": 3.0, "guidance_scale": 1,
                "transformers_version": "5.0.0", "_from_model_config": True, "custom_generate": "somebody/code",
            },
        )
    )  # fmt: skip
    assert found.values == {"num_beams": 5, "length_penalty": 0.8, "max_length": 40}
    sampling, unused = found.remarks
    assert "asks for sampling, which is turned off" in sampling
    assert "`custom_generate`, `max_time`, `num_beam_groups`, `penalty_alpha`." in unused


def test_settings_of_older_tools_stand_in_the_config(tmp_path: Path) -> None:
    found = read_settings(folder_with(tmp_path, None, num_beams=6, max_length=30, bad_words_ids=[[7]], do_sample=False))
    assert found.values["num_beams"] == 6
    assert found.values["bad_words_ids"] == [[7]]
    assert found.values["eos_token_id"] == toys.END
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_beams": 100_000}, "`num_beams` in `generation_config.json` must be a whole number from 1 to 100"),
        ({"max_length": 10**9}, "`max_length` in"),
        ({"max_new_tokens": "many"}, "`max_new_tokens` in"),
        ({"num_beams": True}, "`num_beams` in"),
        ({"length_penalty": float("nan")}, "`length_penalty` in|does not parse"),
        ({"early_stopping": "soon"}, "\"never\", but is 'soon'"),
        ({"eos_token_id": []}, "`eos_token_id` in"),
        ({"forced_bos_token_id": -1}, "`forced_bos_token_id` in"),
        ({"bad_words_ids": [3]}, "`bad_words_ids` in"),
        ("[1]", "must be a JSON object"),
        ("{", "must be a JSON file"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, values: Any, words: str) -> None:
    checkpoints = folder_with(tmp_path, values)
    with pytest.raises(TaskError, match=words) as found:
        read_settings(checkpoints)
    assert found.value.code == "model-mismatch"


@pytest.mark.parametrize(
    ("values", "option", "most"),
    [
        ({}, None, 50),
        ({"max_length": 21}, None, 20),
        ({"max_length": 21, "max_new_tokens": 9}, None, 9),
        ({"max_length": 21}, 30, 30),
        ({"max_length": 512}, None, 63),
        ({"max_length": 1}, None, 1),
    ],
)
def test_one_limit_of_length_holds(values: dict[str, Any], option: int | None, most: int) -> None:
    limited = GenerationSettings(values=values).limited(option, usual=50, positions=64)
    assert limited.values["max_new_tokens"] == most
    assert "max_length" not in limited.values
    if option is None and values.get("max_length") in (None, 512):
        words = {None: "sets no limit of length: generated texts end after 50", 512: "no more positions"}
        assert words[values.get("max_length")] in limited.remarks[0]
    else:
        assert not limited.remarks
