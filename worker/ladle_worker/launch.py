"""Starts the ranks of one attempt and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ladle_contracts.processes import end_with_parent
from ladle_worker.family import end_tree
from ladle_worker.job_folder import AttemptFolder

KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "NVIDIA_VISIBLE_DEVICES"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
    *("CC", "TRITON_CACHE_DIR", "HF_HOME", "PYTHONDONTWRITEBYTECODE"),
)
"""All that ranks inherit. Addresses, passwords and tokens are not among them, because ranks open untrusted files."""

RANK_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}
"""For the libraries that a task uses: nothing is downloaded, and no bars fill the log."""


class Ranks:
    """`torchrun --standalone` with its ranks, as a child of this process that never outlives it."""

    def __init__(self, folder: AttemptFolder, num_ranks: int, module: str, working_dir: Path, stdin: int) -> None:
        self._log = folder.log.open("ab")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"),
                # Without it torchrun leaves a folder in the temporary folder after every job.
                *("--max-restarts=0", f"--log-dir={folder.path / 'torchrun'}"),
                *("--no-python", sys.executable, "-u", "-m", module, str(folder.path)),
            ],
            stdin=stdin,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=working_dir,
            env=rank_environment(num_ranks),
            # It is safe here, because the prefork child has one thread and the function only makes a system call.
            preexec_fn=end_with_parent(signal.SIGKILL),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while they run."""
        return self._process.poll()

    def end(self, grace_s: float) -> None:
        """Ends the ranks, and returns when no process of the attempt is left."""
        end_tree(self._process.pid, grace_s)
        self._process.wait()
        self._log.close()


def rank_environment(num_ranks: int) -> dict[str, str]:
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
    return {
        "OMP_NUM_THREADS": str(threads),
        # Otherwise gloo uses the address of the host name, which may be anything.
        "GLOO_SOCKET_IFNAME": "lo",
        **RANK_VARIABLES,
        "TORCHELASTIC_ERROR_FILE": os.devnull,
    } | environment
