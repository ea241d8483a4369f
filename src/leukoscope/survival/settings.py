"""What `leukoscope survival fit` can be told about a table of patients."""

from pydantic import Field

from ..config import Settings
from .horizons import Unit


class StudySettings(Settings):
    """Which columns mean what, and how carefully the model is judged."""

    time: str
    """Column with the time from diagnosis (or treatment) to the event or to the last visit."""
    event: str
    """Column that says what happened at that time."""
    stage: str
    """Column with the stage, phase or risk group at diagnosis."""
    unit: Unit | None = None
    """Unit of every time in the table; None reads it from the name of the time column."""
    events: dict[str, str] = Field(default_factory=dict)
    """What the values of the event column mean: {'0': 'censored', '1': 'relapse', '2': 'death'}."""
    event_name: str = ""
    """What happens, in a word, for the page: 'death'. Empty: taken from `events` or from the column's name."""
    competing: tuple[str, ...] = ()
    """Events that make the first one impossible or change its meaning: names from `events`, or 0/1 columns."""
    competing_time: str = ""
    """Column with the time of the competing event, where it is not `time`; whichever came first counts."""
    entry: str = ""
    """Column with the time at which a patient came under observation (left truncation)."""
    landmark: str = ""
    """A time after the start, such as '6 months': who was followed to it without an event is counted from then on."""
    id: str = ""
    """Column that names the patient; empty: a column called id, patient_id, patid … if there is one."""
    covariates: tuple[str, ...] = ()
    """Further predictors; 'log(wbc)' takes a logarithm first, 'spline(age)' lets the effect of a number bend."""
    stage_order: tuple[str, ...] = ()
    """Stages from mildest to worst, where the order is not recognised."""
    stage_cuts: tuple[float, ...] = ()
    """Limits that cut a numeric stage column (a risk index) into groups; the upper limit belongs to the lower group."""
    horizons: tuple[str, ...] = ()
    """Times at which to answer: '2 years', '6 months', or bare numbers in `unit`; empty chooses from the follow-up."""
    folds: int = Field(5, ge=2, le=20)
    repeats: int = Field(5, ge=1, le=100)
    """Repetitions of the cross-validation."""
    bootstrap: int = Field(50, ge=0, le=1000)
    """Most bootstrap samples for the optimism of the apparent figures (large cohorts take fewer); 0 leaves it out."""
    seed: int = 0
