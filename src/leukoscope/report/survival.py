"""survival.html: the results of a survival study in words that need no statistics."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..evaluation.verdict import stretches
from ..files import write_text
from ..survival.predict import deadly, still
from ..survival.study import checklist
from ..survival.table import counted, in_stage, in_words, join_words, short
from . import environment
from . import survival_figures as figures
from .figures import COLOURS


def p_value(p: float | None) -> str:
    """Return a p value as it is printed.

    >>> p_value(0.0432), p_value(1e-9)
    ('0.043', 'below 0.0001')
    """
    if p is None:
        return "–"
    if p > 0.99:
        return "above 0.99"
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with a few significant digits, never in powers of ten, or a dash.

    >>> significant(1234567.0), significant(0.01234), significant(None)
    ('1234567', '0.0123', '–')
    """
    return "–" if value is None else short(value, digits)


def ratio(value: float, *, beside: float | None = None) -> str:
    """Return a hazard ratio with as many decimals as distinguish it (or the one `beside` it) from 1.

    >>> ratio(4.554), ratio(1.0312), ratio(1.000213), ratio(0.97, beside=1.0312)
    ('4.55', '1.031', '1.00021', '0.970')
    >>> ratio(123456.0), ratio(0.00001)
    ('above 1000', 'below 0.001')
    """
    if not 1e-3 <= value <= 1e3:
        return "above 1000" if value > 1 else "below 0.001"
    distance = abs((value if beside is None else beside) - 1)
    decimals = min(max(2, 1 + math.ceil(-math.log10(max(distance, 1e-6)))), 6)
    return f"{value:.{decimals}f}"


def open_time(interval: Mapping[str, float | None], unit: str) -> str:
    """Return a time with its interval, or state that it was not reached.

    >>> open_time({"value": 12.0, "low": 8.5, "high": None}, "months")
    '12 months (8.5 to beyond the follow-up)'
    """
    if interval["value"] is None:
        return "not reached"
    low, high = (
        "beyond the follow-up" if interval[key] is None else significant(interval[key]) for key in ("low", "high")
    )
    return f"{significant(interval['value'])} {unit} ({low} to {high})"


def interval_words(interval: Mapping[str, float | None], digits: int = 3) -> str:
    """Return an estimate with its interval for the terminal, or that it is not known.

    >>> interval_words({"value": 0.65, "low": 0.5, "high": 0.8})
    '0.650 (0.500 to 0.800)'
    """
    return "not known" if interval["value"] is None else span(interval, digits)


def span(interval: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """Return an estimate with its interval; an open end is a dash.

    >>> span({"value": 0.651, "low": 0.57, "high": None})
    '0.65 (0.57 to –)'
    """
    if interval is None or interval["value"] is None:
        return "–"
    if interval["low"] is None and interval["high"] is None:
        return f"{interval['value']:.{digits}f} (no limits)".replace("-", "−")
    value, low, high = (
        "–" if interval[key] is None else f"{interval[key]:.{digits}f}" for key in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})".replace("-", "−")


