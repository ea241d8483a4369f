"""The fitted model as survival.json holds it: hazard ratios, the check of proportional hazards, what was done."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from .cox import CauseFit, Design, NoFitError, proportionality
from .curves import Z95, Array
from .fine_gray import fit_fine_gray
from .fitting import ADVISED_PER_COEFFICIENT, Fitted
from .model import Term


def explain_fit(fitted: Fitted, *, extrapolation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe the model of every cause, the Fine–Gray model where events compete, and the extrapolating curve."""
    if not fitted.causes or fitted.design is None:
        return {
            "kind": "curves of the stages",
            "penalty": 0.0,
            "unmodelled": fitted.model.unmodelled,
            "notes": list(fitted.notes),
        }
    design = fitted.design
    events = int((design.cohort.state == 1).sum())
    return {
        "kind": "Cox" if len(fitted.causes) == 1 else "cause-specific Cox",
        "patients": len(design.cohort),
        "events": events,
        "coefficients": fitted.coefficients,
        "events_per_coefficient": events / fitted.coefficients if fitted.coefficients else None,
        "sparse": events < ADVISED_PER_COEFFICIENT * fitted.coefficients,
        "penalty": fitted.model.causes[0].penalty,
        "causes": [_cause(design, fit, number) for number, fit in enumerate(fitted.causes)],
        "fine_gray": _fine_gray(design) if len(fitted.causes) > 1 else None,
        "references": _references(design),
        "extrapolation": {key: extrapolation[key] for key in ("family", "aic", "aic_of", "last")}
        if extrapolation
        else None,
        "unmodelled": fitted.model.unmodelled,
        "notes": list(fitted.notes),
    }


def _cause(design: Design, fit: CauseFit, number: int) -> dict[str, Any]:
    model, simple = fit.model, fit.simple
    whole = proportionality(design, simple, cause=number) if simple.terms else None
    return {
        "event": model.event,
        "events": int((design.cohort.state == number + 1).sum()),
        "ratios": hazard_ratios(model.terms, model.coefficients, model.covariance),
        "strata": list(model.strata),
        "proportional": {
            "all": vars(whole) if whole else None,
            "columns": [
                {"column": check.column, **vars(check.test), "p_holm": check.p_holm, "action": check.action}
                for check in fit.checks
            ],
        },
        "before_repair": None
        if simple is model
        else hazard_ratios(simple.terms, simple.coefficients, simple.covariance),
    }


def hazard_ratios(terms: Sequence[Term], coefficients: Array, covariance: Array) -> list[dict[str, Any]]:
    """Return one row per term: coefficient, standard error, hazard ratio with its 95 % interval, p."""
    errors = np.sqrt(np.diag(covariance))
    return [
        {
            "term": term.name, "column": term.column, "level": term.level, "coefficient": float(b), "error": float(e),
            "ratio": float(np.exp(b)), "low": float(np.exp(b - Z95 * e)), "high": float(np.exp(b + Z95 * e)),
            "p": float(2 * norm.sf(abs(b / e))) if e > 0 else None,
        }
        for term, b, e in zip(terms, coefficients, errors, strict=True)
    ]  # fmt: skip


def _fine_gray(design: Design) -> dict[str, Any] | None:
    if design.cohort.entry is not None or not design.terms:
        return None
    try:
        fit = fit_fine_gray(design, design.terms)
    except NoFitError:
        return None
    return {"event": design.cohort.events[0], "ratios": hazard_ratios(fit.terms, fit.coefficients, fit.covariance)}


def _references(design: Design) -> dict[str, str]:
    """Name what each category is compared with."""
    references = {}
    for name in dict.fromkeys(term.column for term in design.terms if term.level):
        named = {term.level for term in design.terms if term.column == name}
        values = design.columns[name]
        levels = [level for level in np.unique(values) if level not in named]
        references[name] = " or ".join(map(str, levels))
    return references
