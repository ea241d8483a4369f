"""The frame of every study: its images, its size, its stored results and its page."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from pydantic import Field
from scipy.stats import binomtest, t

from ..config import Settings
from ..errors import DataError, UnknownNameError, UsageError
from ..evaluation.intervals import Estimate, Jackknife, Statistics, design_of, jackknife
from ..evaluation.metrics import Floats, Ints, accuracy, auroc, balanced_accuracy, confusion
from ..files import lock_folder, provenance, read_json, write_json, write_text
from ..report.figures import BAD, GOOD, INK, MODEL, MUTED, SIZE, canvas, drawing, for_file

Number = Estimate


class MeanOverSeeds(Estimate):
    """A mean over seeds; undefined: in how many of them the number is not defined, where it is in any."""

    undefined: NotRequired[int]


class Difference(Estimate):
    """An estimate that a table shows with its sign."""

    signed: bool


TableValue = str | int | Number | None
_BY_THE_RUN = "<!-- Written by `{command}`; do not edit. -->"


@dataclass(frozen=True)
class Figure:
    """One drawing, in placeholder colours that the page replaces."""

    name: str
    svg: str
    words: str
    """What it shows, for those who cannot see it too."""


@dataclass(frozen=True)
class Section:
    """A heading with sentences, tables and figures under it."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[TableValue]] = ()
    figures: Sequence[Figure] = ()
    pictures: Sequence[tuple[str, str]] = ()
    """(file, words) of pictures that lie beside the page already."""


@dataclass(frozen=True)
class Page:
    """What a study found."""

    answer: str
    """One plain sentence, made of the numbers."""
    ran_on: dict[str, str]
    """Images, network, what an interval is of: fact -> words."""
    sections: list[Section]
    numbers: dict[str, Any]
    """All numbers, for JSON."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frame:
    """Title, claim, command and settings of a page."""

    name: str
    title: str
    claim: str
    command: str
    settings: dict[str, str]
    """Seeds, images, size, versions: fact -> words."""
    smaller: str
    """How the run was made small; empty for the full study."""
    synthetic: bool


def write_page(folder: Path, frame: Frame, page: Page) -> Path:
    """Write FOLDER/<name>.md, <name>.json and <name>-*.svg; return the page's path."""
    for section in page.sections:
        for figure in section.figures:
            write_text(folder / _file(frame, figure), for_file(figure.svg))
    facts = page.ran_on | frame.settings
    table = {
        "format": 1,
        "study": frame.name,
        "claim": frame.claim,
        "answer": page.answer,
        "command": frame.command,
        "ran_on": facts,
        "made_smaller": frame.smaller,
        "synthetic": frame.synthetic,
    }
    write_json(folder / f"{frame.name}.json", table | page.numbers)
    path = folder / f"{frame.name}.md"
    write_text(path, _markdown(frame, page, facts))
    return path


def table(columns: Sequence[str], rows: Sequence[Sequence[TableValue]]) -> str:
    """Return a Markdown table; numbers with an interval become 'value (low to high)'.

    >>> print(table(["arm", "AUROC"], [["model", {"value": 0.5, "low": 0.25, "high": 0.75}]]))
    | arm | AUROC |
    |---|---|
    | model | 0.500 (0.250 to 0.750) |
    """
    lines = [_row(columns), "|" + "---|" * len(columns), *(_row([shown(cell) for cell in row]) for row in rows)]
    return "\n".join(lines)


