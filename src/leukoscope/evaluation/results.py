"""The shape of metrics.json, which the report, the export and the terminal read, and of what comparisons return."""

from typing import NotRequired, TypedDict

from .intervals import Band, Estimate

Estimates = dict[str, Estimate]
"""Metric -> estimate."""


class ClassFigures(TypedDict):
    """One class against all others; support: test cells of the class."""

    precision: Estimate
    recall: Estimate
    f1: Estimate
    support: int


class Figures(TypedDict):
    """All figures of one weighting of the test cells."""

    estimators: dict[str, Estimates]
    """'model' and each baseline ('majority', 'size', 'colour') -> its figures."""
    differences: dict[str, Estimates]
    """Baseline -> model minus baseline."""
    per_class: dict[str, ClassFigures]
    operating_points: dict[str, Estimates]
    """Operating point -> sensitivity and specificity at its thresholds."""


class Verdict(TypedDict):
    """What the figures mean, in words, and what the words rest on."""

    text: str
    level: str
    """'fail', 'caution' or 'good'."""
    beats_baseline: bool
    beats_size: bool | None
    one_class: bool
    leaky: bool
    synthetic: bool


class TestedCells(TypedDict):
    """The test cells, counted."""

    cells: int
    subjects: int
    groups: int
    source: list[str]
    synthetic: bool
    per_class: dict[str, int]
    groups_per_class: dict[str, int]
    fingerprint: str


class SplitFacts(TypedDict):
    """The split that the figures belong to."""

    scheme: str
    folds: int
    leaky: bool
    hash: str


class Confusion(TypedDict):
    """Test cells by true class (rows) and decided class (columns)."""

    labels: list[str]
    matrix: list[list[int]]


class SubjectRow(TypedDict):
    """One tested subject group; the last three keys with two classes only."""

    group: str
    subjects: list[str]
    label: str
    """Its class, or 'mixed'."""
    part: str
    fold: list[int]
    cells: int
    wrong: int
    accuracy: float | None
    mean_prob_positive: NotRequired[float | None]
    quartiles_prob_positive: NotRequired[list[float | None]]
    called: NotRequired[str | None]
    """The class that most of its cells are given; None for a mixed group."""


class CurveByClass(TypedDict):
    """A curve of each class over one grid; value, low and high repeat it where there is one class only."""

    grid: list[float]
    classes: dict[str, Band]
    value: NotRequired[list[float | None]]
    low: NotRequired[list[float | None]]
    high: NotRequired[list[float | None]]


class GridBand(Band):
    """A curve over a grid."""

    grid: list[float]


class ReliabilityDiagram(Band):
    """Frequency of the disease by bins of its probability."""

    edges: list[float]
    cells: list[int]
    mean_probability: list[float | None]


class DecisionCurve(TypedDict):
    """Net benefit by threshold probability: of the model, of calling every cell the disease, and their difference."""

    grid: list[float]
    model: Band
    all: Band
    gain: Band


class Curves(TypedDict):
    """All curves; calibration and decision with two classes only."""

    roc: CurveByClass
    pr: CurveByClass
    reliability: ReliabilityDiagram
    risk_coverage: GridBand
    calibration: NotRequired[GridBand]
    decision: NotRequired[DecisionCurve]


class FoldRow(TypedDict):
    """One fold: how it was calibrated, and its figures per cell."""

    fold: int
    cells: int
    groups: int
    temperature: float
    threshold: float | None
    thresholds: dict[str, float] | None
    calibrated: bool
    note: str
    metrics: dict[str, float | None]


class IntervalFacts(TypedDict):
    """How the intervals were computed."""

    method: str
    unit: str
    groups: int
    least_per_class: int
    replicates: int
    seed: int


class ComparisonIntervals(TypedDict):
    """How the intervals of a comparison were computed."""

    method: str
    unit: str
    least_per_class: int


class ComparedFigures(TypedDict):
    """Figures of two runs on the cells that both tested, and B minus A."""

    a: Estimates
    b: Estimates
    differences: Estimates


class Comparison(ComparedFigures):
    """Two runs compared; the figures at the top level are per cell, 'a' and 'b' inside name the runs."""

    format: int
    runs: dict[str, str]
    classes: list[str]
    cells: dict[str, int]
    """'shared', and those that 'a' and 'b' tested."""
    groups: int
    leaky: dict[str, bool]
    synthetic: bool
    headline: str
    subject_weighted: ComparedFigures
    lower_is_better: list[str]
    intervals: ComparisonIntervals


class Agreement(TypedDict):
    """How far readers agree on the cells that all of them have read."""

    cells: int
    subjects: int
    statistic: str
    """Cohen's or Fleiss' kappa."""
    unit: str
    """What is left out for the intervals: subjects or cells."""
    percent: Estimate
    """Share of equal pairs of answers."""
    kappa: Estimate


class DifferingCell(TypedDict):
    """A cell on which readers differ."""

    cell: int
    answers: dict[str, str]
    """Reader -> label."""
    stands: str
    """The label that counts; empty where nothing is settled."""
    by: str
    """How it was settled: 'majority', 'third reader', 'consensus' or ''."""


class CaseAgreement(Agreement):
    """How far the readers of one case agree."""

    readers: list[str]
    read: int
    differ: list[DifferingCell]


class SubgroupFigures(TypedDict):
    """Figures of the cells of a subgroup, and their differences to all other cells."""

    auroc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    balanced_accuracy: Estimate
    accuracy: Estimate
    differences: Estimates


class Subgroup(TypedDict):
    """The cells with one value of a column."""

    column: str
    value: str
    cells: int
    groups: int
    cells_per_class: list[int]
    subject_weighted: SubgroupFigures
    per_cell: SubgroupFigures


class Metrics(Figures):
    """metrics.json; the figures at the top level are per cell."""

    format: int
    classes: list[str]
    positive: str
    """The disease; empty with more than two classes."""
    verdict: Verdict
    notes: list[str]
    data: TestedCells
    split: SplitFacts
    headline: str
    subject_weighted: Figures
    confusion: Confusion
    subjects: list[SubjectRow]
    """The worst first."""
    worst_subject: str
    curves: Curves
    folds: list[FoldRow]
    intervals: IntervalFacts
    subgroups: list[Subgroup]
