"""Lets torchvision's Python part load beside a torch whose operators it was not built for, such as the CPU wheel.

Only for tests' child processes, which get this folder on their PYTHONPATH. Nothing that is tested uses torchvision's
compiled operators: `nms` and the like are for detection.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _BeforeTorchvision(MetaPathFinder):
    """Sees that torchvision is about to be imported, and finds nothing itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _pass_over_its_operators()


def _pass_over_its_operators() -> None:
    import torch.library

    register_fake: Any = torch.library.register_fake

    def registered(operator: Any, *arguments: Any, **options: Any) -> Any:
        if str(operator).startswith("torchvision::"):
            return lambda function: function
        return register_fake(operator, *arguments, **options)

    torch.library.register_fake = registered


sys.meta_path.insert(0, _BeforeTorchvision())
