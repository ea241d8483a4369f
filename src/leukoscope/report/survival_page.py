"""survival.html: what a survival study found, on one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..artifacts import write_text
from ..survival.tripod import checklist
from ..survival.words import counted, deadly, in_stage, listing
from . import survival_figures as figures
from .rendering import environment
from .style import COLOURS
from .survival_words import model_name, open_time, p_value, ratio, said, significant, span

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


def render(result: Mapping[str, Any], drawn: Drawn, *, source: str = "", links: Sequence[tuple[str, str]] = ()) -> str:
    """Return the page as HTML."""
    pages = environment(
        p=p_value, span=span, listing=listing, sig=significant, open=open_time, ratio=ratio, counted=counted,
        in_stage=in_stage,
    )  # fmt: skip
    return pages.get_template("survival.html").render(
        r=result, source=source, links=links,
        cohort=result["cohort"], model=result["model"], judged=result["judgement"], tests=result["comparison"]["tests"],
        figures={name: Markup(figures.for_page(svg, alt=alt)) for name, (svg, alt) in drawn.items()},
        colours={**COLOURS, **figures.stage_roles()},
        headline=headline(result), estimators=estimators(result["judgement"]), checklist=checklist(result),
        looks=figures.stage_looks(list(result["comparison"]["stages"])),
        alive=_alive(result["cohort"]), median_of=_median_of(result["cohort"]), said=said(result),
        mean_digits=0 if result["cohort"]["last_follow_up"] >= 500 else 2,
    )  # fmt: skip


def _alive(cohort: Mapping[str, Any]) -> str:
    """Say what the survival curve counts."""
    if len(cohort["events"]) > 1:
        return "free of every event"
    return "alive" if deadly(cohort["events"][0]) else f"without {cohort['events'][0]}"


def _median_of(cohort: Mapping[str, Any]) -> str:
    """Say what the median counts."""
    if len(cohort["events"]) > 1:
        return "time to the first event of any kind"
    return "survival" if deadly(cohort["events"][0]) else f"time to {cohort['events'][0]}"


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
            drawn[f"ratios-{number}"] = (
                figures.hazard_ratios(cause["ratios"], name=f"ratios-{number}"),
                f"Hazard ratios for {cause['event']}.",
            )
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
    return [{"key": key, "title": titles.get(key) or model_name(key).capitalize()} for key in keys]
