"""Notebooks: run from top to bottom, and shown as pages.

python -m docs.site.notebooks          runs each notebook of the docs anew and writes its outputs into it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(notebook: Path, folder: Path, *, timeout_s: int = 600) -> dict[str, Any]:
    """The notebook as Jupyter leaves it after "run all" in `folder`. An error in a cell is raised."""
    import nbformat  # the docs' own dependencies, which a page does not need
    from nbclient import NotebookClient

    read = nbformat.read(notebook, as_version=4)
    NotebookClient(
        read, timeout=timeout_s, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in read.cells:
        cell.metadata.pop("execution", None)  # times of day: they would change at every run
    text: dict[str, Any] = json.loads(nbformat.writes(read))
    return text


def as_markdown(notebook: Path) -> str:
    """The notebook as a page: its texts, its code, and below each cell what it printed or drew."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        elif cell["cell_type"] == "code" and text:
            parts += [f"```python\n{text}\n```", *(_output(output) for output in cell["outputs"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return "".join(data["image/svg+xml"])
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```" if text else ""


def main() -> int:
    import tempfile

    for notebook in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            done = run(notebook, Path(folder))
        notebook.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
        print(notebook.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
