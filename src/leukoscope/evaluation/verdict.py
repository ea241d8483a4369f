"""The first line of every report: what the numbers mean, in plain words, before any of them is seen."""

from collections.abc import Sequence

from .intervals import LEAST, Estimate
from .results import ComparedFigures, Comparison, Estimates, Metrics, Verdict

_PLAIN = {
    "all": "leukemia cells",
    "blast": "leukemia cells",
    "blasts": "leukemia cells",
    "leukemia": "leukemia cells",
    "hem": "normal cells",
    "normal": "normal cells",
}

_BESIDE_GUESSING = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


def cells_called(name: str) -> str:
    """Return a class in plain words.

    >>> cells_called("hem"), cells_called("Pre")
    ('normal cells', 'Pre cells')
    """
    return _PLAIN.get(name.lower(), f"{name} cells")


def verdict(
    *,
    classes: tuple[str, ...],
    model: Estimates,
    differences: dict[str, Estimates],
    one_class: str,
    leaky: bool,
    synthetic: bool,
    groups: dict[str, int],
) -> Verdict:
    """Judge a run by its figures with equal weight for every subject group.

    differences: baseline -> metric -> model minus baseline.
    one_class: the cells to which the model gives the same class, in words; '' if there are none such.
    groups: class -> how many subject groups have tested cells of it.

    "Better than" rests on the lower limit of a 95 % interval, so a model without information passes one such test in at
    most 2.5 % of test sets, and fewer pass both (docs/benchmarks/coverage.md).

    Returns text, level (fail, caution, good), and what it rests on.
    """
    shown = {name: _above(differences["majority"][name]) for name in _BESIDE_GUESSING}
    beats_baseline = all(shown.values())
    beats_size = _above(differences["size"]["auroc"]) if "size" in differences else None
    where = (
        f"{'synthetic ' * synthetic}subjects it has never seen" if not leaky else "cells of patients it was trained on"
    )
    main, failed = _found(classes, model, where=where), False
    if fault := _fault(model, differences, one_class=one_class, shown=shown, beats_size=beats_size):
        main, failed = fault, True
    warnings = _warnings(leaky=leaky, synthetic=synthetic, groups=groups)
    return {
        "text": " ".join([main, *warnings]),
        "level": "fail" if failed or leaky else "caution" if warnings else "good",
        "beats_baseline": beats_baseline,
        "beats_size": beats_size,
        "one_class": bool(one_class),
        "leaky": leaky,
        "synthetic": synthetic,
    }


def _above(difference: Estimate) -> bool:
    return difference["low"] is not None and difference["low"] > 0


def _fault(
    model: Estimates,
    differences: dict[str, Estimates],
    *,
    one_class: str,
    shown: dict[str, bool],
    beats_size: bool | None,
) -> str:
    """Return why the figures carry nothing, or ''."""
    if one_class:
        return f"This model gives the same class to {one_class}: it has learned nothing that a diagnosis could rest on."
    if model["auroc"]["value"] is None:
        return "Not every class is among the test cells, so it is unknown whether this model can separate them."
    if model["auroc"]["low"] is None:
        return (
            f"There are too few subjects to know whether this model is better than guessing: AUROC "
            f"{model['auroc']['value']:.2f}."
        )
    if not all(shown.values()):
        return _like_guessing(model, differences["majority"], shown)
    if beats_size is False:
        more = span(differences["size"]["auroc"])
        return (
            f"This model is not shown to see more than the size of the cell: its AUROC is {span(model['auroc'])}; "
            f"less the AUROC of size alone, {more}."
        )
    return ""


def _like_guessing(model: Estimates, more: Estimates, shown: dict[str, bool]) -> str:
    """Say which figures fail, so that one that does not cannot seem to contradict the sentence."""
    figures = {passed: [name for name in shown if shown[name] == passed] for passed in (True, False)}
    if not figures[True]:
        both = ", ".join(f"{_BESIDE_GUESSING[name]} {span(model[name])}" for name in shown)
        return f"This model is not shown to do better than guessing: {both}."
    fails, holds = figures[False][0], figures[True][0]
    guess = (model[fails]["value"] or 0) - (more[fails]["value"] or 0)
    return (
        f"By its {_BESIDE_GUESSING[fails]}, {span(model[fails])}, this model is not shown to do better than guessing "
        f"({guess:.2f}); only by its {_BESIDE_GUESSING[holds]}, {span(model[holds])}, it is."
    )


def _found(classes: tuple[str, ...], model: Estimates, *, where: str) -> str:
    if len(classes) > 2:
        return (
            f"On {where}, this model names {per_hundred(model['balanced_accuracy'])} of 100 cells "
            f"rightly ({range_per_hundred(model['balanced_accuracy'])}) when all {len(classes)} classes are as common."
        )
    normal, ill = (cells_called(name) for name in classes)
    return (
        f"On {where}, this model finds {per_hundred(model['sensitivity'])} of 100 {ill} "
        f"({range_per_hundred(model['sensitivity'])}) and wrongly alarms at "
        f"{100 - per_hundred(model['specificity'])} of 100 {normal} "
        f"({range_per_hundred(model['specificity'], turned=True)}); AUROC {span(model['auroc'])}."
    )


