"""survival.html: what a survival study found, on one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..artifacts import write_text
from ..survival.horizons import in_words
from ..survival.tripod import checklist
from ..survival.words import deadly, listing
from . import survival_figures as figures
from .style import COLOURS

Drawn = dict[str, tuple[str, str]]  # name -> (SVG in stand-in colours, what one sees)


def write_page(
    folder: Path, result: Mapping[str, Any], *, source: str = "", links: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write survival.html and figures/*.svg from the content of survival.json; return the page's path."""
    drawn = _draw(result)
    for name, (svg, _) in drawn.items():
        write_text(folder / "figures" / f"{name}.svg", figures.for_file(svg))
    write_text(folder / "survival.html", render(result, drawn, source=source, links=links))
    return folder / "survival.html"


def render(
    result: Mapping[str, Any], drawn: Drawn, *, source: str = "", links: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the page as HTML."""
    return _environment().get_template("survival.html").render(
        r=result, source=source, links=links,
        cohort=result["cohort"], model=result["model"], judged=result["judgement"], tests=result["comparison"]["tests"],
        figures={name: Markup(figures.for_page(svg, alt=alt)) for name, (svg, alt) in drawn.items()},
        colours={**COLOURS, **figures.stage_roles()},
        headline=headline(result), estimators=estimators(result["judgement"]), checklist=checklist(result),
        alive=_alive(result["cohort"]), said=said(result), looks=figures.stage_looks(list(result["comparison"]["stages"])),
    )  # fmt: skip


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("leukoscope.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "p": p_value, "span": span, "thousands": "{:,}".format, "listing": listing,
        "sig": significant, "open": open_time,
    }  # fmt: skip
    return environment


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
    low, high = ("beyond the follow-up" if interval[key] is None else significant(interval[key]) for key in ("low", "high"))
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


def _alive(cohort: Mapping[str, Any]) -> str:
    """Say what the survival curve counts."""
    if len(cohort["events"]) > 1:
        return "free of every event"
    return "alive" if deadly(cohort["events"][0]) else f"without {cohort['events'][0]}"


def _draw(result: Mapping[str, Any]) -> Drawn:
    comparison, cohort, model = result["comparison"], result["cohort"], result["model"]
    alt = " ".join(stage["horizons"][-1]["text"] for stage in comparison["stages"].values())
    drawn = {"survival": (figures.stage_curves(comparison, curve="survival", unit=cohort["unit"]), alt)}
    if len(cohort["events"]) > 1:
        for number, event in enumerate(cohort["events"], start=1):
            svg = figures.stage_curves(comparison, curve=event, unit=cohort["unit"])
            drawn[f"incidence-{number}"] = (svg, f"Cumulative incidence of {event} by stage.")
    for number, cause in enumerate(model.get("causes", ()), start=1):
        if cause["ratios"]:
            drawn[f"ratios-{number}"] = (figures.hazard_ratios(cause["ratios"], name=f"ratios-{number}"), f"Hazard ratios for {cause['event']}.")
    for number, entry in enumerate((result["judgement"] or {}).get("calibration", ()), start=1):
        alt = f"Expected against observed at {entry['words']}."
        drawn[f"calibration-{number}"] = (figures.calibration(entry), alt)
    return drawn


def headline(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the first lines of the page: do the stages differ, and what does the model add."""
    stages, tests = list(result["comparison"]["stages"].values()), result["comparison"]["tests"]
    texts = " ".join(dict.fromkeys(_ends(stages[0], stages[-1])))
    if not tests:
        return {"level": "caution", "text": texts, "small": "There is one stage, so nothing is compared."}
    event = result["cohort"]["events"][0]
    what = "survival" if deadly(event) else event
    p = tests["gray"][event]["p"] if "gray" in tests else (tests["trend"] or tests["logrank"])["p"]
    verdict = f"The stages differ in {what}." if p < 0.05 else f"No difference in {what} between the stages is shown."
    return {"level": "" if p < 0.05 else "caution", "text": f"{verdict} {texts}", "small": _adds(result)}


def _ends(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """Return the sentences of the first and the last stage at the latest horizon that both were followed to."""
    both = [(a["text"], b["text"]) for a, b in zip(first["horizons"], last["horizons"], strict=True) if "survival" in a and "survival" in b]
    return list(both[-1]) if both else [first["horizons"][0]["text"], last["horizons"][0]["text"]]


def _adds(result: Mapping[str, Any]) -> str:
    judged = result["judgement"]
    if not judged:
        return "The model was not judged on patients it had not seen; see the limits."
    model, stage = (_right_pairs(judged["estimators"][name]["c_index"]) for name in (judged["chosen"], "stage alone"))
    return (
        f"Of 100 pairs of patients it had not seen, the model puts {model} in the right order; stage alone {stage}; "
        f"a coin 50. {_whether_better(judged)}"
    )


def _right_pairs(c_index: Mapping[str, float | None]) -> str:
    value = c_index["value"]
    return "–" if value is None else f"{100 * value:.0f}"


def _whether_better(judged: Mapping[str, Any]) -> str:
    if judged["chosen"] != "model":
        return "A penalised model was better than the plain one and stands here."
    difference = judged["differences"]["stage alone"]["integrated_brier"]
    if difference["high"] is not None and difference["high"] < 0:
        return "Its predicted chances are better than those of stage alone."
    return "That its predicted chances are better than those of stage alone is not shown."


def estimators(judged: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Name the columns of the table of performance: the chosen model, then the simpler answers."""
    if not judged:
        return []
    titles = {"model": "Model", "stage alone": "Stage alone", "no covariates": "No covariates"}
    keys = dict.fromkeys([judged["chosen"], *titles])
    return [{"key": key, "title": titles.get(key, f"Model, {key}")} for key in keys]


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
    text = f"Were all stages alike, curves this far apart would come by chance with p {_equals(test['p'])} (log-rank test, χ² {test['statistic']:.4g} on {test['df']} df)."
    if trend and test["df"] > 1:
        text += f" That outcome goes one way from {cohort['stages'][0]['name']} to {cohort['stages'][-1]['name']}: p {_equals(trend['p'])} (trend version, χ² {trend['statistic']:.4g} on 1 df)."
    for event, gray in tests.get("gray", {}).items():
        text += f" Incidence of {event}: p {_equals(gray['p'])} (Gray's test, χ² {gray['statistic']:.4g} on {gray['df']} df)."
    return text


def _equals(p: float) -> str:
    shown = p_value(p)
    return shown if shown.startswith("below") else f"= {shown}"


def _model_words(model: Mapping[str, Any]) -> str:
    kind = "A Cox model" if len(model["causes"]) == 1 else "A Cox model of each event (cause-specific hazards)"
    penalty = ", shrunk by a ridge penalty that made it better on unseen patients" if model["penalty"] else ""
    return (
        f"{kind}{penalty}: {model['patients']} patients, {model['events']} events, {model['coefficients']} coefficients. "
        "A hazard ratio of 2 means that at any time twice as many of those still free of the event have it."
    )


def _ratio_words(cause: Mapping[str, Any], references: Mapping[str, str]) -> str:
    against = listing([f"{column} {level}" for column, level in references.items()])
    clear = [row for row in cause["ratios"] if row["p"] is not None and row["p"] < 0.05]
    if not clear:
        return f"No ratio is clearly different from 1. Categories are compared with {against or 'nothing'}."
    row = max(clear, key=lambda row: abs(row["coefficient"]))
    way = "higher" if row["ratio"] > 1 else "lower"
    return f"Clearest: {row['term']}, {significant(max(row['ratio'], 1 / row['ratio']), 2)} times {way} hazard. Categories are compared with {against or 'nothing'}; a number counts per one unit."


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
    sure = "The model expected too few." if (ratio["low"] or 0) > 1 else "The model expected too many." if (ratio["high"] or 9) < 1 else "On the whole as expected."
    return f"For 100 events expected, {100 * ratio['value']:.0f} happened ({100 * ratio['low']:.0f} to {100 * ratio['high']:.0f}). {sure} Points on the dotted line came true exactly."


def _optimism_words(judged: Mapping[str, Any] | None) -> str:
    if not judged or not judged["optimism"]:
        return ""
    found = judged["optimism"]
    c = found["c_index"]
    return (
        f"On the patients it learned from, the model's C-index is {c['apparent']:.3f}. {found['samples']} bootstrap samples "
        f"say that this flatters it by {c['optimism']:.3f}; {c['corrected']:.3f} is left."
    )


def _tried_words(judged: Mapping[str, Any] | None) -> str:
    if not judged or not judged["tried"]:
        return ""
    if judged["chosen"] != "model":
        return f"The {judged['chosen']} penalty was better than the plain model with its whole interval, so it was taken."
    return f"Shrinking the coefficients ({listing(judged['tried'])}) was tried and was not better beyond doubt, so it was left."
