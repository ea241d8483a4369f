"""The figures of a run in a few plain lines for the terminal."""

from typing import Any

from .verdict import span

SHOWN = {
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auroc": "AUROC",
}
NOT_A_DIAGNOSIS = "Research use, not a diagnosis."
_BESIDE = {"majority": "majority class", "size": "size alone", "colour": "colour alone"}


def summary(metrics: dict[str, Any]) -> str:
    """Return the verdict and the headline figures with the baselines beside them."""
    data = metrics["data"]
    kind = "painted cells" if data["painted"] else "cells"
    leaky = ", leaky split" if metrics["split"]["leaky"] else ""
    tested = f"Tested on {data['cells']:,} {kind} of {data['groups']} subject groups{leaky}."
    rows = [_row(metrics["estimators"], name, label) for name, label in SHOWN.items()]
    worst = metrics["subjects"][0]
    least = f"Worst subject group: {worst['group']}, {worst['cells'] - worst['wrong']} of {worst['cells']} cells right."
    return "\n".join([metrics["verdict"]["text"], "", tested, *rows, least, NOT_A_DIAGNOSIS])


def comparison_table(result: dict[str, Any]) -> str:
    """Return the two runs side by side with their difference; * marks an interval that leaves out zero."""
    cells = result["cells"]
    kind = "painted cells" if result["painted"] else "cells"
    lines = [
        f"A: {_run(result, 'a')}",
        f"B: {_run(result, 'b')}",
        f"{cells['shared']:,} shared test {kind} of {result['groups']} subject groups (A tests {cells['a']:,}, "
        f"B {cells['b']:,}).",
        "",
        f"  {'':<22} {'A':<22} {'B':<22} B minus A",
    ]
    for name, difference in result["differences"].items():
        if difference["value"] is not None:
            lines.append(_compared(name, result["a"][name], result["b"][name], difference))
    lines += ["", "* the 95 % interval leaves out zero. For brier and ece less is better.", NOT_A_DIAGNOSIS]
    return "\n".join(lines)


def _run(result: dict[str, Any], which: str) -> str:
    return str(result["runs"][which]) + (" (leaky split: its figures are too good)" if result["leaky"][which] else "")


def _compared(name: str, a: dict[str, Any], b: dict[str, Any], difference: dict[str, Any]) -> str:
    low, high = difference["low"], difference["high"]
    sure = low is not None and (low > 0 or high < 0)
    between = "interval unknown" if low is None else f"{low:+.3f} to {high:+.3f}"
    return f"  {name:<22} {span(a):<22} {span(b):<22} {difference['value']:+.3f} ({between}){' *' * sure}"


def _row(estimators: dict[str, Any], metric: str, label: str) -> str:
    beside = [
        f"{text} {_short(estimators[name][metric]['value'])}" for name, text in _BESIDE.items() if name in estimators
    ]
    return f"  {label:<18} {span(estimators['model'][metric]):<24} {', '.join(beside)}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
