"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from measuring import device_name

from ladle_engine.versions import installed_version, versions

REPOSITORY = Path(__file__).parents[2]


def machine(device: torch.device) -> dict[str, Any]:
    """Raises `RuntimeError` where there is no such device."""
    found: dict[str, Any] = {
        "device": device_name(device),
        "cpu": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": load(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _said("git", "-C", str(REPOSITORY), "rev-parse", "HEAD"),
        "versions": versions() | {package: installed_version(package) for package in ("triton", "scikit-learn")},
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        properties = torch.cuda.get_device_properties(device)
        nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()
        found["gpu"] = {
            "count": torch.cuda.device_count(),
            "memory_bytes": total,
            "free_bytes": free,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "clocks": _said("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"),
            "others_use": _said("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, nccl)) if isinstance(nccl, tuple) else str(nccl),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }
    return found


def without_folders(text: str) -> str:
    """Where this machine keeps things is nobody's business."""
    return text.replace(f"{REPOSITORY}/", "").replace(sys.prefix, "python")


def load() -> float:
    """How many processes wanted a core in the last minute."""
    return round(os.getloadavg()[0], 1)


def _said(*command: str) -> str | None:
    """None where the program is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