def shown(cell: TableValue, *, signed: bool = False) -> str:
    """Return a cell of a table as text.

    >>> shown({"value": 0.1, "low": None, "high": None}), shown(1200), shown(None)
    ('0.100 (no interval)', '1,200', '–')
    """
    if cell is None or (isinstance(cell, dict) and cell["value"] is None):
        return "–"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, str):
        return cell
    sign = "+" if signed or cell.get("signed") else ""
    value, low, high = (None if cell[each] is None else f"{cell[each]:{sign}.3f}" for each in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if low is not None and high is not None else f"{value} (no interval)"


def signed(difference: Number) -> Difference:
    """Mark a number as a difference, so that its sign is shown."""
    return {**difference, "signed": True}


def _markdown(frame: Frame, page: Page, facts: dict[str, str]) -> str:
    blocks = [_BY_THE_RUN.format(command=frame.command), f"# {frame.title}"]
    blocks += [f"**Claim.** {frame.claim}", f"**Answer.** {page.answer}", *_warnings(frame)]
    for section in page.sections:
        blocks += [f"## {section.title}", *([section.text] if section.text else [])]
        blocks += [table(section.columns, section.rows)] if section.rows else []
        blocks += [f"![{figure.words}]({_file(frame, figure)})\n\n*{figure.words}*" for figure in section.figures]
        blocks += [f"![{words}]({file})\n\n*{words}*" for file, words in section.pictures]
    blocks += ["## What it ran on", table(["", ""], [[name, words] for name, words in facts.items()])]
    blocks += ["\n".join(f"- {note}" for note in page.notes)] if page.notes else []
    blocks += [f"Run it again; on the full release give its folder to `--data`:\n\n```sh\n{frame.command}\n```"]
    blocks += [f"All numbers: [{frame.name}.json]({frame.name}.json)."]
    return "\n\n".join(blocks) + "\n"


def _warnings(frame: Frame) -> list[str]:
    warnings = []
    if frame.smaller:
        warnings.append(f"> **Made small.** {frame.smaller} It shows that the study runs, and no more.")
    if frame.synthetic:
        warnings.append("> **Synthetic cells.** The program drew these cells itself: nothing here is about blood.")
    return warnings


def _file(frame: Frame, figure: Figure) -> str:
    return f"{frame.name}-{figure.name}.svg"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


COLOURS = (MODEL, SIZE, GOOD, BAD, MUTED, INK)
_MARKS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Line:
    """One line with its band."""

    x: Sequence[float]
    numbers: Sequence[Number]
    """value, low, high at each x; a band only where there is one."""
    dashed: bool = False


def dots(
    name: str,
    rows: Mapping[str, Number],
    *,
    x: str,
    chance: float | None = None,
    beside: Mapping[str, Number] | None = None,
    legend: tuple[str, str] = ("", ""),
) -> str:
    """Draw one dot with its interval per row, the first on top; a dotted line for guessing.

    beside: a second dot of some rows, a little lower; `legend` then names the first and the second.
    """
    with canvas(height=0.9 + 0.34 * len(rows) + (0.6 if beside else 0)) as (figure, axes):
        if chance is not None:
            axes.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        for place, row in enumerate(rows):
            _dot(axes, rows[row], place - (0.15 if beside else 0), series=0)
            if beside and row in beside:
                _dot(axes, beside[row], place + 0.15, series=1)
        if beside:
            for series, label in enumerate(legend):
                axes.plot([], [], color=COLOURS[series], marker=_MARKS[series], linestyle="", label=label)
            figure.legend(fontsize=8.5, loc="outside upper right")
        axes.set_yticks(range(len(rows)), list(rows), fontsize=9.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(x)
        axes.grid(visible=False, axis="y")
        return drawing(figure, name)


def _dot(axes: Any, number: Number, place: float, *, series: int) -> None:
    if number["value"] is None:
        return
    colour = COLOURS[series]
    if number["low"] is not None:
        axes.hlines(place, number["low"], number["high"], color=colour, linewidth=2.5, alpha=0.45)
    axes.plot(number["value"], place, color=colour, marker=_MARKS[series], markersize=6)


def lines(
    name: str, drawn: Mapping[str, Line], *, x: str, y: str, log: bool = False, chance: float | None = None
) -> str:
    """Draw lines with their bands, each with its colour and marker."""
    with canvas(height=3.2) as (figure, axes):
        if chance is not None:
            axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        for place, (label, line) in enumerate(drawn.items()):
            _line(axes, line, label=label, place=place)
        if log:
            axes.set_xscale("log")
            places = sorted({each for line in drawn.values() for each in line.x})
            axes.set_xticks(places, [f"{each:,.0f}" for each in places], fontsize=9)
            axes.set_xticks([], minor=True)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(fontsize=8.5, loc="best")
        return drawing(figure, name)


def _line(axes: Any, line: Line, *, label: str, place: int) -> None:
    colour, mark = COLOURS[place % len(COLOURS)], _MARKS[place % len(_MARKS)]
    value, low, high = (
        np.array([np.nan if n[each] is None else n[each] for n in line.numbers]) for each in ("value", "low", "high")
    )
    axes.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)
    style, mark = ((0, (3, 2)), "") if line.dashed else ("-", mark)
    axes.plot(line.x, value, color=colour, marker=mark, markersize=4, linestyle=style, label=label)


def confusions(name: str, tables: Mapping[str, Sequence[Sequence[float]]], *, labels: Sequence[str]) -> str:
    """Draw confusion matrices side by side; depth of colour is the share of the true class, numbers are means."""
    with canvas(height=2.4) as (figure, first):
        figure.delaxes(first)
        for axes, (title, matrix) in zip(
            figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True
        ):
            _matrix(axes, np.array(matrix, dtype=float), labels=labels)
            axes.set_title(title, fontsize=10)
        return drawing(figure, name)


def _matrix(axes: Any, matrix: Any, *, labels: Sequence[str]) -> None:
    size, shares = len(labels), matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-9)
    for row, column in np.ndindex(size, size):
        colour = MODEL if row == column else SIZE
        alpha = 0.08 + 0.42 * shares[row, column]
        axes.axhspan(row - 0.48, row + 0.48, (column + 0.02) / size, (column + 0.98) / size, color=colour, alpha=alpha)
        axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", fontsize=12)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xticks(range(size), labels, fontsize=9)
    axes.set_yticks(range(size), labels, fontsize=9, rotation=90, va="center")
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("is", fontsize=9)
    axes.grid(visible=False)
    axes.tick_params(length=0)


