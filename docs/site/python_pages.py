"""The reference of the Python rooms, from their docstrings: one page per room."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leukoscope"
FOLDER = "reference/python"
ROOMS = (
    "data", "evaluation", "explain", "fields", "inference", "interop", "models", "report", "smears", "survival",
    "training",
)  # fmt: skip
GROUND = ("config", "errors", "artifacts", "progress", "pipeline", "export", "adapt")
_INDEX = f"""# Python

The command line is a thin skin over these. What most programs need is one call:

```python
import leukoscope

predictor = leukoscope.load()  # or the folder of another bundle
opinions = predictor.predict(["runs/demo/painted/blast/P02_000.png"])
print(opinions[0].decision, opinions[0].reason)
```

::: leukoscope.inference.predictor.load

::: leukoscope.inference.predictor.Predictor

::: leukoscope.inference.opinion.Opinion

The reading room answers over HTTP instead, and describes itself at `/api/v1/openapi.json`. Rooms:
{", ".join(f"[{room}]({room}.md)" for room in ROOMS)}, and [single modules](modules.md).
"""


def names() -> list[str]:
    """Return the paths of all these pages."""
    return [f"{FOLDER}/{name}.md" for name in ("index", *ROOMS, "modules")]


def pages() -> dict[str, str]:
    """Return path -> Markdown; mkdocstrings fills in what the docstrings say."""
    rooms = {f"{FOLDER}/{room}.md": _room(room) for room in ROOMS}
    single = "\n\n".join(["# Single modules", *(f"::: leukoscope.{name}" for name in GROUND)])
    return {f"{FOLDER}/index.md": _INDEX, **rooms, f"{FOLDER}/modules.md": single}


def _room(room: str) -> str:
    doc = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = sorted(path.stem for path in (SOURCE / room).glob("[!_]*.py"))
    return "\n\n".join([f"# {room}", doc, *(f"::: leukoscope.{room}.{name}" for name in modules)])
