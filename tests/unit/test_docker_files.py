"""The container files, without an engine: `docker/check.sh` lints them, and `make compose-test` runs them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ladle_worker.launch.environment import KEPT_VARIABLES
from ladle_worker.settings import Settings

REPO = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted([*REPO.glob("docker/*.Dockerfile"), *REPO.glob("docker/test/*.Dockerfile")])
OURS = [path for path in DOCKERFILES if path.parent.name == "docker"]
COMPOSE_FILES = [REPO / "docker-compose.yml", REPO / "docker-compose.gpu.yml"]


def compose() -> dict[str, Any]:
    return yaml.safe_load((REPO / "docker-compose.yml").read_text())


def instructions(path: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}\s+(.*)$", path.read_text(), flags=re.MULTILINE)


def test_there_are_images_for_the_service_the_worker_and_plugins():
    assert [path.stem for path in OURS] == ["plugins", "service", "worker"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_pulls_no_frontend_and_leaves_health_to_compose(path: Path):
    text = path.read_text()
    assert "syntax=" not in text, "a `# syntax=` line pulls an image, which fails without a registry"
    assert not instructions(path, "HEALTHCHECK"), "an image's health check would be inherited by every service"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_an_image_of_ours_ends_as_a_numbered_user_who_is_not_root(path: Path):
    assert instructions(path, "USER")[-1] == "10001:10001"


@pytest.mark.parametrize("name", ["service", "worker"])
def test_the_base_image_is_an_argument_and_versions_come_from_the_constraints(name: str):
    text = (REPO / "docker" / f"{name}.Dockerfile").read_text()
    assert set(instructions(REPO / "docker" / f"{name}.Dockerfile", "FROM")) >= {"${BASE_IMAGE}"}
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm" in text
    assert "-c constraints.txt" in text
    assert instructions(REPO / "docker" / f"{name}.Dockerfile", "CMD") == [f'["python", "-m", "ladle_{name}"]']


def test_everything_that_a_dockerfile_copies_exists_and_is_let_in_by_dockerignore():
    allowed = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in ("service", "worker"):
        for copied in instructions(REPO / "docker" / f"{name}.Dockerfile", "COPY"):
            if copied.startswith("--from"):
                continue
            for source in copied.split()[:-1]:
                assert (REPO / source).exists(), source
                assert source in allowed, f"{source} is kept out by .dockerignore"


def test_every_service_is_confined_and_has_a_health_check_of_its_own():
    services = compose()["services"]
    assert set(services) == {"redis", "api", "worker"}
    for name, service in services.items():
        assert service["init"] is True, name
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in ("root", "0"), name
        assert "test" in service["healthcheck"], name


def test_triton_finds_a_compiler_and_may_run_what_it_makes_on_a_gpu_and_only_there():
    gpu = yaml.safe_load((REPO / "docker-compose.gpu.yml").read_text())["services"]["worker"]
    assert gpu["build"]["args"]["APT_PACKAGES"].split() == ["gcc", "libc6-dev"]
    assert set(gpu["environment"]) <= set(KEPT_VARIABLES), "ranks inherit nothing else"
    assert gpu["tmpfs"] == [f"{gpu['environment']['TRITON_CACHE_DIR']}:exec"]
    assert 'ARG APT_PACKAGES=""' in (REPO / "docker" / "worker.Dockerfile").read_text()
    assert "APT_PACKAGES" not in (REPO / "docker-compose.yml").read_text()


def test_only_the_api_publishes_a_port_and_only_on_loopback():
    services = compose()["services"]
    assert services["api"]["ports"] == ["127.0.0.1:${LADLE_PORT:-8337}:8337"]
    assert "ports" not in services["redis"]
    assert "ports" not in services["worker"]


def test_redis_and_the_worker_are_on_a_network_without_a_way_out():
    document = compose()
    assert document["networks"]["backend"] == {"internal": True}
    assert document["services"]["redis"]["networks"] == ["backend"]
    assert document["services"]["worker"]["networks"] == ["backend"]


def test_api_and_worker_see_the_same_folders_and_the_data_only_for_reading():
    services = compose()["services"]
    *both, tokens = services["api"]["volumes"]
    assert both == services["worker"]["volumes"]
    assert "${LADLE_DATA:-./data}:/data:ro" in both
    assert tokens["read_only"] is True
    assert services["api"]["environment"]["LADLE_TOKENS_FILE"] == f"{tokens['target']}/tokens"
    assert tokens["source"] == "${LADLE_SECRETS:-./docker/secrets}", "the folder, so that a replaced file is seen"


def test_the_worker_has_longer_to_stop_than_it_takes_by_itself():
    grace = compose()["services"]["worker"]["stop_grace_period"]
    fields = Settings.model_fields
    assert int(grace.removesuffix("s")) > 2 * (fields["soft_shutdown_s"].default + fields["kill_grace_s"].default)


def test_env_example_names_every_variable_of_the_compose_files_and_no_other():
    used = set()
    for path in COMPOSE_FILES:
        used |= set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", path.read_text()))
    named = set(re.findall(r"^#?([A-Z_]+)=", (REPO / ".env.example").read_text(), flags=re.MULTILINE))
    assert named == used


def requirements(*extras: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "docker" / "requirements.py"), *extras]
    return subprocess.run(command, cwd=REPO, check=False, capture_output=True, text=True)


def test_the_service_image_asks_for_no_torch_and_the_worker_image_does():
    service = [re.split(r"[<>=\[]", line)[0] for line in requirements("service").stdout.splitlines()]
    worker = [re.split(r"[<>=\[]", line)[0] for line in requirements("worker").stdout.splitlines()]
    assert "fastapi" in service
    assert "torch" not in service
    assert "torch" in worker
    assert "pydantic" in service
    assert "pydantic" in worker


def test_an_unknown_extra_is_named():
    done = requirements("gpu")
    assert done.returncode != 0
    assert "'gpu'" in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as `docker/init.sh` needs."""
    (tmp_path / "docker").mkdir()
    shutil.copy(REPO / "docker" / "init.sh", tmp_path / "docker")
    shutil.copy(REPO / ".env.example", tmp_path)
    return tmp_path


