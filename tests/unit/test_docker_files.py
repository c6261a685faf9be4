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

from ladle_worker.launch.environment import KEPT_PREFIXES, KEPT_VARIABLES
from ladle_worker.settings import Settings
from tests.redis_users import users_file

REPO = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted([*REPO.glob("docker/*.Dockerfile"), *REPO.glob("docker/test/*.Dockerfile")])
OURS = [path for path in DOCKERFILES if path.parent.name == "docker"]
COMPOSE_FILES = [REPO / "docker-compose.yml", *sorted(REPO.glob("docker-compose.*.yml"))]


class ComposeLoader(yaml.SafeLoader):
    """Knows compose's `!reset`, which removes what an extended service has."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    return yaml.load((REPO / name).read_text(), ComposeLoader)


def mounted(service: dict[str, Any], target: str) -> dict[str, Any]:
    [found] = [volume for volume in service["volumes"] if isinstance(volume, dict) and volume["target"] == target]
    return found


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


def test_each_container_has_its_own_keys_and_no_secret_is_in_an_environment():
    services = compose()["services"]
    for name, service in services.items():
        keys = mounted(service, "/run/keys")
        assert keys["read_only"] is True
        assert keys["bind"] == {"create_host_path": False}
        assert re.fullmatch(r"\$\{LADLE_KEYS:\?.*docker/init.sh.*\}/" + name.replace("api", "service"), keys["source"])
    for path in COMPOSE_FILES:
        for service in compose(path.name)["services"].values():
            assert {name for name in service.get("environment", {}) if "PASSWORD" in name} <= {
                "LADLE_REDIS_PASSWORD_FILE"
            }


def test_redis_speaks_tls_only_and_everybody_says_who_they_are():
    services = compose()["services"]
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--port"], options["--tls-port"]) == ("0", "6379")
    assert options["--aclfile"] == "/run/keys/users.acl"
    assert services["api"]["environment"]["LADLE_REDIS_URL"] == "rediss://service@redis:6379/0"
    assert services["worker"]["environment"]["LADLE_REDIS_URL"] == "rediss://worker@redis:6379/0"


def test_redis_is_published_only_on_the_head_and_only_at_its_address():
    head = compose("docker-compose.head.yml")["services"]
    [port] = head["redis"]["ports"]
    assert re.fullmatch(r"\$\{LADLE_HEAD:\?[^}]*\}:\$\{LADLE_REDIS_PORT:-6379\}:6379", port)
    assert [name for name, service in head.items() if "ports" in service] == ["redis"]
    assert head["worker"] == {"profiles": ["never"]}, "its ranks could not be reached"


def test_a_worker_of_several_machines_has_their_network_and_is_confined_as_on_one():
    worker = compose("docker-compose.worker.yml")["services"]["worker"]
    assert worker["extends"] == {"file": "docker-compose.yml", "service": "worker"}
    assert worker["network_mode"] == "host"
    assert worker["ulimits"] == {"memlock": -1}
    assert not {"privileged", "cap_add", "ipc", "security_opt", "pid"} & set(worker)
    passed_on = [name for name, value in worker["environment"].items() if value is None]
    assert passed_on
    assert all(name.startswith(KEPT_PREFIXES) for name in passed_on), "ranks inherit nothing else"


@pytest.mark.parametrize("name", ["head", "worker"])
def test_several_machines_must_name_the_results_that_they_share(name: str):
    services = compose(f"docker-compose.{name}.yml")["services"]
    results = mounted(services["api" if name == "head" else "worker"], "/results")
    assert results["source"].startswith("${LADLE_RESULTS:?")
    assert results["bind"] == {"create_host_path": False}, "a share that is not mounted must not become a local folder"


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
    both = [volume for volume in services["api"]["volumes"] if isinstance(volume, str)]
    assert both == [volume for volume in services["worker"]["volumes"] if isinstance(volume, str)]
    assert "${LADLE_DATA:-./data}:/data:ro" in both
    tokens = mounted(services["api"], "/run/ladle")
    assert tokens["read_only"] is True
    assert services["api"]["environment"]["LADLE_TOKENS_FILE"] == f"{tokens['target']}/tokens"
    assert tokens["source"] == "${LADLE_SECRETS:-./docker/secrets}", "the folder, so that a replaced file is seen"


def test_the_worker_has_longer_to_stop_than_it_takes_by_itself():
    grace = compose()["services"]["worker"]["stop_grace_period"]
    fields = Settings.model_fields
    assert int(grace.removesuffix("s")) > 2 * (fields["soft_shutdown_s"].default + fields["kill_grace_s"].default)


def test_env_example_names_every_variable_of_the_compose_files_and_no_other():
    # Compose itself reads this one.
    used = {"COMPOSE_FILE"}
    for path in COMPOSE_FILES:
        used |= set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", path.read_text()))
    used |= {
        name
        for name, value in compose("docker-compose.worker.yml")["services"]["worker"]["environment"].items()
        if value is None
    }
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
    for name in ("init.sh", "redis-users.acl"):
        shutil.copy(REPO / "docker" / name, tmp_path / "docker")
    shutil.copy(REPO / ".env.example", tmp_path)
    return tmp_path


def init(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker/init.sh", *arguments], cwd=checkout, check=False, capture_output=True, text=True)


KEYS = Path("docker/keys")
READERS = ("redis", "service", "worker")


def test_init_makes_a_token_of_which_only_the_hash_stays(checkout: Path):
    token = init(checkout, "ann").stdout.strip()
    assert len(token) == 64
    tokens = checkout / "docker" / "secrets" / "tokens"
    assert tokens.read_text() == f"ann:{hashlib.sha256(token.encode()).hexdigest()}\n"


def test_init_makes_a_password_for_each_user_of_which_redis_has_the_hash(checkout: Path):
    assert init(checkout).returncode == 0
    keys = checkout / KEYS
    places = {"operator": "redis/operator-password", "service": "service/redis-password",
              "worker": "worker/redis-password"}  # fmt: skip
    passwords = {user: (keys / place).read_text() for user, place in places.items()}
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in passwords.values())
    assert len(set(passwords.values())) == 3
    wanted = users_file()
    for user, password in passwords.items():
        sha256 = {name: hashlib.sha256(name.encode()).hexdigest() for name in (user, password)}
        wanted = wanted.replace(sha256[user], sha256[password])
    assert (keys / "redis" / "users.acl").read_text() == wanted
    assert not any(password in (checkout / ".env").read_text() for password in passwords.values())


def test_each_container_gets_no_more_than_it_needs_and_nobody_else_gets_in(checkout: Path):
    init(checkout)
    keys = checkout / KEYS
    found = {folder: {path.name for path in (keys / folder).iterdir()} for folder in ("redis", "service", "worker")}
    assert found == {
        "redis": {"ca.pem", "redis.pem", "redis.key", "users.acl", "operator-password"},
        "service": {"ca.pem", "redis-password"},
        "worker": {"ca.pem", "redis-password"},
    }
    assert keys.stat().st_mode & 0o077 == 0, "others may enter"
    assert (keys / "ca.key").stat().st_mode & 0o077 == 0
    for path in (keys / "redis").iterdir():
        # The container's user is another one than who ran init.sh.
        assert path.stat().st_mode & 0o777 == 0o644, path


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((), "redis"), (("--head", "10.1.2.3"), "10.1.2.3"), (("--head", "head.example.org"), "head.example.org")],
)
def test_the_certificate_is_for_the_name_by_which_redis_is_reached(
    checkout: Path, arguments: tuple[str, ...], name: str
):
    assert init(checkout, *arguments).returncode == 0
    kind = "-verify_ip" if name[0].isdigit() else "-verify_hostname"
    for wanted, ends in ((name, 0), (name.replace("1", "2").replace("e", "a"), 2)):
        command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", kind, wanted, "redis.pem"]
        done = subprocess.run(command, cwd=checkout / KEYS / "redis", check=False, capture_output=True, text=True)
        assert done.returncode == ends, done.stderr


def test_init_again_keeps_what_is_there_and_adds_a_person(checkout: Path):
    init(checkout, "ann")

    def files() -> dict[Path, str]:
        kept = [checkout / ".env", *(path for path in (checkout / KEYS).rglob("*") if path.is_file())]
        return {path: path.read_text() for path in kept}

    before = files()
    assert init(checkout, "bob").returncode == 0
    assert init(checkout).returncode == 0
    assert files() == before
    names = [line.split(":")[0] for line in (checkout / "docker" / "secrets" / "tokens").read_text().splitlines()]
    assert names == ["ann", "bob"]
    again = init(checkout, "bob")
    assert again.returncode != 0
    assert "'bob'" in again.stderr


@pytest.mark.parametrize("removed", ["worker/redis-password", "redis/operator-password", "redis/redis.pem", "ca.key"])
def test_what_was_removed_is_made_anew_and_the_rest_stays(checkout: Path, removed: str):
    init(checkout)
    keys = checkout / KEYS
    before = {path: path.read_text() for path in keys.rglob("*") if path.is_file()}
    (keys / removed).unlink()
    assert init(checkout).returncode == 0
    changed = {str(path.relative_to(keys)) for path, text in before.items() if path.read_text() != text}
    with_it = {
        "redis/redis.pem": {"redis/redis.key", "ca.srl"},
        "ca.key": {"ca.pem", "ca.srl", "redis/redis.pem", "redis/redis.key", *(f"{each}/ca.pem" for each in READERS)},
    }
    assert changed - {"ca.srl"} == {removed, *with_it.get(removed, {"redis/users.acl"})} - {"ca.srl"}


def test_an_env_of_before_redis_had_users_is_migrated_in_words(checkout: Path):
    old = "LADLE_REDIS_PASSWORD=0123\nLADLE_DATA=/mine\nLADLE_UID=1000\n"
    (checkout / ".env").write_text(old)
    (checkout / "docker" / "secrets").mkdir()
    (checkout / "docker" / "secrets" / "tokens").write_text("ann:0123\n")
    done = init(checkout)
    assert done.returncode == 0
    assert "removed LADLE_REDIS_PASSWORD" in done.stderr
    assert (checkout / ".env").read_text() == "LADLE_DATA=/mine\nLADLE_UID=1000\nLADLE_KEYS=./docker/keys\n"
    assert done.stdout == "", "nobody gets a token by an upgrade"


def test_a_worker_needs_the_keys_of_the_head_and_no_others(checkout: Path, tmp_path_factory: pytest.TempPathFactory):
    init(checkout, "--head", "10.1.2.3")
    head = (checkout / ".env").read_text()
    assert "\nCOMPOSE_FILE=docker-compose.yml:docker-compose.head.yml\n" in head
    assert "\nLADLE_HEAD=10.1.2.3\n" in head
    other = tmp_path_factory.mktemp("other")
    (other / "docker").mkdir()
    shutil.copy(REPO / "docker" / "init.sh", other / "docker")
    shutil.copy(REPO / ".env.example", other)
    alone = init(other, "--worker", "10.1.2.3")
    assert alone.returncode == 2
    assert "docker/keys/worker/ca.pem must be copied from the head" in alone.stderr
    shutil.copytree(checkout / KEYS / "worker", other / KEYS / "worker")
    assert init(other, "--worker", "10.1.2.3").returncode == 0
    assert "\nCOMPOSE_FILE=docker-compose.worker.yml\n" in (other / ".env").read_text()
    assert {path.name for path in (other / KEYS).iterdir()} == {"worker"}
    assert not (other / "docker" / "secrets").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--head",), "`ADDRESS` must be"), (("--worker", "-x"), "`ADDRESS` must be"),
        (("--head", "rediss://host:1"), "`ADDRESS` must be"), (("--head", "a b"), "`ADDRESS` must be"),
        (("--worker", "host", "ann"), "takes no `NAME`"), (("ann", "bob"), "one `NAME` at most"),
    ],
)  # fmt: skip
def test_init_refuses_what_it_cannot_mean(checkout: Path, arguments: tuple[str, ...], words: str):
    done = init(checkout, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (checkout / ".env").exists()


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


def test_every_shell_script_can_be_read_by_its_shell() -> None:
    scripts = [REPO / ".ci/run", *sorted(REPO.glob("docker/**/*.sh"))]
    assert len(scripts) > 3
    for script in scripts:
        shell = "bash" if "bash" in script.read_text().partition("\n")[0] else "sh"
        done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
