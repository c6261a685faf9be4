"""The files in `docker/kubernetes`, without a cluster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ladle_worker.launch.kubernetes.manifests import job, node_container, read_template
from ladle_worker.launch.kubernetes.settings import KubernetesSettings
from ladle_worker.settings import Settings
from tests.unit.worker.kubernetes.examples import attempt, check

FOLDER = Path(__file__).resolve().parents[2] / "docker/kubernetes"
Json = dict[str, Any]


def manifests() -> list[Json]:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return [made for name in kustomization["resources"] for made in yaml.safe_load_all((FOLDER / name).read_text())]


def named(kind: str, name: str) -> Json:
    return next(each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name))


def pods() -> dict[str, Json]:
    """The pod templates, by the name of what they belong to."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in manifests()
        if each["kind"] in ("Deployment", "StatefulSet")
    }


def variables(pod: Json) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize("manifest", manifests(), ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_every_manifest_keeps_to_the_schemas_of_kubernetes(manifest: Json) -> None:
    check(manifest)


def test_kustomize_puts_them_together() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    assert {each["metadata"].get("namespace") for each in made if each["kind"] != "Namespace"} == {"ladle"}
    assert len(made) == len(manifests()) + 1, "the config map besides"
    for each in made:
        check(each)


@pytest.mark.parametrize("name", ["redis", "api", "dispatcher"])
def test_every_pod_is_confined_as_the_namespace_demands(name: str) -> None:
    labels = named("Namespace", "ladle")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pods()[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
    assert spec["automountServiceAccountToken"] is (name == "dispatcher")


def test_the_dispatcher_may_do_what_it_does_and_no_more() -> None:
    rules = named("Role", "ladle-dispatcher")["rules"]
    assert {(name, verb) for rule in rules for name in rule["resources"] for verb in rule["verbs"]} == {
        *(("jobs", verb) for verb in ("create", "delete", "get", "list")),
        *(("trainjobs", verb) for verb in ("create", "delete", "get", "list")),
        *(("trainingruntimes", verb) for verb in ("create", "get")),
        *((name, "list") for name in ("pods", "events", "workloads")),
        ("services", "create"),
    }
    assert not [each for each in manifests() if each["kind"].startswith("ClusterRole")]


def test_settings_that_the_files_set_exist() -> None:
    known = {f"LADLE_{name.upper()}" for name in Settings.model_fields}
    known |= {f"LADLE_KUBERNETES_{name.upper()}" for name in KubernetesSettings.model_fields}
    assert set(variables(pods()["dispatcher"])) <= known
    assert variables(pods()["dispatcher"])["LADLE_LAUNCHER"] == "kubernetes"


def test_every_setting_is_on_the_page() -> None:
    page = (FOLDER.parents[1] / "docs/kubernetes.md").read_text()
    for name in KubernetesSettings.model_fields:
        assert f"| `LADLE_KUBERNETES_{name.upper()}` |" in page, name


def test_jobs_see_the_same_folders_at_the_same_paths_as_the_dispatcher() -> None:
    template = read_template((FOLDER / "pod.yaml").read_text())
    made = job(template, attempt())
    check(made)

    def folders(pod: Json) -> dict[str, tuple[str, bool]]:
        claims = {
            each["name"]: each["persistentVolumeClaim"]["claimName"]
            for each in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in each
        }
        container = pod["spec"]["containers"][0]
        return {
            each["mountPath"]: (claims[each["name"]], each.get("readOnly", False))
            for each in container["volumeMounts"]
            if each["name"] in claims
        }

    mine = pods()["dispatcher"]
    assert folders(made["spec"]["template"]) == folders(mine)
    assert {variables(mine)["LADLE_ROOTS"], variables(mine)["LADLE_RESULTS_DIR"]} == set(folders(mine))
    assert node_container(template)["image"].partition(":")[0] == mine["spec"]["containers"][0]["image"]


def test_secrets_are_named_and_never_written() -> None:
    texts = [path.read_text() for path in FOLDER.glob("*.yaml")]
    assert not [each for each in manifests() if each["kind"] == "Secret"]
    used = {
        volume["secret"]["secretName"]
        for pod in pods().values()
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }
    assert used == {"ladle-redis", "ladle-tokens"}
    page = (FOLDER.parents[1] / "docs/kubernetes.md").read_text()
    assert all(f"secret generic {name}" in page for name in used), "the page says how to make them"
    assert not any("password:" in text.replace("name: password", "") for text in texts)


def test_pods_of_jobs_reach_each_other_and_nothing_else() -> None:
    closed = named("NetworkPolicy", "nothing-by-default")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    spec = named("NetworkPolicy", "ranks")["spec"]
    labels = job(read_template((FOLDER / "pod.yaml").read_text()), attempt())["spec"]["template"]["metadata"]["labels"]
    selected = spec["podSelector"]["matchLabels"]
    assert selected.items() <= labels.items()
    own = [{"podSelector": {"matchLabels": selected}}]
    assert (spec["ingress"], spec["egress"]) == ([{"from": own}], [{"to": own}])
