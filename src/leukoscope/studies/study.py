"""What every study stands on: what it was given, how large it is, and a bench that keeps each arm once it is done."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from scipy.stats import binomtest, t

from ..config import Settings
from ..errors import DataError, UnknownNameError, UsageError
from ..evaluation.intervals import Jackknife, Statistics, design_of, jackknife
from ..evaluation.metrics import Floats, Ints, accuracy, auroc, balanced_accuracy, confusion
from ..files import alone_in, provenance, read_json, write_json
from .page import Frame, Page, write_page

Say = Callable[[str], None]


class Scale(Settings):
    """How large a study is; every field can be made smaller on the command line."""

    seeds: int = Field(ge=1, le=100)
    """How often each arm is run anew: other images or subjects, other weights, another order."""
    images: int = Field(0, ge=0)
    """Labelled images that are looked at; 0 takes all."""
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
    scale: Scale
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
    scale: Scale
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


Number = dict[str, Any]
METRICS = ("auroc", "balanced_accuracy", "accuracy")
INTERVAL = (
    "95 %, of the mean over seeds, by Student's t; of shares of runs, exact (Clopper and Pearson). A seed has its own "
    "images, split and weights"
)


@dataclass(frozen=True)
class Truth:
    """What the cells that are asked for are."""

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
        """Return the mean over seeds with its limits: exact ones where a seed says yes or no, else Student's t."""
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


def _mean_of(values: Floats, *, least: float) -> Number:
    """Return mean and 95 % limits by Student's t, which is wide for few seeds, as a bootstrap of them is not.

    No value beyond what was seen is possible below `least` or above 1, unless one was seen there.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"value": None, "low": None, "high": None, "undefined": len(values)}
    mean, count = float(known.mean()), len(known)
    missing = {"undefined": len(values) - count} if count < len(values) else {}
    if count < 2:
        return {"value": mean, "low": None, "high": None} | missing
    reach = float(t.ppf(0.975, count - 1)) * float(known.std(ddof=1)) / count**0.5
    low, high = max(mean - reach, min(least, known.min())), min(mean + reach, max(1, known.max()))
    return {"value": mean, "low": float(low), "high": float(high)} | missing


def guessing(truth: Truth, *, classes: int) -> Floats:
    """Return the probabilities of who says the commonest class to every cell."""
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
