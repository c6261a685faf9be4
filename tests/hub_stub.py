"""A stand-in for the Hugging Face Hub: those parts of its API that huggingface_hub calls to upload a model.

Paths, answers and the order of calls are those of huggingface_hub 2.4 with Xet switched off; see its `hf_api.py`,
`_commit_api.py` and `lfs.py`.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretsecretsecret"
PART_BYTES = 8 << 10
"""A file of more bytes is uploaded in parts of so many."""
LARGE = (".safetensors", ".png", ".distcp")
"""What goes by LFS, whatever its size; all else stands in the commit."""
API = r"/api/models/([^/]+/[^/]+)"


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status)
        self.status, self.code, self.message = status, code, message


@dataclass
class Repo:
    """One repository."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, bytes]] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    def files(self, revision: str) -> dict[str, bytes]:
        if revision not in self.branches:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.branches[revision]


@dataclass
class Hub:
    """What it holds, and what it was asked."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    """Pattern of `METHOD path` -> the status that is answered."""
    user: str = "me"

    def called(self, pattern: str) -> list[str]:
        """The paths of calls whose `METHOD path` matches."""
        return [path for method, path in self.calls if fnmatch.fnmatch(f"{method} {path}", pattern)]

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise Refused(404, "RepoNotFound", "Repository not found")
        return self.repos[name]

    def content(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch, large ones too."""
        return self.repos[repo].branches[revision]

    def create(self, body: Any) -> Any:
        name = f"{body.get('organization') or self.user}/{body['name']}"
        if not name.startswith(f"{self.user}/"):
            raise Refused(403, message="You don't have the rights to create a model under this namespace")
        if name in self.repos:
            raise Refused(409, message="You already created this model repo")
        self.repos[name] = Repo(private=body.get("visibility") == "private" or body.get("private") is True)
        return {"url": f"{self.url}/{name}", "name": name, "id": name}

    def info(self, name: str, revision: str = "main") -> Any:
        repo = self.repo(name)
        repo.files(revision)
        return {"id": name, "sha": repo.heads[revision], "private": repo.private, "tags": [], "siblings": []}

    def branch(self, body: Any, name: str, branch: str) -> Any:
        repo = self.repo(name)
        repo.branches[branch], repo.heads[branch] = dict(repo.branches["main"]), repo.heads["main"]
        return {}

    def preupload(self, body: Any, name: str, revision: str) -> Any:
        repo = self.repo(name)
        files = repo.files(revision)
        ignored = files.get(".gitignore", b"").decode().split()
        return {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": any(fnmatch.fnmatch(each["path"], pattern) for pattern in ignored),
                    "oid": _oid(each["path"], files[each["path"]]) if each["path"] in files else None,
                }
                for each in body["files"]
            ]
        }

    def batch(self, body: Any, name: str) -> Any:
        self.repo(name)
        return {"transfer": "basic", "objects": [self._object(each["oid"], each["size"]) for each in body["objects"]]}

    def _object(self, oid: str, size: int) -> Any:
        if oid in self.objects:
            return {"oid": oid, "size": size}
        verify = {"href": f"{self.url}/lfs/verify"}
        if size <= PART_BYTES:
            return {
                "oid": oid,
                "size": size,
                "actions": {"upload": {"href": f"{self.url}/lfs/{oid}"}, "verify": verify},
            }
        numbers = range(1, -(-size // PART_BYTES) + 1)
        header = {f"{number:05}": f"{self.url}/lfs/{oid}/{number}" for number in numbers}
        upload = {"href": f"{self.url}/lfs/complete", "header": {"chunk_size": str(PART_BYTES), **header}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def put(self, content: bytes, oid: str, number: str | None = None) -> Any:
        if number is not None:
            self.parts.setdefault(oid, {})[int(number)] = content
            return {}
        return self._keep(oid, content)

    def complete(self, body: Any) -> Any:
        parts = self.parts.pop(body["oid"])
        assert [part["partNumber"] for part in body["parts"]] == sorted(parts)
        return self._keep(body["oid"], b"".join(parts[number] for number in sorted(parts)))

    def _keep(self, oid: str, content: bytes) -> Any:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, message="The content is not what its digest says")
        self.objects[oid] = content
        return {}

    def verify(self, body: Any) -> Any:
        assert len(self.objects[body["oid"]]) == body["size"]
        return {}

    def tree(self, name: str, revision: str, folder: str = "") -> Any:
        start = f"{folder}/" if folder else ""
        found = self.repo(name).files(revision)
        if folder and not any(path.startswith(start) for path in found):
            raise Refused(404, "EntryNotFound", f"{folder} does not exist")
        here = [path for path in found if path.startswith(start) and "/" not in path.removeprefix(start)]
        return [{"type": "file", "path": path, "size": len(found[path]), "oid": "1" * 40} for path in here]

    def commit(self, lines: Sequence[Any], name: str, revision: str, create_pr: bool) -> Any:
        repo = self.repo(name)
        files = dict(repo.files(revision))
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.objects:
                        raise Refused(400, message="LFS pointer pointed to a file that does not exist")
                    files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        # All at once.
        oid = f"{len(repo.commits) + 1:040x}"
        repo.commits.append({**lines[0]["value"], "keys": [line["key"] for line in lines]})
        answer = {"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid}
        if create_pr:
            repo.pulls.append(files)
            return {**answer, "pullRequestUrl": f"{self.url}/{name}/discussions/{len(repo.pulls)}"}
        repo.branches[revision], repo.heads[revision] = files, oid
        return answer


def _oid(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_stub() -> Iterator[Hub]:
    """It answers on `url`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({f"{API}": self.hub.info, f"{API}/revision/([^/]+)": self.hub.info,
                      f"{API}/tree/([^/]+)(?:/(.+))?": self.hub.tree}, ())  # fmt: skip

    def do_POST(self) -> None:
        content = self._body()
        if "/commit/" in self.path:
            lines, pull = [json.loads(line) for line in content.splitlines()], "create_pr=1" in self.path
            self._answer({f"{API}/commit/([^/]+)": lambda *where: self.hub.commit(lines, *where, pull)}, ())
            return
        routes = {
            "/api/repos/create": self.hub.create,
            "/api/validate-yaml": lambda body: {},
            f"{API}/branch/(.+)": self.hub.branch,
            f"{API}/preupload/([^/]+)": self.hub.preupload,
            r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self.hub.batch,
            "/lfs/complete": self.hub.complete,
            "/lfs/verify": self.hub.verify,
        }
        self._answer(routes, (json.loads(content or b"{}"),))

    def do_PUT(self) -> None:
        self._answer({"/lfs/([0-9a-f]+)(?:/([0-9]+))?": self.hub.put}, (self._body(),))

    def _answer(self, routes: dict[str, Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
        path = urlsplit(self.path).path
        self.hub.calls.append((self.command, path))
        try:
            self._send(200, self._called(routes, path, arguments))
        except Refused as error:
            self._send(error.status, {"error": error.message}, code=error.code, message=error.message)

    def _called(self, routes: dict[str, Callable[..., Any]], path: str, arguments: tuple[Any, ...]) -> Any:
        for pattern, status in self.hub.faults.items():
            if fnmatch.fnmatch(f"{self.command} {path}", pattern):
                raise Refused(status, message="as the test wants")
        if not path.startswith("/lfs/") and self.headers["authorization"] != f"Bearer {TOKEN}":
            raise Refused(401, message="Invalid credentials in Authorization header")
        for route, call in routes.items():
            if found := re.fullmatch(route, path):
                where = [unquote(part) for part in found.groups() if part is not None]
                return call(*arguments, *where)
        raise Refused(500, message=f"the stand-in does not know {self.command} {path}")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, status: int, body: Any, code: str = "", message: str = "") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("etag", '"part"')
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return
