"""Outcome by stage at diagnosis: a table of patients becomes curves, tests, a model that can be judged, and a page.

Knows nothing of cell images: no image carries an outcome. `table` and `cohort` read the patients, `curves` compares
the stages, `fitting` chooses and fits the models (`cox`), `scores` judges them and `study` runs all of
it; `predict` answers for one patient from plain JSON.
"""

from .cohort import read_cohort
from .model import read_model
from .predict import ask, ask_table
from .study import run_study, write_study
from .table import StudySettings

__all__ = ["StudySettings", "ask", "ask_table", "read_cohort", "read_model", "run_study", "write_study"]
