"""What the numbers of survival.html say, in words that need no statistics."""

from collections.abc import Mapping
from typing import Any

from ..survival.horizons import in_words
from ..survival.words import listing


def p_value(p: float | None) -> str:
    """Return a p value as it is printed.

    >>> p_value(0.0432), p_value(1e-9)
    ('0.043', 'below 0.0001')
    """
    if p is None:
        return "–"
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with a few significant digits, never in powers of ten, or a dash.

    >>> significant(1234567.0), significant(0.01234), significant(None)
    ('1234567', '0.0123', '–')
    """
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def open_time(interval: Mapping[str, float | None], unit: str) -> str:
    """Return a time with its interval, or say that it was not reached.

    >>> open_time({"value": 12.0, "low": 8.5, "high": None}, "months")
    '12 months (8.5 to beyond the follow-up)'
    """
    if interval["value"] is None:
        return "not reached"
    low, high = (
        "beyond the follow-up" if interval[key] is None else significant(interval[key]) for key in ("low", "high")
    )
    return f"{significant(interval['value'])} {unit} ({low} to {high})"


def span(interval: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """Return an estimate with its interval; an open end is a dash.

    >>> span({"value": 0.651, "low": 0.57, "high": None})
    '0.65 (0.57 to –)'
    """
    if interval is None or interval["value"] is None:
        return "–"
    value, low, high = (
        "–" if interval[key] is None else f"{interval[key]:.{digits}f}" for key in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})".replace("-", "−")


def said(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sentences of the page that need more than one number."""
    cohort, model, judged = result["cohort"], result["model"], result["judgement"]
    horizons = [horizon["words"] for horizon in result["horizons"]]
    return {
        "tests": _tests_words(result["comparison"]["tests"], cohort),
        "until": in_words(result["comparison"]["restricted_mean"]["until"], cohort["unit"]),
        "model": _model_words(model) if model.get("causes") else "",
        "ratios": [_ratio_words(cause, model["references"]) for cause in model.get("causes", ())],
        "scores": _score_words(judged),
        "calibration": [_calibration_words(entry) for entry in (judged or {}).get("calibration", ())],
        "optimism": _optimism_words(judged),
        "tried": _tried_words(judged),
        "missing": [f"{name} {count}" for name, count in cohort["missing"].items() if count],
        "horizons": listing(horizons),
        "lifelines": result["provenance"]["packages"].get("lifelines", "unknown"),
    }


def _tests_words(tests: Mapping[str, Any], cohort: Mapping[str, Any]) -> str:
    if not tests:
        return ""
    test, trend = tests["logrank"], tests["trend"]
    text = (
        f"Were all stages alike, curves this far apart would come by chance with p {_equals(test['p'])} "
        f"(log-rank test, {_chi(test)})."
    )
    if trend and test["df"] > 1:
        first, last = cohort["stages"][0]["name"], cohort["stages"][-1]["name"]
        text += (
            f" Outcome moves one way from {first} to {last}: p {_equals(trend['p'])} (trend version, {_chi(trend)})."
        )
    for event, gray in tests.get("gray", {}).items():
        text += f" Incidence of {event}: p {_equals(gray['p'])} (Gray's test, {_chi(gray)})."
    return text


def _chi(test: Mapping[str, Any]) -> str:
    return f"χ² {test['statistic']:.4g} on {test['df']} df"


def _equals(p: float) -> str:
    shown = p_value(p)
    return shown if shown.startswith("below") else f"= {shown}"


def _model_words(model: Mapping[str, Any]) -> str:
    kind = "A Cox model" if len(model["causes"]) == 1 else "A Cox model of each event (cause-specific hazards)"
    penalty = ", shrunk by a ridge penalty that made it better on unseen patients" if model["penalty"] else ""
    return (
        f"{kind}{penalty}: {model['patients']} patients, {model['events']} events, "
        f"{model['coefficients']} coefficients. A hazard ratio of 2 means that at any time "
        "twice as many of those still free of the event have it."
    )


def _ratio_words(cause: Mapping[str, Any], references: Mapping[str, str]) -> str:
    against = listing([f"{column} {level}" for column, level in references.items()])
    compared = f" Categories are compared with {against}." if against else ""
    clear = [row for row in cause["ratios"] if row["p"] is not None and row["p"] < 0.05]
    if not clear:
        return f"No ratio is clearly different from 1.{compared}"
    row = max(clear, key=lambda row: abs(row["coefficient"]))
    way = "higher" if row["ratio"] > 1 else "lower"
    times = significant(max(row["ratio"], 1 / row["ratio"]), 2)
    return f"Clearest: {row['term']}, {times} times {way} hazard.{compared} A number counts per one unit."


def _score_words(judged: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
    if not judged:
        return {}
    words = {"c_index": ("C-index", "pairs put in the right order; 0.5 is a coin")}
    for key in judged["estimators"]["model"]:
        name, _, horizon = key.partition(" at ")
        if name == "auc":
            words[key] = (f"AUC at {horizon}", "telling who has the event by then from who has not")
        if name == "brier":
            words[key] = (f"Brier score at {horizon}", "mean squared error of the chance; lower is better")
    return words | {"integrated_brier": ("Integrated Brier score", "the same over all times; lower is better")}


def _calibration_words(entry: Mapping[str, Any]) -> str:
    ratio = entry["observed_over_expected"]
    if not ratio or ratio["value"] is None:
        return "Too few were followed this far."
    low, value, high = (100 * (ratio[key] or 0) for key in ("low", "value", "high"))
    verdict = (
        "On the whole as expected."
        if low <= 100 <= high
        else f"The model expected too {'few' if low > 100 else 'many'}."
    )
    return (
        f"For 100 events expected, {value:.0f} happened ({low:.0f} to {high:.0f}). {verdict} "
        "Points on the dotted line came true exactly."
    )


def _optimism_words(judged: Mapping[str, Any] | None) -> str:
    if not judged or not judged["optimism"]:
        return ""
    found = judged["optimism"]
    c = found["c_index"]
    return (
        f"On the patients it learned from, the model's C-index is {c['apparent']:.3f}. "
        f"{found['samples']} bootstrap samples say that this flatters it by {c['optimism']:.3f}; "
        f"{c['corrected']:.3f} is left."
    )


def _tried_words(judged: Mapping[str, Any] | None) -> str:
    if not judged or not judged["tried"]:
        return ""
    if judged["chosen"] != "model":
        return (
            f"The {judged['chosen']} penalty was better than the plain model with its whole interval, so it was taken."
        )
    return f"Shrinking the coefficients ({listing(judged['tried'])}) was tried and was not better beyond doubt."
