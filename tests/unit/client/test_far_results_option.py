"""`--results` with an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle.cli.doctor import examine
from ladle.cli.local import _results
from ladle.cli.stack import StackError, StackOptions


def test_an_address_is_where_results_go_and_working_files_stay_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _results(Path("s3://bucket/results/")) == "s3://bucket/results"
    assert _results(Path("file:///data/results")) == Path("/data/results")
    assert _results(Path("results")) == Path.cwd() / "results"
    options = StackOptions(roots=[], results="s3://bucket/results", state=tmp_path)
    assert options.results_folder == tmp_path / "ladle/results"


@pytest.mark.parametrize("address", ["https://host/results", "gcs://bucket/x", "s3://key:secret@bucket/x"])
def test_an_address_that_nothing_can_be_written_to_is_refused(address: str) -> None:
    with pytest.raises(StackError, match="`--results` must be a folder or an address to write to") as caught:
        _results(Path(address))
    assert "secret" not in str(caught.value)


def test_the_doctor_says_what_addresses_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle.cli.doctor._engine", lambda: iter(()))
    found = {finding.name: finding for finding in examine(["gs://bucket/runs"], "s3://bucket/results")}
    assert found["results s3://bucket/results"].ok
    root = found["root gs://bucket/runs"]
    assert root.ok or root.fix == "pip install 'ladle[far]' gcsfs"
