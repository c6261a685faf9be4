"""The environment variables of ranks, and of other processes that open what strangers wrote."""

from __future__ import annotations

import os

from ladle_worker.cores import usable_cores
from ladle_worker.gang import Gang

KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "NVIDIA_VISIBLE_DEVICES"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
    *("CC", "TRITON_CACHE_DIR", "HF_HOME", "PYTHONDONTWRITEBYTECODE"),
    *("LADLE_HOST_BYTES", "LADLE_COLLECTIVE_TIMEOUT_S"),
)
"""All that ranks inherit. Addresses, passwords and tokens are not among them, because ranks open untrusted files."""

KEPT_PREFIXES = ("NCCL_", "GLOO_", "TORCH_NCCL_", "TORCH_FR_", "TORCH_GLOO_", "UCX_", "FI_", "RDMAV_")
"""How ranks reach each other, for the operator to say: interfaces, adapters, and what is recorded of it."""

RANK_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}
"""For the libraries that a task uses: nothing is downloaded, and no bars fill the log."""

LOOPBACK_ONLY = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Where ranks have a network of their own, it has no other interface, and torch would warn that no host has a name."""


def rank_environment(num_ranks: int, gang: Gang | None = None) -> dict[str, str]:
    environment = {
        name: value for name, value in os.environ.items() if name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)
    }
    threads = max(1, usable_cores() // num_ranks)
    return {
        "OMP_NUM_THREADS": str(threads),
        # numpy would start threads when it is imported, and a process with threads cannot be confined or forked. What
        # is large is torch's.
        "OPENBLAS_NUM_THREADS": "1",
        # Otherwise gloo uses the address of the host name, which may be anything.
        **({"GLOO_SOCKET_IFNAME": "lo"} if gang is None else gang.variables),
        **RANK_VARIABLES,
        "TORCHELASTIC_ERROR_FILE": os.devnull,
    } | environment