Say = Callable[[str], None]


class StudySize(Settings):
    """How large a study is; every field can be made smaller on the command line."""

    seeds: int = Field(ge=1, le=100)
    """How often each arm is run anew: other images or subjects, other weights, another order."""
    images: int = Field(0, ge=0)
    """Number of labelled images; 0 takes all."""
    size: int = Field(ge=16, le=1024)
    """Side of the crops, px."""
    epochs: int = Field(1, ge=1)
    """Where a network is trained."""


@dataclass(frozen=True)
class Study:
    """One claim and the experiment that tests it."""

    name: str
    title: str
    claim: str
    scale: StudySize
    run: Callable[["Bench"], Page]


@dataclass(frozen=True)
class Given:
    """Where the images of a study come from."""

    data: Path | None = None
    """C-NMC, or any folder of cells that `leukoscope run` takes."""
    fields: Path | None = None
    """A folder of smear fields by class, for studies that cross over to them."""
    synthetic: int = 0
    offline: bool = False
    """Never ask a model hub: networks whose weights are not at hand start from random ones."""
    recipes: tuple[str, ...] = ()
    """Recipes that `generalisation` runs; of all others it then shows what was finished before."""

    def words(self) -> str:
        """Return the options of the command that gave this."""
        options = [f"--data {self.data}"] * bool(self.data) + [f"--synthetic {self.synthetic}"] * bool(self.synthetic)
        options += [f"--fields {self.fields}"] * bool(self.fields) + ["--offline"] * self.offline
        options += [f"--recipe '{name}'" for name in self.recipes]
        return " ".join(options)


