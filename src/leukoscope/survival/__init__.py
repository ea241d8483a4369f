"""Outcome by stage at diagnosis: a table of patients becomes curves, tests, a model that can be judged, and a page.

Knows nothing of cell images: no image carries an outcome. The path is cohort → curves, comparison → cox, aft,
fine_gray → judgement → study; `model` predicts from plain JSON with numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cohort import read_cohort as read_cohort
    from .model import read_model as read_model
    from .predict import ask as ask
    from .predict import ask_table as ask_table
    from .settings import StudySettings as StudySettings
    from .study import run_study as run_study
    from .study import write_study as write_study

__all__ = ["StudySettings", "ask", "ask_table", "read_cohort", "read_model", "run_study", "write_study"]

_MODULES = {
    "StudySettings": "settings",
    "ask": "predict",
    "ask_table": "predict",
    "read_cohort": "cohort",
    "read_model": "model",
    "run_study": "study",
    "write_study": "study",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'leukoscope.survival' has no attribute '{name}'")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
