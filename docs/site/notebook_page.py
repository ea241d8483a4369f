"""The notebook as a page: run anew whenever the site is built, its outputs beside its lines."""

import html
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "how-to" / "notebook.ipynb"
NAME = "how-to/notebook.md"
_SECONDS = 300  # for one cell of the notebook


@cache
def page() -> str:
    """Return the page as Markdown.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell of the notebook does not run.
    """
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=_SECONDS, resources=place).execute()
    return "\n\n".join(_cell(cell) for cell in notebook.cells) + "\n"


def _cell(cell: Any) -> str:
    if cell.cell_type == "markdown":
        return str(cell.source)
    return "\n\n".join(
        [
            f"```python\n{cell.source}\n```",
            *(_output(output) for output in cell.outputs if output.get("name") != "stderr"),
        ]
    )


def _output(output: Any) -> str:
    """Return what a line of code gave: HTML or an image where there is one, else its text."""
    data = output.get("data", {})
    if "text/html" in data:
        content = data["text/html"].strip().replace("\n", " ")  # a blank line would end it, for Markdown
        return f'<div class="output">{content}</div>'
    if "image/png" in data:
        return f'<img class="output" alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = data.get("text/plain") or output.get("text", "")
    return f'<pre class="output">{html.escape(text.rstrip())}</pre>'
