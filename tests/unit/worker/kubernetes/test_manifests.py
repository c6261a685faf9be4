from typing import Any

import pytest

from ladle_worker.launch.kubernetes.manifests import (
    WrongTemplate,
    gpus_of,
    job,
    node_container,
    pod_template,
    read_template,
    service,
    train_job,
    training_runtime,
)
from tests.unit.worker.kubernetes.examples import GPU, TEMPLATE, attempt, check

PLAIN = read_template("{spec: {containers: [{name: node, image: ladle-worker}]}}")
ATTEMPTS: list[dict[str, Any]] = [
    {},
    {"num_nodes": 1, "ranks_per_node": 4},
    {"queue": "team-a", "timeout_s": 3600},
    {"job_id": "ABCDEF01-4c57-4f0b-9d53-0e3a5b7f4c11", "number": 12345},
]


@pytest.mark.parametrize("template", [TEMPLATE, PLAIN], ids=["full", "plain"])
@pytest.mark.parametrize("changes", ATTEMPTS, ids=str)
def test_every_manifest_keeps_to_the_published_schemas(template: dict[str, Any], changes: dict[str, Any]) -> None:
    made = attempt(**changes)
    check(job(template, made))
    check(service(made, {"metadata": {"uid": "1"}}))
    check(train_job(template, made))
    check(training_runtime(template, made.keep_s))


@pytest.mark.parametrize("changes", ATTEMPTS, ids=str)
def test_names_and_labels_are_short_enough_for_pods(changes: dict[str, Any]) -> None:
    made = attempt(**changes)
    # Kubeflow Trainer's pods have the longest names.
    assert len(f"{made.name}-node-0-0") <= 63
    assert all(len(value) <= 63 and value[-1].isalnum() for value in made.labels.values())


def test_pods_run_without_privileges_and_without_a_token_of_a_service_account() -> None:
    spec = pod_template(PLAIN)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # A read-only root needs them.
    assert [each["mountPath"] for each in spec["containers"][0]["volumeMounts"]] == ["/tmp", "/dev/shm"]


def test_what_the_operator_sets_stays() -> None:
    pod = pod_template(
        read_template(
            "{spec: {securityContext: {runAsUser: 5}, terminationGracePeriodSeconds: 5, "
            "tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists}], "
            "volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 8Gi}}], containers: [{name: node, image: i, "
            "volumeMounts: [{name: shm, mountPath: /dev/shm}]}, {name: sidecar, image: s}]}}"
        )
    )
    spec = pod["spec"]
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (5, True)
    assert spec["terminationGracePeriodSeconds"] == 5
    assert [each.get("tolerationSeconds") for each in spec["tolerations"]] == [None, 30]
    assert {"name": "shm", "mountPath": "/dev/shm"} in node_container(pod)["volumeMounts"]
    assert [each["name"] for each in spec["volumes"]] == ["shm", "ladle-tmp"]
    assert spec["containers"][1] == {"name": "sidecar", "image": "s"}


def test_what_the_container_runs_is_ladles_word() -> None:
    template = read_template(
        "{spec: {restartPolicy: Always, automountServiceAccountToken: true, containers: [{name: node, image: i, "
        "command: [sh], args: [-c, true], env: [{name: LADLE_NODE_RANK, value: '7'}]}]}}"
    )
    made = job(template, attempt())["spec"]["template"]["spec"]
    container = made["containers"][0]
    assert container["command"] == ["python", "-m", "ladle_worker.launch.on_node", str(attempt().folder)]
    assert "args" not in container
    names = [each["name"] for each in container["env"]]
    assert names == ["LADLE_NUM_NODES", "LADLE_NODE_RANK", "LADLE_ADDRESS", "LADLE_MEET_S"]
    assert "value" not in container["env"][1]
    assert (made["restartPolicy"], made["automountServiceAccountToken"]) == ("Never", False)


@pytest.mark.parametrize(("ranks", "gpus"), [(None, "8"), (4, "4")])
def test_pods_ask_for_as_many_gpus_as_the_job_has_ranks_on_a_node(ranks: int | None, gpus: str) -> None:
    made = attempt(ranks_per_node=ranks)
    plain = node_container(job(TEMPLATE, made)["spec"]["template"])["resources"]
    assert plain["limits"] == {GPU: gpus, "memory": "64Gi"}
    assert train_job(TEMPLATE, made)["spec"]["trainer"]["resourcesPerNode"] == plain


def test_a_train_job_names_the_runtime_that_is_made_of_the_same_template() -> None:
    named = train_job(TEMPLATE, attempt())["spec"]["runtimeRef"]
    runtime = training_runtime(TEMPLATE, attempt().keep_s)
    assert (named["kind"], named["name"]) == ("TrainingRuntime", runtime["metadata"]["name"])
    assert training_runtime(PLAIN, attempt().keep_s)["metadata"]["name"] != named["name"]


def test_one_pod_that_fails_ends_the_attempt() -> None:
    spec = job(TEMPLATE, attempt(timeout_s=90))["spec"]
    assert (spec["backoffLimit"], spec["completionMode"], spec["activeDeadlineSeconds"]) == (0, "Indexed", 90)
    assert (spec["completions"], spec["parallelism"], spec["ttlSecondsAfterFinished"]) == (2, 2, 86400)
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailJob"]


def test_the_queue_of_kueue_is_a_label() -> None:
    for made in (job(TEMPLATE, attempt(queue="team-a")), train_job(TEMPLATE, attempt(queue="team-a"))):
        assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue.x-k8s.io/queue-name" not in job(TEMPLATE, attempt())["metadata"]["labels"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must be YAML"),
        ("", "must be a pod template"),
        ("[]", "must be a pod template"),
        ("{apiVersion: v1, kind: Pod, spec: {containers: []}}", "and nothing else"),
        ("{spec: {}}", "spec.containers"),
        ("{spec: {containers: [node]}}", "spec.containers"),
        ("{spec: {containers: [{name: worker, image: i}]}}", "one container named `node`"),
        ("{spec: {containers: [{name: node}]}}", "with an `image`"),
        ("{spec: {containers: [{name: node, image: i}, {name: node, image: i}]}}", "one container named `node`"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(text: str, words: str) -> None:
    with pytest.raises(WrongTemplate, match=words):
        read_template(text)


def test_a_number_of_gpus_must_be_whole() -> None:
    with pytest.raises(WrongTemplate, match="whole number"):
        gpus_of(
            read_template("{spec: {containers: [{name: node, image: i, resources: {limits: {gpu: half}}}]}}"), "gpu"
        )