def _warnings(*, leaky: bool, synthetic: bool, groups: dict[str, int]) -> list[str]:
    warnings = []
    if leaky:
        warnings.append(
            "Leaky split: cells of one patient are in training and in test, so these figures are too good to be true."
        )
    if synthetic:
        warnings.append("Synthetic cells: these are drawings made by the program, not patients.")
    few = {name: count for name, count in groups.items() if count < LEAST}
    if few:
        counts, total = ", ".join(f"{count} of {name}" for name, count in groups.items()), sum(groups.values())
        warnings.append(
            f"Only {total} subject group{'s' * (total != 1)} tested ({counts}): with fewer than {LEAST} of a class no "
            "interval is offered."
        )
    return warnings


def per_hundred(number: Estimate) -> int:
    """Return a share as a count out of 100.

    >>> per_hundred({"value": 0.834})
    83
    """
    return round(100 * (number["value"] or 0))


def range_per_hundred(number: Estimate, *, turned: bool = False) -> str:
    """Return the interval of a share, or of one minus it, in plain words.

    >>> range_per_hundred({"value": 0.8, "low": 0.71, "high": 0.9})
    'between 71 and 90'
    """
    if number["low"] is None or number["high"] is None:
        return "no interval"
    low, high = round(100 * number["low"]), round(100 * number["high"])
    return f"between {100 - high} and {100 - low}" if turned else f"between {low} and {high}"


def stretches(grid: Sequence[float], chosen: Sequence[float]) -> str:
    """Name the thresholds that were chosen of a grid, as counts out of 100 without the gaps between them.

    >>> stretches([0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.5])
    '10 to 30 and 50'
    """
    runs: list[list[float]] = []
    for at, before in zip(grid, [None, *grid], strict=False):
        if at in chosen and before in chosen and runs:
            runs[-1].append(at)
        elif at in chosen:
            runs.append([at])
    words = [f"{100 * run[0]:.0f} to {100 * run[-1]:.0f}" if len(run) > 1 else f"{100 * run[0]:.0f}" for run in runs]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def span(number: Estimate) -> str:
    """Return value and interval as text.

    >>> span({"value": 0.8123, "low": 0.75, "high": 0.9})
    '0.81 (0.75 to 0.90)'
    """
    if number["value"] is None:
        return "not defined"
    if number["low"] is None or number["high"] is None:
        return f"{number['value']:.2f} (no interval)"
    return f"{number['value']:.2f} ({number['low']:.2f} to {number['high']:.2f})"


SHOWN = {
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auroc": "AUROC",
}
NOT_A_DIAGNOSIS = "Research use, not a diagnosis."
_BESIDE = {"majority": "majority class", "size": "size alone", "colour": "colour alone"}


def summary(metrics: Metrics) -> str:
    """Return the verdict and the main figures, weighted by subject group and per cell, beside the baselines."""
    data, subject_weighted = metrics["data"], metrics["subject_weighted"]["estimators"]
    kind = "synthetic cells" if data["synthetic"] else "cells"
    leaky = ", leaky split" if metrics["split"]["leaky"] else ""
    tested = f"Tested on {data['cells']:,} {kind} of {data['groups']} subject groups, each weighted equally{leaky}."
    head = f"  {'':<18} {'model':<22} {'per cell':<22} baselines"
    rows = [_row(subject_weighted, metrics["estimators"], name, label) for name, label in SHOWN.items()]
    worst = metrics["subjects"][0]
    least = f"Worst subject group: {worst['group']}, {worst['cells'] - worst['wrong']} of {worst['cells']} cells right."
    return "\n".join([metrics["verdict"]["text"], "", tested, head, *rows, least, NOT_A_DIAGNOSIS])


def comparison_table(result: Comparison) -> str:
    """Return the two runs side by side with their difference; * marks an interval that leaves out zero."""
    cells = result["cells"]
    kind = "synthetic cells" if result["synthetic"] else "cells"
    lines = [
        f"A: {_run(result, 'a')}",
        f"B: {_run(result, 'b')}",
        f"{cells['shared']:,} shared test {kind} of {result['groups']} subject groups (A tests {cells['a']:,}, "
        f"B {cells['b']:,}).",
    ]
    weightings: dict[str, ComparedFigures] = {
        "subject groups weighted equally": result["subject_weighted"],
        "per cell": result,
    }
    for title, found in weightings.items():
        lines += ["", f"  {title:<30} {'A':<22} {'B':<22} B minus A"]
        for name, difference in found["differences"].items():
            if difference["value"] is not None:
                lines.append(_compared(name, found["a"][name], found["b"][name], difference))
    lines += ["", "* the 95 % interval leaves out zero. For brier and ece less is better.", NOT_A_DIAGNOSIS]
    return "\n".join(lines)


def _run(result: Comparison, which: str) -> str:
    return str(result["runs"][which]) + (" (leaky split: its figures are too good)" if result["leaky"][which] else "")


def _compared(name: str, a: Estimate, b: Estimate, difference: Estimate) -> str:
    low, high = difference["low"], difference["high"]
    sure = low is not None and high is not None and (low > 0 or high < 0)
    between = "no interval" if low is None else f"{low:+.3f} to {high:+.3f}"
    return f"  {name:<28} {span(a):<22} {span(b):<22} {difference['value']:+.3f} ({between}){' *' * sure}"


def _row(subject_weighted: dict[str, Estimates], per_cell: dict[str, Estimates], metric: str, label: str) -> str:
    beside = [
        f"{text} {_short(subject_weighted[name][metric]['value'])}"
        for name, text in _BESIDE.items()
        if name in subject_weighted
    ]
    numbers = (span(each["model"][metric]) for each in (subject_weighted, per_cell))
    return f"  {label:<18} {' '.join(f'{each:<22}' for each in numbers)} {', '.join(beside)}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