@dataclass(frozen=True)
class Bench:
    """Where a study is run: its images, its scale, and the folder that keeps what is done."""

    study: Study
    given: Given
    scale: StudySize
    work: Path
    say: Say
    output: Path = Path()
    """Folder of the page; what takes hours is kept there, beside the page, to be shared with it."""

    @property
    def seeds(self) -> range:
        """Return the seeds of the study."""
        return range(self.scale.seeds)

    @property
    def smaller(self) -> dict[str, tuple[int, int]]:
        """Return what differs from the full study: name -> (here, in full)."""
        here, full = self.scale.model_dump(), self.study.scale.model_dump()
        return {name: (here[name], full[name]) for name in here if here[name] != full[name]}

    def kept(self, arm: str, settings: dict[str, Any], work: Callable[[], Any] | None) -> Any:
        """Return the JSON value that `work` gives, from the disk where the same arm was finished before.

        Without `work` an arm that was not finished is None.

        settings: everything that decides the value beside the scale; an arm with other settings is run anew. How many
        seeds there are decides nothing: more can be added later.
        """
        path = self.work / self.study.name / f"{arm}.json"
        given = replace(self.given, recipes=()).words()
        settings = settings | {"scale": self.scale.model_dump(exclude={"seeds"}), "given": given}
        if (found := _finished(path, settings)) is not None:
            return found
        if work is None:
            return None
        began = time.perf_counter()
        result = work()
        seconds = round(time.perf_counter() - began, 1)
        write_json(path, {"settings": settings, "seconds": seconds, "result": result})
        self.say(f"{self.study.name}: {arm}, {seconds:.0f} s")
        return result

    def need_data(self) -> Path:
        """Return the folder of cells.

        Raises:
            UsageError: none was given.
        """
        if self.given.data is None:
            raise UsageError(
                f"{self.study.name} needs images: give --data FOLDER, or --synthetic 600 for synthetic cells."
            )
        return self.given.data


def _finished(path: Path, settings: dict[str, Any]) -> Any:
    """Return the result of an arm that was finished with these settings, else None."""
    try:
        kept = read_json(path)
    except DataError:  # not there, or not whole: run it
        return None
    same = isinstance(kept, dict) and kept.get("settings") == settings
    return kept["result"] if same else None


METRICS = ("auroc", "balanced_accuracy", "accuracy")
INTERVAL = (
    "95 %, of the mean over seeds, by Student's t; of shares of runs, exact (Clopper and Pearson). A seed has its own "
    "images, split and weights"
)


@dataclass(frozen=True)
class Truth:
    """Labels and subject groups of the test cells."""

    labels: Ints
    groups: Ints
    """Code of the unit that is left out in turn: the subject group."""

    def pick(self, rows: Ints) -> "Truth":
        """Return only these cells."""
        return Truth(self.labels[rows], np.unique(self.groups[rows], return_inverse=True)[1].astype(np.int64))


def sampled(truth: Truth, arms: Mapping[str, Sequence[Floats]]) -> Jackknife:
    """Measure every arm on all cells, and with each of their subject groups left out.

    arms: name -> the probabilities (cells, classes) of each seed; an arm's number is the mean over its seeds.
    """

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for name, seeds in arms.items():
            each = [_measure(truth, chances, weights) for chances in seeds]
            values |= {f"{name}.{metric}": np.mean([one[metric] for one in each], axis=0) for metric in METRICS}
        return values

    return jackknife(statistic, design_of(truth.labels, truth.groups), cells=len(truth.labels))


def _measure(truth: Truth, chances: Floats, weights: Floats) -> Statistics:
    classes = chances.shape[1]
    table = confusion(truth.labels, chances.argmax(1), classes=classes, weights=weights, groups=truth.groups)
    return {
        "auroc": auroc(truth.labels, chances, weights=weights, groups=truth.groups),
        "balanced_accuracy": balanced_accuracy(table),
        "accuracy": accuracy(table),
    }


def numbers_of(found: Jackknife, arms: Sequence[str]) -> dict[str, dict[str, Number]]:
    """Return {arm: {metric: value, low, high}}."""
    return {arm: {metric: found.interval(f"{arm}.{metric}") for metric in METRICS} for arm in arms}


def differences_of(found: Jackknife, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, Number]]:
    """Return {'arm - other': {metric: value, low, high}}, paired cell by cell."""
    return {
        f"{arm} - {other}": {metric: found.difference(f"{arm}.{metric}", f"{other}.{metric}") for metric in METRICS}
        for arm, other in pairs
    }


