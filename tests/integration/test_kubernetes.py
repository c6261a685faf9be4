"""The short form of `tests/kubernetes`: a dispatcher hands a job over to a cluster, which is a stand-in."""

from pathlib import Path

import pytest

from ladle_contracts import JobState, Reason
from tests.builders import make_checkpoints, make_val_set
from tests.kubernetes.stack import kubernetes_stack
from tests.polling import until

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_checkpoints(tmp_path / "data/checkpoints")
    make_val_set(tmp_path / "data/val.npz")
    return tmp_path / "data"


def test_a_job_runs_as_a_pod_after_its_reasons_to_wait_were_told_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    with kubernetes_stack(tmp_path, data, room=0) as stack:
        stack.kubernetes.is_allowed = False
        job = stack.made.submit(stack.spec())
        stack.wait_for_reason(job, "is not allowed by Kubernetes for now: ")
        stack.kubernetes.is_allowed = True
        stack.wait_for_reason(job, "Insufficient nvidia.com/gpu")
        stack.kubernetes.room = 1
        ended = stack.made.finish(job)
        assert (ended.state, ended.attempt, ended.nodes) == (JobState.SUCCEEDED, 1, ("dispatcher",)), ended
        assert len(stack.alpha()) == len(list((data / "checkpoints").glob("*.safetensors")))
        until(stack.is_clean, what="all of the job to go")
        assert stack.used_rights() <= stack.allowed_rights()


def test_a_job_that_the_cluster_can_never_run_fails_in_its_words(tmp_path: Path, data: Path) -> None:
    with kubernetes_stack(tmp_path, data, images=set(), settings={"KUBERNETES_PATIENCE_S": "1"}) as stack:
        ended = stack.made.finish(stack.made.submit(stack.spec()))
        assert (ended.state, ended.reason) == (JobState.FAILED, Reason.LAUNCH_FAILED)
        assert ended.message is not None
        assert 'Back-off pulling image "ladle-worker": not found' in ended.message
        until(stack.is_clean, what="all of the job to go")
