"""The TRIPOD+AI checklist, answered where the run knows the answer and left open where only the authors do.

Items: Collins et al. (2024), BMJ 385:e078378, doi 10.1136/bmj-2023-078378; named here in our own words.
"""

from collections.abc import Mapping
from typing import Any

from .words import counted, listing, short

OPEN = "For the authors to fill in."


def checklist(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per item: number, topic, answer, and whether the run filled it in."""
    answers = _methods(result) | _results(result)
    return [
        {"item": item, "topic": topic, "answer": answers.get(item, OPEN), "filled": item in answers}
        for item, topic in _ITEMS
    ]


def _methods(result: Mapping[str, Any]) -> dict[str, str]:
    cohort, model, settings = result["cohort"], result["model"], result["settings"]
    predictors = [cohort["stage_column"], *settings["covariates"]]
    horizons = listing([horizon["words"] for horizon in result["horizons"]])
    fitted = bool(model.get("causes"))
    return {
        "1": f"{result['title']}: development and internal validation of a model for {cohort['events'][0]}.",
        "4": f"To compare {cohort['events'][0]} between stages and to predict it at {horizons}.",
        "5a": f"The table {cohort['file']} ({counted(cohort['rows'], 'row')}); its source is for the authors to name.",
        "7": _left_out(cohort),
        "8a": f"{listing(cohort['events'])}, in {cohort['unit']} from time zero; answered at {horizons}.",
        "9a": f"Chosen by the user before fitting: {listing(predictors)}. No selection by p value.",
        "10": _size(model),
        "11": _missing(cohort),
        "12a": _partition(result),
        "12b": "Numbers enter as they are, or as the logarithm or spline asked for; categories by levels.",
        "12c": _building(model) if fitted else "Curves of the stages; too few events for a model.",
        "12e": "C-index (Harrell, Uno), AUC, Brier score and IPA with censoring weights, calibration, net benefit.",
        "13": "Not applicable to times; censoring is handled by weights.",
        "15": f"Chance of {cohort['events'][0]} by a time, with a 95 % interval; no classes and no threshold.",
        "16": "Evaluation patients come from the same cohort as the training patients; nothing external was used.",
        "18f": f"leukoscope {result['provenance']['version']}; command: {result['provenance']['command']}",
    }


def _results(result: Mapping[str, Any]) -> dict[str, str]:
    cohort, model = result["cohort"], result["model"]
    follow_up = cohort["median_follow_up"]["value"]
    middle = "not estimable" if follow_up is None else f"{short(follow_up)} {cohort['unit']}"
    answers = {
        "20a": f"{cohort['patients']} of {cohort['rows']} rows used; median follow-up (reverse Kaplan–Meier) {middle}.",
        "20b": listing([f"{stage['name']}: {stage['patients']}" for stage in cohort["stages"]]) + " patients.",
        "27a": "A missing or unknown value is refused; a value outside the range seen is answered with a warning.",
        "27b": "For research. The answer never chooses a treatment and must not be used for decisions about a patient.",
    }
    if model.get("causes"):
        answers["21"] = (
            ", ".join(counted(model[f"{noun}s"], noun) for noun in ("patient", "event", "coefficient")) + "."
        )
        answers["22"] = "model.json holds all coefficients, their covariance and the baseline hazards."
        answers["24"] = "Not applicable: no model was updated."
        answers["12f"] = "Not applicable: no model was updated."
    if result["judgement"]:
        chosen = result["judgement"]["estimators"]["model"]["c_index"]
        answers["23a"] = (
            f"Cross-validated C-index {chosen['value']:.3f} ({chosen['low']:.3f} to {chosen['high']:.3f}); "
            "all figures on this page."
        )
    if result["limits"]:
        answers["26"] = " ".join(result["limits"]) + " Further limits are for the authors."
    return answers


def _left_out(cohort: Mapping[str, Any]) -> str:
    reasons = [f"{row['rows']}: {row['reason']}" for row in cohort["dropped"]]
    return f"Rows left out: {'; '.join(reasons)}." if reasons else "Every row was used."


def _missing(cohort: Mapping[str, Any]) -> str:
    counts = [f"{name} {count}" for name, count in cohort["missing"].items() if count]
    return (
        f"Missing values: {listing(counts)}. Complete cases only; nothing was imputed." if counts else "None missing."
    )


def _size(model: Mapping[str, Any]) -> str:
    if not model.get("causes") or not model["size"]:
        return "No size was planned by the program."
    size = model["size"]
    return (
        f"Riley's criteria ask for {counted(size['patients'], 'patient')} ({size['events']:.0f} events) for "
        f"{counted(size['coefficients'], 'coefficient')}; there are {model['patients']:,} "
        f"with {model['events']:,} events."
    )


def _partition(result: Mapping[str, Any]) -> str:
    judged = result["judgement"]
    if not judged:
        return "No partition: the model was not judged."
    repeats = "Once" if judged["repeats"] == 1 else f"{judged['repeats']} times"
    return f"{repeats} {judged['folds']}-fold cross-validation; the final model uses all patients."


def _building(model: Mapping[str, Any]) -> str:
    repaired = [
        f"{check['column']} ({cause['event']}): {check['action']}"
        for cause in model["causes"]
        for check in cause["proportional"]["columns"]
        if check["action"] != "none needed"
    ]
    done = f"Hazards were not proportional for {'; '.join(repaired)}." if repaired else "Hazards were proportional."
    penalty = (
        f" Ridge penalty {model['penalty']:g}, chosen by the cross-validated partial likelihood."
        if model["penalty"]
        else ""
    )
    return f"{model['kind']} model, Efron's ties. {done}{penalty} Validated by cross-validation and bootstrap."


_ITEMS = (
    ("1", "Title: a prediction model, the people and the outcome"),
    ("2", "Abstract"),
    ("3a", "Why the model is needed"),
    ("3b", "For whom and for what use"),
    ("3c", "Known inequalities between groups of people"),
    ("4", "Aims: development, evaluation or both"),
    ("5a", "Where the data come from"),
    ("5b", "Dates of enrolment and follow-up"),
    ("6a", "Setting: hospitals, countries"),
    ("6b", "Who was eligible"),
    ("6c", "Treatments received"),
    ("7", "How the data were prepared and checked"),
    ("8a", "The outcome and its horizon"),
    ("8b", "Who judged the outcome"),
    ("8c", "Blinding of the outcome"),
    ("9a", "How predictors were chosen"),
    ("9b", "How predictors were measured"),
    ("9c", "Who judged the predictors"),
    ("10", "Sample size"),
    ("11", "Missing data"),
    ("12a", "Use and partition of the data"),
    ("12b", "How predictors entered"),
    ("12c", "Model type, building, internal validation"),
    ("12d", "Differences between centres"),
    ("12e", "Measures of performance"),
    ("12f", "Updating of the model"),
    ("12g", "How predictions were computed in an evaluation"),
    ("13", "Imbalance of classes"),
    ("14", "Fairness"),
    ("15", "What the model gives out"),
    ("16", "Training against evaluation data"),
    ("17", "Ethical approval"),
    ("18a", "Funding"),
    ("18b", "Conflicts of interest"),
    ("18c", "Protocol"),
    ("18d", "Registration"),
    ("18e", "Data sharing"),
    ("18f", "Code sharing"),
    ("19", "Involvement of patients and the public"),
    ("20a", "Flow of participants"),
    ("20b", "Characteristics of participants"),
    ("20c", "Comparison with the development data"),
    ("21", "Participants and events in each analysis"),
    ("22", "The full model"),
    ("23a", "Performance with intervals"),
    ("23b", "Performance between centres"),
    ("24", "Results of updating"),
    ("25", "Interpretation, fairness included"),
    ("26", "Limitations"),
    ("27a", "Poor or missing input at use"),
    ("27b", "What users need to know and do"),
    ("27c", "Next steps"),
)
