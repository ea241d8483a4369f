"""The studies by name, and one of them from its images to its page."""

import importlib
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError, UsageError
from ..files import alone_in, provenance
from .page import Frame, write_page
from .study import Bench, Given, Say, Scale, Study

# name -> module; the order is that in which they are best read
_MODULES = {
    "ellassir-2022": "ellassir_2022",
    "more-layers": "more_layers",
    "learning-curve": "learning_curve",
    "leak": "leak",
    "generalisation": "generalisation",
    "transfer": "transfer",
    "shortcuts": "shortcuts",
    "stain": "stain",
    "subtypes": "subtypes",
}
_VERSIONS = ("numpy", "scikit-learn", "torch", "timm", "onnxruntime")


def names() -> list[str]:
    """Return the names of all studies."""
    return list(_MODULES)


def find(name: str) -> Study:
    """Return a study.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in _MODULES:
        raise UnknownNameError("study", name, _MODULES)
    study: Study = importlib.import_module(f".{_MODULES[name]}", __package__).STUDY
    return study


def reproduce(name: str, given: Given, output: Path, *, work: Path, smaller: dict[str, int], say: Say) -> Path:
    """Run a study, or what is left of it, and write its page; return the page's path.

    output: where page, figures and JSON go. work: where finished arms, features and packs are kept.
    smaller: fields of Scale that differ from the full study.

    Raises:
        UnknownNameError: there is no such study.
        UsageError: it was given no images, or another process works in `work`.
        DataError: its images cannot be used, or are too few.
    """
    study = find(name)
    scale = Scale.model_validate(study.scale.model_dump() | smaller)
    bench = Bench(study, given, scale, work, say, output)
    _refuse_inside(given, work)
    (work / study.name).mkdir(parents=True, exist_ok=True)
    with alone_in(work / study.name):
        page = study.run(bench)
    return write_page(output, _frame(bench, smaller), page)


def _frame(bench: Bench, smaller: dict[str, int]) -> Frame:
    study, facts = bench.study, provenance()
    options = " ".join(f"--{key} {value}" for key, value in smaller.items())
    command = " ".join(filter(None, ["leukoscope reproduce", study.name, bench.given.words(), options]))
    settings = _settings(bench.scale, facts)
    changed = ", ".join(f"{key} {here} instead of {full}" for key, (here, full) in bench.smaller.items())
    words = f"This run had {changed}." if changed else ""
    return Frame(study.name, study.title, study.claim, command, settings, words, bool(bench.given.synthetic))


def _settings(scale: Scale, facts: dict[str, Any]) -> dict[str, str]:
    packages = [f"{name} {facts['packages'][name]}" for name in _VERSIONS if name in facts["packages"]]
    return {
        "Seeds": f"{scale.seeds} (0 to {scale.seeds - 1})",
        "Crops": f"{scale.size} px",
        "Versions": ", ".join([f"leukoscope {facts['version']}", f"Python {facts['python']}", *packages]),
    }


def _refuse_inside(given: Given, work: Path) -> None:
    for folder in filter(None, (given.data, given.fields)):
        if folder.is_dir() and work.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{work} lies inside {folder}, where its pictures would be read as cells. "
                            "Choose a folder outside with --work.")  # fmt: skip
