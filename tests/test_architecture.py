"""The layers of the package: imports point down, PyTorch stays where gradients are, importing does nothing."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "leukoscope"

# From the lowest layer up. A package may import from lower layers, never from its own or a higher one.
LAYERS = [
    {"errors"},
    {"files", "progress"},
    {"config"},
    {"images"},
    {"data"},
    {"models", "bundle", "evaluation", "explanation"},
    {"training", "fields", "survival", "interop"},
    {"inference"},
    {"report"},
    {"adaptation"},
    {"pipeline", "exporting", "server"},
    {"studies"},
    {"api"},
    {"cli"},
]
LAYER = {package: height for height, packages in enumerate(LAYERS) for package in packages}
MAY_IMPORT_TORCH = {"models", "training"}
FILES = sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path, *, inside: bool = True) -> list[str]:
    """Return every module a file imports, such as leukoscope.data.cells; `inside` adds the imports in functions."""
    package = ["leukoscope", *path.relative_to(SOURCE).parts[:-1]]
    found: list[str] = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found += [".".join([*module, alias.name]) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    package = package_of(path)
    if package in ("__init__", "__main__"):
        return
    assert package in LAYER, f"{package} has no layer: add it to LAYERS where it belongs"
    for name in imports_of(path):
        steps = name.split(".")
        if steps[0] == "leukoscope" and len(steps) > 1 and steps[1] in LAYER and steps[1] != package:
            assert LAYER[steps[1]] < LAYER[package], (
                f"{package} imports {name}, which is not in a lower layer. Move what both need down, or hand it in."
            )
        if steps[0] == "torch":
            assert package in MAY_IMPORT_TORCH, f"{package} imports torch. Only models and training may."


def module_of(path: Path) -> str:
    return ".".join(["leukoscope", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in FILES}
    needs = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports_of(path, inside=False)}
        for module, path in modules.items()
    }
    list(
        TopologicalSorter({module: names & modules.keys() - {module} for module, names in needs.items()}).static_order()
    )


def test_no_line_is_kept_from_the_formatter() -> None:
    directives = ["fmt: " + "skip", "fmt: " + "off"]
    python = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in python if any(each in path.read_text(encoding="utf-8") for each in directives)] == []


def test_help_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from leukoscope.cli import leukoscope;"
        "assert CliRunner().invoke(leukoscope, ['--help']).exit_code == 0;"
        "print(sorted({'numpy', 'torch', 'sklearn', 'matplotlib', 'onnxruntime', 'pydantic'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
