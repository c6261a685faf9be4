"""Messages are one line of visible characters, whatever the names in them hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine import CheckpointError, EngineError, discover
from ladle_engine.progress import Warned

NAME = b"epoch-1\x1b]0;title\x07\n# Heading \xe2\x80\xae\xff.safetensors"


def test_a_message_escapes_what_controls_a_terminal_or_is_not_utf_8() -> None:
    shown = r"epoch-1\x1b]0;title\x07\n# Heading \u202e\udcff.safetensors"
    for made in (EngineError("corrupt", os.fsdecode(NAME)), Warned(message=os.fsdecode(NAME))):
        assert made.message == shown
        assert made.message.encode()
    assert str(EngineError("corrupt", os.fsdecode(NAME))) == shown
    assert EngineError("corrupt", "épöch-☃").message == "épöch-☃"


def test_a_hostile_name_in_a_folder_stays_a_name_in_what_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2J\nb"
    folder.mkdir()
    for number in (1, 2):
        save_file({"w": torch.full((2,), float(number))}, folder / f"epoch-{number}.safetensors")
    Path(os.fsdecode(os.fsencode(folder) + b"/" + NAME)).write_bytes(b"")
    found = discover(folder)
    assert found.names == ("epoch-1.safetensors", "epoch-2.safetensors")
    (folder / "epoch-2.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError) as caught:
        discover(folder)
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message
    assert r"a\x1b[2J\nb" in caught.value.message
