from pathlib import Path

import pytest

from ladle_worker.launch.kubernetes.start import check_kubernetes
from ladle_worker.launch.launcher import WrongLauncher
from tests.kubernetes.stack import POD
from tests.kubernetes.stand_in import NAMESPACE, stand_in


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(POD.format(image="ladle-worker"))
    monkeypatch.setenv("LADLE_KUBERNETES_POD", str(tmp_path / "pod.yaml"))
    monkeypatch.setenv("LADLE_KUBERNETES_NAMESPACE", NAMESPACE)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("POD", "", "`LADLE_KUBERNETES_POD`"),
        ("POD", "/nowhere/pod.yaml", "`LADLE_KUBERNETES_POD` must be a file that can be read"),
        ("KIND", "deployment", "`LADLE_KUBERNETES_KIND`"),
        ("NAMESPACE", "Team A", "`LADLE_KUBERNETES_NAMESPACE`"),
        ("POLL_S", "0", "`LADLE_KUBERNETES_POLL_S`"),
    ],
)
def test_wrong_settings_are_explained_at_start(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LADLE_KUBERNETES_{name}", value)
    with pytest.raises(WrongLauncher, match=words):
        check_kubernetes()


def test_a_wrong_template_is_explained_at_start(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text("{spec: {containers: [{name: worker, image: i}]}}")
    with pytest.raises(WrongLauncher, match="must have one container named `node`, with an `image`"):
        check_kubernetes()


def test_a_cluster_that_is_away_or_refuses_is_only_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_kubernetes()
    assert "`LADLE_KUBERNETES_CONFIG` must name a kubeconfig file, or" in caplog.text
    with stand_in(tmp_path / "kubernetes", is_allowed=False) as cluster:
        monkeypatch.setenv("LADLE_KUBERNETES_CONFIG", str(cluster.config))
        check_kubernetes()
        assert "Kubernetes does not allow what the dispatcher needs" in caplog.text
        assert "jobs is forbidden" in caplog.text
        cluster.close()
        check_kubernetes()
    assert caplog.text.count("Kubernetes does not answer yet") == 2


@pytest.mark.parametrize("has_trainer", [True, False])
def test_the_cluster_is_asked_whether_it_has_kubeflow_trainer(
    has_trainer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with stand_in(tmp_path / "kubernetes", has_trainer=has_trainer) as cluster:
        monkeypatch.setenv("LADLE_KUBERNETES_CONFIG", str(cluster.config))
        check_kubernetes()
    assert f"jobs become {'trainjobs' if has_trainer else 'jobs'} in the namespace {NAMESPACE}" in caplog.text
