"""The reference of the Python packages, from their docstrings: one page per package."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leukoscope"
FOLDER = "reference/python"
PACKAGES = (
    "bundle",
    "data",
    "evaluation",
    "fields",
    "images",
    "inference",
    "interop",
    "models",
    "report",
    "survival",
    "training",
)
GROUND = ("config", "errors", "files", "progress", "explanation", "pipeline", "exporting", "adaptation")
_INDEX = f"""# Python

The command line is a thin skin over these. What most programs need is one call:

```python
import leukoscope

predictor = leukoscope.load()  # or the folder of another bundle
opinions = predictor.predict(["runs/demo/synthetic/blast/P02_000.png"])
print(opinions[0].decision, opinions[0].reason)
```

::: leukoscope.inference.predictor.load

::: leukoscope.inference.predictor.Predictor

::: leukoscope.inference.opinions.Opinion

The reading room answers over HTTP instead, and describes itself at `/api/v1/openapi.json`. Packages:
{", ".join(f"[{package}]({package}.md)" for package in PACKAGES)}, and [single modules](modules.md).
"""


def names() -> list[str]:
    """Return the paths of all these pages."""
    return [f"{FOLDER}/{name}.md" for name in ("index", *PACKAGES, "modules")]


def pages() -> dict[str, str]:
    """Return path -> Markdown; mkdocstrings fills in what the docstrings say."""
    packages = {f"{FOLDER}/{package}.md": _package(package) for package in PACKAGES}
    single = "\n\n".join(["# Single modules", *(f"::: leukoscope.{name}" for name in GROUND)])
    return {f"{FOLDER}/index.md": _INDEX, **packages, f"{FOLDER}/modules.md": single}


def _package(package: str) -> str:
    doc = ast.get_docstring(ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = sorted(path.stem for path in (SOURCE / package).glob("[!_]*.py"))
    return "\n\n".join([f"# {package}", doc, *(f"::: leukoscope.{package}.{name}" for name in modules)])