@dataclass(frozen=True)
class Seeds:
    """One number per seed of several quantities, in the same order of seeds, so that differences are paired."""

    values: dict[str, Floats]

    def interval(self, name: str) -> Number:
        """Return the mean over seeds with its limits: exact ones where a seed gives yes or no, else Student's t."""
        each = self.values[name]
        if np.isin(each, (0, 1)).all():
            low, high = binomtest(int(each.sum()), len(each)).proportion_ci(method="exact")
            return {"value": float(each.mean()), "low": float(low), "high": float(high)}
        return _mean_of(each, least=0)

    def difference(self, name: str, other: str) -> Number:
        """Return the mean over seeds of name minus other, with its limits."""
        return _mean_of(self.values[name] - self.values[other], least=-1)


def over_seeds(values: Mapping[str, Sequence[float]]) -> Seeds:
    """Return means over seeds with 95 % intervals; with one seed there is none."""
    return Seeds({name: np.array(each, dtype=float) for name, each in values.items()})


def _mean_of(values: Floats, *, least: float) -> MeanOverSeeds:
    """Return mean and 95 % limits by Student's t, which is wide for few seeds, as a bootstrap of them is not.

    No value beyond what was seen is possible below `least` or above 1, unless one was seen there.
    """
    known = values[np.isfinite(values)]
    found: MeanOverSeeds = {"value": None, "low": None, "high": None}
    if len(known) < len(values):
        found["undefined"] = len(values) - len(known)
    if not len(known):
        return found
    mean, count = float(known.mean()), len(known)
    found["value"] = mean
    if count < 2:
        return found
    reach = float(t.ppf(0.975, count - 1)) * float(known.std(ddof=1)) / count**0.5
    found["low"] = float(max(mean - reach, min(least, known.min())))
    found["high"] = float(min(mean + reach, max(1, known.max())))
    return found


def guessing(truth: Truth, *, classes: int) -> Floats:
    """Return the probabilities of always predicting the majority class."""
    share = np.bincount(truth.labels, minlength=classes) / len(truth.labels)
    return np.tile(share, (len(truth.labels), 1))


def beyond_chance(difference: Number) -> int:
    """Return 1 or -1 where the whole interval lies above or below zero, else 0."""
    if difference["low"] is None or difference["high"] is None:
        return 0
    return int(difference["low"] > 0) - int(difference["high"] < 0)


# name -> module; the order is that in which they are best read
_MODULES = {
    "ellassir-2022": "ellassir_2022",
    "more-layers": "more_layers",
    "learning-curve": "learning_curve",
    "leak": "leak",
    "generalisation": "generalisation",
    "adaptation": "adaptation_curve",
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
    smaller: fields of StudySize that differ from the full study.

    Raises:
        UnknownNameError: there is no such study.
        UsageError: it was given no images, or another process works in `work`.
        DataError: its images cannot be used, or are too few.
    """
    study = find(name)
    scale = StudySize.model_validate(study.scale.model_dump() | smaller)
    bench = Bench(study, given, scale, work, say, output)
    _refuse_inside(given, work)
    (work / study.name).mkdir(parents=True, exist_ok=True)
    with lock_folder(work / study.name):
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


def _settings(scale: StudySize, facts: dict[str, Any]) -> dict[str, str]:
    packages = [f"{name} {facts['packages'][name]}" for name in _VERSIONS if name in facts["packages"]]
    return {
        "Seeds": f"{scale.seeds} (0 to {scale.seeds - 1})",
        "Crops": f"{scale.size} px",
        "Versions": ", ".join([f"leukoscope {facts['version']}", f"Python {facts['python']}", *packages]),
    }


def _refuse_inside(given: Given, work: Path) -> None:
    for folder in filter(None, (given.data, given.fields)):
        if folder.is_dir() and work.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{work} lies inside {folder}, where its pictures would be read as cells. "
                "Choose a folder outside with --work."
            )