def init(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker/init.sh", *arguments], cwd=checkout, check=False, capture_output=True, text=True)


def test_init_makes_a_password_and_a_token_of_which_only_the_hash_stays(checkout: Path):
    token = init(checkout, "ann").stdout.strip()
    assert len(token) == 64
    tokens = checkout / "docker" / "secrets" / "tokens"
    assert tokens.read_text() == f"ann:{hashlib.sha256(token.encode()).hexdigest()}\n"
    password = re.search(r"^LADLE_REDIS_PASSWORD=([0-9a-f]{48})$", (checkout / ".env").read_text(), re.MULTILINE)
    assert password, "no random password in .env"
    assert (checkout / ".env").stat().st_mode & 0o077 == 0, "others may read the password"


def test_init_again_keeps_the_password_and_adds_a_person(checkout: Path):
    init(checkout, "ann")
    before = (checkout / ".env").read_text()
    assert init(checkout, "bob").returncode == 0
    assert (checkout / ".env").read_text() == before
    names = [line.split(":")[0] for line in (checkout / "docker" / "secrets" / "tokens").read_text().splitlines()]
    assert names == ["ann", "bob"]
    again = init(checkout, "bob")
    assert again.returncode != 0
    assert "'bob'" in again.stderr


@pytest.mark.parametrize("name", ["a:b", "--help", "-a", "A", "a" * 65, "a b", "a\nb"])
def test_init_refuses_a_name_that_would_break_the_tokens_file(checkout: Path, name: str):
    done = init(checkout, name)
    assert done.returncode == 2
    assert f"'{name}'" in done.stderr
    assert not (checkout / ".env").exists()


def test_compose_test_says_plainly_that_it_cannot_run_without_root(tmp_path: Path):
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([REPO / "docker" / "compose-test.sh"], env=env, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "cannot run here" in done.stderr
    assert "root" in done.stderr
