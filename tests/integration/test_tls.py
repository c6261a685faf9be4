"""The service over HTTPS, with a certificate of an authority of our own."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from ladle import Client, ConfigurationError, ServiceUnreachable
from ladle_service.__main__ import main
from tests.integration.api_stack import Stack, free_port
from tests.integration.test_load import answer_to, connect
from tests.polling import until
from tests.servers import redis_server, running, service_process

OPENSSL = shutil.which("openssl") or ""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENSSL, reason="needs the program openssl, which makes the certificates"),
]


class Certificates:
    """An authority, and a certificate of its for this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.make("ca", "-x509", "-subj", "/CN=Test authority")
        self.make(
            "server", "-x509", "-subj", "/CN=server", "-CA", str(self["ca.pem"]), "-CAkey", str(self["ca.key"]),
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def make(self, name: str, *options: str) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2")
        files = ("-keyout", str(self[f"{name}.key"]), "-out", str(self[f"{name}.pem"]))
        subprocess.run([OPENSSL, "req", *curve, *files, *options], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    for path in ("data/checkpoints", "data/val", "results"):
        (folder / path).mkdir(parents=True)
    port = free_port()
    keys = {"TLS_CERT": str(certificates["server.pem"]), "TLS_KEY": str(certificates["server.key"])}
    hasty = {"CLIENT_TIMEOUT_S": "2"}
    with redis_server(folder) as server:
        process = service_process(folder, server, folder / "data", UDS="", PORT=str(port), **keys, **hasty)
        with running(process):
            until(lambda: _listens(port), what="the service to listen")
            yield Stack(folder, server, process, f"https://127.0.0.1:{port}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_client_that_knows_the_authority_submits_and_watches(
    stack: Stack, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LADLE_CA_FILE", str(certificates["ca.pem"]))
    with stack.client() as client:
        job = client.submit(*stack.paths)
        assert job.cancel()
        assert [event.body.kind for event in job.events(follow=True)] == ["state", "state"]


def test_a_client_that_does_not_know_it_sends_nothing_and_says_what_to_set(
    stack: Stack, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LADLE_CA_FILE", raising=False)
    # Trying again would not help, so it does not: with this patience the test would not end.
    with Client(stack.url, "secret-token", patience=3600.0) as client, pytest.raises(ServiceUnreachable) as caught:
        client.version()
    assert "set LADLE_CA_FILE" in str(caught.value)


def test_a_file_that_holds_no_certificate_is_named(
    stack: Stack, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (certificates["ca.key"], certificates.folder / "absent"):
        monkeypatch.setenv("LADLE_CA_FILE", str(wrong))
        with pytest.raises(ConfigurationError, match=f"`LADLE_CA_FILE` must be a file .* but `{wrong}` is not"):
            stack.client()


@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_nothing_older_than_tls_1_2_is_spoken(
    stack: Stack, certificates: Certificates, version: ssl.TLSVersion, accepted: bool
) -> None:
    context = ssl.create_default_context(cafile=certificates["ca.pem"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of the version that is to be refused
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", int(stack.url.rpartition(":")[2]))) as plain:
        if accepted:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                assert secure.version() == version.name.replace("_", ".")
        else:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(plain, server_hostname="localhost")


def test_a_browser_is_told_to_stay_with_https(stack: Stack, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=certificates["ca.pem"])
    answer = httpx2.get(f"{stack.url}/healthz", verify=context, trust_env=False)
    assert "max-age" in answer.headers["strict-transport-security"]


def test_plain_http_is_not_answered(stack: Stack) -> None:
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{stack.url.replace('https', 'http')}/healthz", trust_env=False)


@pytest.mark.parametrize("wrong", ["another key", "no certificate", "absent"])
def test_a_certificate_that_cannot_be_used_stops_the_start_with_its_name(
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: str,
) -> None:
    files = {
        "another key": ("server.pem", "ca.key"),
        "no certificate": ("server.key", "server.key"),
        "absent": ("absent", "server.key"),
    }[wrong]
    settings = {"ROOTS": str(tmp_path), "RESULTS_DIR": str(tmp_path)}
    settings |= dict(zip(("TLS_CERT", "TLS_KEY"), (str(certificates[name]) for name in files), strict=True))
    for name, value in settings.items():
        monkeypatch.setenv(f"LADLE_{name}", value)
    assert main([]) == 2
    assert "`LADLE_TLS_CERT` and `LADLE_TLS_KEY` must be a certificate and its key" in capsys.readouterr().err


def test_whoever_does_not_finish_the_handshake_or_the_request_is_cut_off(
    stack: Stack, certificates: Certificates
) -> None:
    context = ssl.create_default_context(cafile=str(certificates["ca.pem"]))
    with ExitStack() as opened:
        silent = [opened.enter_context(connect(stack)) for _ in range(20)]
        half = [context.wrap_socket(connect(stack), server_hostname="127.0.0.1") for _ in range(20)]
        for number, secured in enumerate(half):
            opened.enter_context(secured)
            if number % 2:
                secured.sendall(b"GET /healthz HTT")
        with httpx2.Client(base_url=stack.url, verify=context) as plain:
            assert plain.get("/healthz").status_code == 200
        for raw in silent:
            assert answer_to(raw) == b""
        for number, secured in enumerate(half):
            answer = answer_to(secured)
            assert answer.startswith(b"HTTP/1.1 408 ") if number % 2 else answer == b""
