"""Every hostile file is read or refused, within seconds and some hundred MB: the kept ones, and some by chance.

`make fuzz` tries more, for longer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from tests.fuzz.client import Reader
from tests.fuzz.corpus import SLOW, Row, rows
from tests.fuzz.forms import write
from tests.fuzz.fuzzer import Fuzzer
from tests.fuzz.generators import GENERATORS, Case
from tests.fuzz.valid import VALID

EXAMPLES = 10
"""Of each generator. Always the same: a test that fails must fail again."""


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


@pytest.mark.parametrize("name", VALID)
def test_what_hostile_files_are_made_from_is_read(reader: Reader, name: str) -> None:
    target, files = VALID[name]
    answer = reader.answer(target, lambda folder: write(files(), folder))
    assert answer.outcome == "read", answer


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in rows() if row.name not in SLOW], ids=lambda row: ascii(row.name))
def test_a_hostile_folder_is_read_or_refused_for_its_own_reason(reader: Reader, row: Row) -> None:
    answer = reader.answer(row.target, lambda folder: write(row.make(), folder))
    assert answer.outcome == ("read" if row.reason is None else "refused"), answer
    assert (answer.reason or None) == row.reason, answer
    assert answer.taken_mb <= row.most_mb, answer


@pytest.mark.slow
@pytest.mark.parametrize("generator", GENERATORS)
def test_folders_that_are_changed_by_chance_are_read_or_refused(reader: Reader, generator: str) -> None:
    found = list(Fuzzer(reader).run(generator, 0, EXAMPLES, shrinks=False))
    assert not found, found[0].answer


def test_the_rows_have_names_of_their_own() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)
    assert set(names) >= SLOW


FAULTS = {
    "memory": ("x = bytes(4 << 30)", "MemoryError"),
    "an error of its own": ("raise KeyError('x')", "KeyError"),
    "a wrong reason": (
        "from ladle_engine import EngineError; raise EngineError('out-of-memory', 'x')",
        "refused as out-of-memory",
    ),
    "a long message": (
        "from ladle_engine import EngineError; e = EngineError('invalid-data', ''); e.message = 'x' * 9999; raise e",
        "a message of 9,999 characters",
    ),
    "a folder": ("import os; os.mkdir('../canary')", "touches"),
    "a file": ("open('../canary.txt', 'w')", "touches"),
    "a program": ("import subprocess; subprocess.run(['true'])", "touches"),
    "an address": ("import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9))", "touches"),
    "a crash": ("import os; os.abort()", "ends with status -6"),
}
"""What a reader with a fault could do -> what is then said of it."""


@pytest.mark.parametrize(("program", "what"), FAULTS.values(), ids=FAULTS)
def test_a_reader_with_a_fault_would_be_noticed(reader: Reader, program: str, what: str) -> None:
    answer = reader.answer("program", lambda folder: write({"program.py": program.encode()}, folder))
    assert answer.outcome == "fault"
    assert answer.what.startswith(what), answer


def test_a_fault_by_chance_is_found_and_told_once(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = st.integers(0, 9).map(lambda digit: Case("program", {"program.py": f"print([][{digit}])".encode()}))
    monkeypatch.setitem(GENERATORS, "programs", programs)
    fuzzer = Fuzzer(reader)
    found = list(fuzzer.run("programs", 0, 20))
    assert [each.answer.what for each in found] == ["IndexError: list index out of range"]
    assert found[0].case.files == {"program.py": b"print([][0])"}, "the smallest"
    assert not list(fuzzer.run("programs", 1, 20)), "it is known"