def sentences(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sentences of the page that need more than one number."""
    cohort, model, judged = result["cohort"], result["model"], result["judgement"]
    horizons = [horizon["words"] for horizon in result["horizons"]]
    return {
        "tests": _tests_words(result["comparison"]["tests"], cohort),
        "until": in_words(result["comparison"]["restricted_mean"]["until"], cohort["unit"]),
        "model": _model_words(model, cohort["patients"]) if model.get("causes") else "",
        "ratios": [_ratio_words(cause, model["references"]) for cause in model.get("causes", ())],
        "scores": _score_words(judged),
        "two": two_of_stage(result),
        "calibration": [_calibration_words(entry) for entry in (judged or {}).get("calibration", ())],
        "optimism": _optimism_words(judged),
        "penalty": _penalty_words(model),
        "size": _size_words(model),
        "repair": _repair_words(model),
        "decision": [_decision_words(entry, cohort["events"][0]) for entry in (judged or {}).get("decision", ())],
        "missing": [f"{name} {count:,}" for name, count in cohort["missing"].items() if count],
        "horizons": join_words(horizons),
        "packages": ", ".join(f"{name} {version}" for name, version in result["provenance"]["packages"].items()),
    }


ALPHA = 0.05


def verdict(result: Mapping[str, Any]) -> str:
    """Describe the result of the primary test, which question it answers, and where the trend test disagrees."""
    cohort, tests = result["cohort"], result["comparison"]["tests"]
    primary, trend = tests["primary"], tests["trend"]
    what = "The stages differ" if primary["p"] < ALPHA else "No difference between the stages is shown"
    words = f"{what} ({primary['name']} of {primary['of']}: p {_equals(primary['p'])})."
    if not trend or primary["df"] < 2 or (trend["p"] < ALPHA) == (primary["p"] < ALPHA):
        return words
    first, last = cohort["stages"][0]["name"], cohort["stages"][-1]["name"]
    counted_event = f" of {tests['of']}" if len(cohort["events"]) > 1 else ""
    if trend["p"] < ALPHA:
        return f"{words} Yet a trend{counted_event} from {first} to {last} is shown (p {_equals(trend['p'])})."
    return f"{words} But no trend{counted_event} from {first} to {last} is shown (p {_equals(trend['p'])})."


def _tests_words(tests: Mapping[str, Any], cohort: Mapping[str, Any]) -> str:
    """Say what the tests found: of the event that is studied first, then of the others, then of any event."""
    if not tests:
        return ""
    competing = len(cohort["events"]) > 1
    some = f"any event ({tests['of']})" if competing else cohort["events"][0]
    by = "Gray's test" if tests.get("gray_by") == "Gray" else "Fine–Gray score test with weights for late entry"
    found = [(f"incidences of {event}", gray, by) for event, gray in tests.get("gray", {}).items()]
    found.append((f"curves for {some}", tests["logrank"], "log-rank test"))
    (what, test, name), *others = found
    parts = [f"If all stages were the same, {what} this far apart would occur by chance with p {_result(test, name)}."]
    parts += [f"{what[0].upper()}{what[1:]}: p {_result(test, name)}." for what, test, name in others]
    parts.append(f"Early events counting more: p {_result(tests['peto'], 'Peto and Peto')}.")
    if tests["trend"] and tests["logrank"]["df"] > 1:
        parts.append(_trend_words(tests["trend"], cohort, some))
    parts.append(f"The headline rests on the first of these alone, {tests['primary']['name']}, chosen before any data.")
    return " ".join(parts)


def _trend_words(trend: Mapping[str, Any], cohort: Mapping[str, Any], some: str) -> str:
    verb = "moves" if trend["p"] < 0.05 else "is not shown to move"
    first, last = cohort["stages"][0]["name"], cohort["stages"][-1]["name"]
    return f"The time to {some} {verb} one way from {first} to {last}: p {_result(trend, 'trend version')}."


def _result(test: Mapping[str, Any], name: str) -> str:
    return f"{_equals(test['p'])} ({name}, {_chi(test)})"


def lines_of_tests(tests: Mapping[str, Any]) -> list[str]:
    """Return the tests of all stages for the terminal, one line each, naming the event of each."""
    if not tests:
        return []
    by = "Gray's test" if tests.get("gray_by") == "Gray" else "Fine–Gray score test"
    found = [(f"{by}, {event}", test) for event, test in tests.get("gray", {}).items()]
    found.append((f"Log-rank test, {tests['of']}", tests["logrank"]))
    if tests["trend"] and tests["logrank"]["df"] > 1:
        found.append((f"Trend over the stages, {tests['of']}", tests["trend"]))
    return [f"{name}: {_chi(test)}, p {_equals(test['p'])}." for name, test in found]


def _chi(test: Mapping[str, Any]) -> str:
    return f"χ² {test['statistic']:.2f} on {test['df']} df"


def _equals(p: float) -> str:
    shown = p_value(p)
    return shown if shown.startswith(("below", "above")) else f"= {shown}"


def _model_words(model: Mapping[str, Any], patients: int) -> str:
    """Say what was fitted to whom; `patients` are in the curves, and a model of complete cases may lose some."""
    kind = "A Cox model" if len(model["causes"]) == 1 else "A Cox model of each event (cause-specific hazards)"
    lost = patients - model["patients"]
    who = counted(model["patients"], "patient")
    who += f" of {patients:,} (complete cases; {lost:,} are left out, see the limits)" if lost else ""
    return (
        f"{kind}: {who}, {counted(model['events'], 'event')}, "
        f"{counted(model['coefficients'], 'coefficient')}. A hazard ratio of 2 means that at any time "
        "twice as many of those still free of the event have it."
    )


def _ratio_words(cause: Mapping[str, Any], references: Mapping[str, str]) -> str:
    against = join_words([f"{column} {level}" for column, level in references.items() if _has(cause, column)])
    compared = f" Categories are compared with {against}." if against else ""
    numbers = any(not row["level"] for row in cause["ratios"])
    unit = " The ratio of a number counts for one unit more." if numbers else ""
    rows = cause["unpenalised"] or cause["ratios"]
    clear = [row for row in rows if row["p"] is not None and row["p"] < ALPHA]
    if not clear:
        return f"No ratio is clearly different from 1.{compared}{unit}"
    row = min(clear, key=lambda row: row["p"])
    each = "" if row["level"] else ", for each unit more"
    return f"Clearest: {row['term']}, {_hazard(row['ratio'])}{each}.{compared}{unit if each == '' else ''}"


def shown_ratios(cause: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the ratios that have intervals: of a penalised model those of the same model without the penalty."""
    return straight(cause["unpenalised"] or cause["ratios"])


def straight(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the ratios that mean something by themselves; those of a spline are drawn instead."""
    bent = {row["column"] for row in rows if row["bends"]}
    return [row for row in rows if row["column"] not in bent]


def _spline_words(spline: Mapping[str, Any]) -> str:
    low, high = (significant(value) for value in spline["quartiles"])
    bends = "It bends" if spline["nonlinear"]["p"] < ALPHA else "That it bends is not shown"
    return (
        f"{high} against {low} (the quartiles): hazard ratio {span(spline['contrast'])}. {bends} "
        f"(p {_equals(spline['nonlinear']['p'])}); any effect at all: p {_equals(spline['all']['p'])}. "
        f"Ratios to {significant(spline['reference'])}, the median, with their 95 % band."
    )


def _has(cause: Mapping[str, Any], column: str) -> bool:
    return any(row["column"] == column for row in cause["ratios"])


def _hazard(value: float) -> str:
    """Say a hazard ratio in words.

    >>> _hazard(4.58), _hazard(1.03), _hazard(0.6)
    ('4.6 times the hazard', '3 % higher hazard', '40 % lower hazard')
    """
    if value >= 2:
        return f"{ratio(value) if value > 1e3 else significant(value, 2)} times the hazard"
    return f"{significant(100 * abs(value - 1), 2)} % {'higher' if value > 1 else 'lower'} hazard"


def _score_words(judged: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
    """Return the rows of the table of performance: what each figure is called and how it is read."""
    if not judged:
        return {}
    words = {
        "c_index": (
            "C-index (Harrell)",
            "pairs that mean risk over the follow-up puts in the right order; 0.5 is a coin; it moves with censoring",
        ),
        "c_uno": ("C-index (Uno)", "the same with pairs weighted against censoring, up to where a tenth are followed"),
    }
    for key in judged["estimators"]["model"]:
        name, _, horizon = key.partition(" at ")
        if name == "auc":
            words[key] = (f"AUC at {horizon}", "separating patients with the event by then from those without")
        if name == "brier":
            words[key] = (f"Brier score at {horizon}", "mean squared error of the chance; lower is better")
        if name == "ipa":
            words[key] = (f"IPA at {horizon}", "share of the Brier score of no covariates that is saved; 0 is nothing")
    return words | {"integrated_brier": ("Integrated Brier score", "the same over all times; lower is better")}


def _calibration_words(entry: Mapping[str, Any]) -> str:
    ratio = entry["observed_over_expected"]
    if not ratio or ratio["value"] is None or ratio["low"] is None:
        return "Too few were followed this far."
    low, value, high = (100 * ratio[key] for key in ("low", "value", "high"))
    verdict = (
        "On the whole as expected."
        if low <= 100 <= high
        else f"The model expected too {'few' if low > 100 else 'many'}."
    )
    return (
        f"For 100 events expected, {value:.0f} happened ({low:.0f} to {high:.0f}). {verdict} "
        f"Intercept {span(entry['intercept'])} (0 is right), slope {span(entry['slope'])} (1 is right; below it, risks "
        "are too far apart). Points on the dotted line came true exactly; the curve smooths over single patients."
    )


def _decision_words(entry: Mapping[str, Any], event: str) -> str:
    """Say at which thresholds acting on the model is better than on stage alone, on everybody and on nobody."""
    better, compared = entry["better"], len(entry["thresholds"])
    if not better:
        found = "At no threshold is the model better than stage alone, all and none beyond its 95 % interval."
    else:
        found = (
            f"At {len(better)} of {compared} thresholds, {stretches(entry['thresholds'], better)} of 100, the model is "
            "better than stage alone, all and none beyond its 95 % interval, which does not allow for how many were "
            "looked at."
        )
    return (
        f"What it would be worth to act on every patient whose chance of {event} by {entry['words']} is above a "
        f"threshold: events found, less false alarms at the price that the threshold implies. {found}"
    )


def _optimism_words(judged: Mapping[str, Any] | None) -> str:
    if not judged or not judged["optimism"]:
        return ""
    found = judged["optimism"]
    c = found["c_index"]
    return (
        f"On the training patients the model's C-index is {c['apparent']:.3f}. "
        f"{found['samples']} bootstrap samples show an optimism of {c['optimism']:.3f}; "
        f"the corrected C-index is {c['corrected']:.3f}."
    )


def _penalty_words(model: Mapping[str, Any]) -> str:
    """Say how strongly coefficients are shrunk, by what choice, and what that takes from them."""
    if not model.get("penalty"):
        return ""
    return (
        f"Events are few, so the coefficients are shrunk towards none: ridge penalty {model['penalty']:g}, the one "
        "with the best cross-validated partial likelihood; the figures below repeat the choice in training. "
        "Shrunken coefficients are biased on purpose and have neither interval nor p; the ratios with intervals are "
        "those of the same model without the penalty."
    )


def _size_words(model: Mapping[str, Any]) -> str:
    """Say how many patients the model would need by Riley's criteria, and what the present number means."""
    if not model.get("causes"):
        return ""
    size = model["size"]
    if not size:
        return (
            "The covariates explain no more than chance would, so no number of patients can be advised for them; the "
            "figures on unseen patients decide."
        )
    needs = (
        f"For its {counted(size['coefficients'], 'coefficient')} Riley's criteria ask for "
        f"{counted(size['patients'], 'patient')} ({size['events']:.0f} events): {size['shrink']:,} so that nine "
        f"tenths of every coefficient are kept on new patients, {size['optimism']:,} so that little flatters, "
        f"{size['risk']:,} to know the mean risk within 5 of 100."
    )
    if model["patients"] >= size["patients"]:
        return f"{needs} There are {model['patients']:,}: enough."
    return (
        f"{needs} There are {model['patients']:,}: too few. About {100 * size['shrinkage']:.0f} % of the coefficients "
        "would be kept; the rest is chance."
    )


def _repair_words(model: Mapping[str, Any]) -> str:
    """State the rule by which a failure of proportional hazards was mended, and what a p value after it means."""
    rule = (
        "The rule, set beforehand: a column whose score test has p below 0.05 after Holm's correction over the columns "
        "is mended; a category gets a baseline hazard of its own (strata) if every level has five events, a number one "
        "effect before and one after the median time of the events."
    )
    mended = [
        check["column"]
        for cause in model.get("causes", ())
        for check in cause["proportional"]["columns"]
        if check["action"].startswith(("own", "one"))
    ]
    if not mended:
        return f"{rule} Nothing had to be mended."
    return (
        f"{rule} It was applied to {join_words(list(dict.fromkeys(mended)))}. Intervals and p values after it are "
        "conditional on this repair, which the same data suggested: they do not carry its uncertainty."
    )


Drawn = dict[str, tuple[str, str]]  # name -> (SVG in stand-in colours, caption)


def write_page(
    folder: Path, result: Mapping[str, Any], *, source: str = "", links: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write survival.html and figures/*.svg from the content of survival.json; return the page's path."""
    drawn = _draw(result)
    page = render(result, drawn, source=source, links=links)  # first, so that a fault leaves no half of it behind
    for name, (svg, _) in drawn.items():
        write_text(folder / "figures" / f"{name}.svg", figures.for_file(svg))
    write_text(folder / "survival.html", page)
    return folder / "survival.html"


def render(result: Mapping[str, Any], drawn: Drawn, *, source: str = "", links: Sequence[tuple[str, str]] = ()) -> str:
    """Return the page as HTML."""
    pages = environment(
        p=p_value,
        span=span,
        join_words=join_words,
        sig=significant,
        open=open_time,
        ratio=ratio,
        counted=counted,
        in_stage=in_stage,
        shown=shown_ratios,
        straight=straight,
        spline=_spline_words,
    )
    return pages.get_template("survival.html").render(
        r=result,
        source=source,
        links=links,
        cohort=result["cohort"],
        model=result["model"],
        judged=result["judgement"],
        tests=result["comparison"]["tests"],
        figures={
            name: Markup(figures.for_page(svg, alt=alt))  # nosec B704
            for name, (svg, alt) in drawn.items()
        },
        colours={**COLOURS, **figures.stage_roles()},
        headline=headline(result),
        estimators=estimators(result["judgement"]),
        checklist=checklist(result),
        looks=figures.stage_looks(list(result["comparison"]["stages"])),
        alive=still(result["cohort"]["events"]),
        median_of=_median_of(result["cohort"]),
        text=sentences(result),
        mean_digits=0 if result["cohort"]["last_follow_up"] >= 500 else 2,
    )


def _median_of(cohort: Mapping[str, Any]) -> str:
    """Say what the median counts."""
    if len(cohort["events"]) > 1:
        return "time to the first event of any kind"
    return "survival" if deadly(cohort["events"][0]) else f"time to {cohort['events'][0]}"


def _draw(result: Mapping[str, Any]) -> Drawn:
    comparison, cohort, model = result["comparison"], result["cohort"], result["model"]
    since = f"the landmark ({cohort['landmark']})" if cohort["landmark"] else "the start"
    alt = " ".join(stage["horizons"][-1]["text"] for stage in comparison["stages"].values())
    drawn = {"survival": (figures.stage_curves(comparison, curve="survival", unit=cohort["unit"], since=since), alt)}
    if len(cohort["events"]) > 1:
        for number, event in enumerate(cohort["events"], start=1):
            svg = figures.stage_curves(comparison, curve=event, unit=cohort["unit"], since=since)
            drawn[f"incidence-{number}"] = (svg, f"Cumulative incidence of {event} by stage.")
    for number, cause in enumerate(model.get("causes", ()), start=1):
        for place, spline in enumerate(cause["splines"], start=1):
            drawn[f"spline-{number}-{place}"] = (
                figures.spline(spline, name=f"spline-{number}-{place}"),
                f"Hazard ratio by {spline['column']}.",
            )
        if shown_ratios(cause):
            drawn[f"ratios-{number}"] = (
                figures.hazard_ratios(shown_ratios(cause), name=f"ratios-{number}"),
                f"Hazard ratios for {cause['event']}.",
            )
        for place, effect in enumerate(cause["proportional"]["effects"], start=1):
            drawn[f"effect-{number}-{place}"] = (
                figures.effect_in_time(effect, unit=cohort["unit"], name=f"effect-{number}-{place}"),
                f"Effect of {effect['term']} over time.",
            )
    if model.get("nomogram"):
        drawn["nomogram"] = (figures.nomogram(model["nomogram"]), "The model as a nomogram.")
    for number, entry in enumerate((result["judgement"] or {}).get("calibration", ()), start=1):
        alt = f"Expected against observed at {entry['words']}."
        drawn[f"calibration-{number}"] = (figures.calibration(entry), alt)
    for number, entry in enumerate((result["judgement"] or {}).get("decision", ()), start=1):
        drawn[f"decision-{number}"] = (figures.decision(entry), f"Net benefit at {entry['words']} by threshold.")
    return drawn


def headline(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the first lines of the page: do the stages differ, and what does the model add."""
    stages, tests = list(result["comparison"]["stages"].values()), result["comparison"]["tests"]
    texts = " ".join(dict.fromkeys(_ends(stages[0], stages[-1])))
    if not tests:
        return {"level": "caution", "text": texts, "small": "There is one stage, so nothing is compared."}
    level = "" if tests["primary"]["p"] < ALPHA else "caution"
    return {"level": level, "text": f"{verdict(result)} {texts}", "small": _adds(result)}


def _ends(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """Return the sentences of the first and the last stage at the latest horizon that both were followed to."""
    both = [
        (a["text"], b["text"])
        for a, b in zip(first["horizons"], last["horizons"], strict=True)
        if "survival" in a and "survival" in b
    ]
    return list(both[-1]) if both else [first["horizons"][0]["text"], last["horizons"][0]["text"]]


def _adds(result: Mapping[str, Any]) -> str:
    judged = result["judgement"]
    if not judged:
        return "The model was not judged on patients it had not seen; see the limits."
    model, stage = (_right_pairs(judged["estimators"][name]["c_index"]) for name in ("model", "stage alone"))
    return (
        f"Of 100 pairs of patients it had not seen, the model puts {model} in the right order; stage alone {stage}; "
        f"a coin 50. {_whether_better(judged)}"
    )


def lines_of_c_index(result: Mapping[str, Any]) -> list[str]:
    """Return the cross-validated C-index of the model and of stage alone for the terminal, and what each of them is."""
    if not result["judgement"]:
        return []
    event, judged = result["cohort"]["events"][0], result["judgement"]["estimators"]
    titles = {"model": "Cox model", "stage alone": "stage alone (observed curve of each stage)"}
    found = [f"{title}: {interval_words(judged[key]['c_index'])}" for key, title in titles.items()]
    lines = [f"Cross-validated C-index for {event}, {one}." for one in found]
    return [*lines, why] if (why := two_of_stage(result)) else lines


def two_of_stage(result: Mapping[str, Any]) -> str:
    """Say how a model without covariates differs from stage alone; nothing for a model that has some."""
    cohort, causes = result["cohort"], result["model"].get("causes", ())
    if {row["column"] for cause in causes for row in cause["ratios"]} != {cohort["stage_column"]}:
        return ""
    return (
        "Both know nothing but the stage. The Cox model takes hazards as proportional, the observed curves do not: "
        "where curves of two stages cross, the two can rank these stages differently."
    )


def _right_pairs(c_index: Mapping[str, float | None]) -> str:
    value = c_index["value"]
    return "–" if value is None else f"{100 * value:.0f}"


def _whether_better(judged: Mapping[str, Any]) -> str:
    difference = judged["differences"]["stage alone"]["integrated_brier"]
    if difference["high"] is not None and difference["high"] < 0:
        return "Its predicted chances are better than those of stage alone."
    return "That its predicted chances are better than those of stage alone is not shown."


def estimators(judged: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Name the columns of the table of performance: the model, then the simpler answers."""
    if not judged:
        return []
    titles = {"model": "Model", "stage alone": "Stage alone", "no covariates": "No covariates"}
    return [{"key": key, "title": title} for key, title in titles.items()]
