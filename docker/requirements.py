"""Print the requirements of Ladle and of the extras named, one a line: `python requirements.py service`.

The image builds install these before the sources are copied in, so that a change of our code rebuilds a small layer
and not the one with torch.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Read `pyproject.toml` of the current folder and print."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    unknown = sorted(set(sys.argv[1:]) - set(extras))
    if unknown:
        sys.exit(f"`extra` must be one of {', '.join(sorted(extras))}, but is {unknown[0]!r}.")
    lines = list(project["dependencies"])
    for extra in sys.argv[1:]:
        lines += extras[extra]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
