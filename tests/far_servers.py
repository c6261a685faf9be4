"""Far stores for tests: a real S3 server behind a proxy that makes faults, and an HTTP server with ranges."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

BUCKET = "bucket"
S3_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


Fault = Callable[[str, str], str | None]
"""Method and path (with the range after a space) -> `503`, `drop`, `short`, an S3 error code, or None."""


@dataclass
class S3:
    """What a test does with the server. `fault` is asked for each request through the proxy."""

    url: str
    direct: str
    fault: Fault = lambda method, path: None
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    """Bytes of bodies."""

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.direct, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )

    def put(self, folder: Path, prefix: str) -> None:
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())

    def put_bytes(self, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        content: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def found(self, prefix: str = "") -> list[str]:
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for each in found.get("Contents", [])]

    def of(self, name: str) -> list[str]:
        """Reads of a file's bytes."""
        return [each for each in self.requests if each.startswith("GET") and name in each.split("?")[0]]


def use_s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """For a fixture: the operator's environment of a server that is empty, and has no faults afterwards."""
    for key in server.found():
        server.client().delete_object(Bucket=BUCKET, Key=key)
    server.requests.clear()
    server.sent = 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield server
    server.fault = lambda method, path: None


@contextmanager
def s3_server() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = S3(url="", direct=f"http://{host}:{port}")
        with serving(_proxy(s3, port)) as own:
            s3.url = f"http://127.0.0.1:{own}"
            s3.client().create_bucket(Bucket=BUCKET)
            yield s3
    finally:
        server.stop()


def _proxy(s3: S3, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = f"{self.path} {self.headers.get('Range', '')}".strip()
            s3.requests.append(f"{self.command} {asked}")
            fault = s3.fault(self.command, asked)
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            if fault not in (None, "short"):
                self._answer(503 if fault == "503" else 403, _error(fault))
                return
            upstream = http.client.HTTPConnection("127.0.0.1", port)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if fault == "short":
                content, self.close_connection = content[: len(content) // 2], True
            s3.sent += len(content)
            self.wfile.write(content)
            upstream.close()

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    return Handler


def _error(code: str) -> str:
    return S3_ERROR.format(code="ServiceUnavailable" if code == "503" else code, message="The server says no.")


@dataclass
class Folder:
    """What an HTTP server serves, with listings."""

    path: Path
    redirects: dict[str, str] = field(default_factory=dict)
    """Path -> any address."""
    with_ranges: bool = True
    requests: list[str] = field(default_factory=list)


@contextmanager
def http_folder(served: Folder) -> Iterator[str]:
    """The address of the server."""

    class Handler(FolderHandler):
        folder = served

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"


class FolderHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Folder

    def do_GET(self) -> None:
        self.folder.requests.append(f"{self.command} {self.path}")
        path = self.folder.path / unquote(self.path).strip("/")
        if target := self.folder.redirects.get(self.path):
            self._send(302, {"Location": target}, b"")
        elif path.is_dir() and not self.path.endswith("/"):
            self._send(301, {"Location": f"{self.path}/"}, b"")
        elif path.is_dir():
            names = [f"{each.name}/" if each.is_dir() else each.name for each in sorted(path.iterdir())]
            links = "".join(f'<a href="{quote(name)}">{name}</a>\n' for name in ["../", *names])
            self._send(200, {"Content-Type": "text/html"}, f'<a href="?C=N">Name</a>{links}'.encode())
        elif path.is_file():
            self._send_file(path)
        else:
            self._send(404, {}, b"")

    do_HEAD = do_GET

    def _send_file(self, path: Path) -> None:
        content = path.read_bytes()
        headers = {
            "Content-Type": "application/octet-stream",
            "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True),
            "ETag": f'"{path.stat().st_mtime_ns:x}-{len(content)}"',
            "Accept-Ranges": "bytes" if self.folder.with_ranges else "none",
        }
        asked = self.headers.get("Range") if self.folder.with_ranges else None
        if not asked:
            self._send(200, headers, content)
            return
        start, _, last = asked.removeprefix("bytes=").partition("-")
        stop = int(last) + 1 if last else len(content)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(206, headers, content[int(start) : stop])

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return
