"""Schemes whose stores cannot be reached here: with an implementation in memory, or a server of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations
from safetensors.torch import load, load_file

from ladle_engine import EngineError, combine_checkpoints
from ladle_engine.far_urls import SCHEMES
from ladle_engine.storage.far.faults import LIBRARY
from ladle_engine.storage.far.stores import PROTOCOLS
from tests.builders import make_checkpoints
from tests.far_servers import serving


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_has_an_implementation_that_fsspec_knows(scheme: str) -> None:
    known = known_implementations[PROTOCOLS.get(scheme, scheme)]
    package = LIBRARY.get(scheme)
    assert package is None or package in f"{known['class']} {known.get('err', '')}".lower()


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_package_that_is_absent_is_named(cache: Path, tmp_path: Path, scheme: str) -> None:
    if find_spec(LIBRARY[scheme]):
        pytest.skip(f"{LIBRARY[scheme]} is installed")
    with pytest.raises(EngineError, match=re.escape(f"`pip install {LIBRARY[scheme]}`")) as caught:
        combine_checkpoints(f"{scheme}://bucket/run", output=tmp_path / "out")
    assert caught.value.code == "missing-library"
    with pytest.raises(EngineError, match=re.escape(f"`pip install {LIBRARY[scheme]}`")):
        combine_checkpoints(make_checkpoints(tmp_path / "near"), output=f"{scheme}://bucket/out")


class Memory(MemoryFileSystem):
    """With files of its own."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of gcsfs and adlfs."""
    for protocol in ("gs", "abfs"):
        monkeypatch.setitem(_registry, protocol, Memory)
    Memory.store.clear()
    yield
    Memory.store.clear()


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_another_store_is_read_from_and_written_to(in_memory: None, cache: Path, tmp_path: Path, scheme: str) -> None:
    near = make_checkpoints(tmp_path / "near")
    for path in near.iterdir():
        Memory().pipe_file(f"/bucket/run/{path.name}", path.read_bytes())
    Memory().pipe_file("/bucket/run-2/epoch-9.safetensors", b"broken")
    combine_checkpoints(near, output=tmp_path / "out")
    combine_checkpoints(f"{scheme}://bucket/run", output=f"{scheme}://bucket/results/x")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    theirs = load(Memory().cat_file("/bucket/results/x/model.safetensors"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not [name for name in Memory.store if "ladle-upload" in name]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as reading a model needs."""

    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list[str]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        if "/resolve/" in path:
            self._send_file(self.folder / path.partition("/resolve/main/")[2])
        elif "/tree/" in path:
            self._send(json.dumps(self._entries()).encode())
        elif path.startswith("/api/models/owner/name"):
            self._send(json.dumps({"id": "owner/name", "sha": "0" * 40, "siblings": []}).encode())
        else:
            self._send(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.requests.append(f"POST {self.path}")
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        wanted = asked.get("paths", [])
        found = [each for each in self._entries() if each["path"] in wanted]
        found += [{"type": "directory", "path": each, "oid": "d"} for each in wanted if (self.folder / each).is_dir()]
        self._send(json.dumps(found).encode())

    def _entries(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": str(path.relative_to(self.folder)), "size": path.stat().st_size, "oid": "b1"}
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]

    def _send_file(self, path: Path) -> None:
        content = path.read_bytes()
        headers = {"ETag": '"b1"', "X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            start, _, last = asked.removeprefix("bytes=").partition("-")
            part = content[int(start) : int(last) + 1]
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
            self._send(part, 206, headers)
        else:
            self._send(content, 200, headers)

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


def test_a_model_on_the_hub_is_read(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoints(tmp_path / "repo" / "run")
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"folder": tmp_path / "repo", "requests": asked})
    combine_checkpoints(tmp_path / "repo" / "run", output=tmp_path / "near")
    with serving(handler) as port:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        # What the variable `HF_ENDPOINT` sets as the package is imported.
        template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        combine_checkpoints("hf://owner/name/run", output=tmp_path / "far")
        near, far = (load_file(tmp_path / name / "model.safetensors") for name in ("near", "far"))
        assert all(torch.equal(near[name], far[name]) for name in near)
        with pytest.raises(EngineError, match="hf://owner/none") as caught:
            combine_checkpoints("hf://owner/none/run", output=tmp_path / "none")
    assert caught.value.code == "unreadable-input"
