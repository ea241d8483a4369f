"""Judged cells and fields as rows: what the tables, JSON and other programs get of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..fields.table import outline_text

if TYPE_CHECKING:
    from datetime import datetime

    from ..bundle.manifest import Manifest
    from ..interop.case_result import CaseResult, Specimen
    from .differential import Differential
    from .fields import JudgedCell, Smear

_COUNTED = ("cells", "called", "unsure", "refused", "not_asked")
# What a cell of a field has beside the columns of every prediction.
CELL_COLUMNS = ("cell", "left", "top", "right", "bottom", "area_um2", "nucleus_um2", "sharpness", "flags", "outline")
FIELD_COLUMNS = (
    "field",
    "subject",
    "width",
    "height",
    "cells",
    "called",
    "unsure",
    "refused",
    "not_asked",
    "share",
    "share_low",
    "share_high",
    "um_per_px",
    "um_low",
    "um_high",
    "scale",
    "problem",
)


def cell_values(judged: JudgedCell) -> dict[str, Any]:
    """Return the columns CELL_COLUMNS of one judged cell, in pixels of its field unless the name says otherwise."""
    cell = judged.cell
    left, top, right, bottom = cell.box
    return {
        "cell": cell.number,
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "area_um2": round(cell.area_um2, 1),
        "nucleus_um2": round(cell.nucleus_um2, 1),
        "sharpness": round(cell.sharpness, 3),
        "flags": "; ".join(cell.flags),
        "outline": outline_text(cell.outline),
    }


def prediction_row(path: str, judged: JudgedCell, classes: Sequence[str], types: Sequence[str] = ()) -> dict[str, Any]:
    """Return a judged cell as a row of predictions.csv; its path is that of the field."""
    return judged.opinion.row(classes, types) | {"path": path} | cell_values(judged)


def field_values(smear: Smear, *, subject: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Return a field as a row of fields.csv; `summary` counts its cells (inference.subjects)."""
    share = summary.get("share") or {}
    scale = smear.scale
    return {
        "field": str(smear.path),
        "subject": subject,
        "width": smear.size[0],
        "height": smear.size[1],
        **{name: summary[name] for name in _COUNTED},
        "share": share.get("value"),
        "share_low": share.get("low"),
        "share_high": share.get("high"),
        "um_per_px": round(scale.um_per_px, 5),
        "um_low": round(scale.low, 5),
        "um_high": round(scale.high, 5),
        "scale": scale.source,
        "problem": smear.problem,
    }


def unusable_field(path: str, *, subject: str, problem: str) -> dict[str, Any]:
    """Return the row of a field that cannot be used."""
    return dict.fromkeys(FIELD_COLUMNS, "") | {"field": path, "subject": subject, "problem": problem, "cells": 0}


def light(judged: JudgedCell) -> JudgedCell:
    """Return a judged cell without its pictures, so that a slide full of them stays small in memory."""
    bare = replace(judged.opinion, map=None, crop=None, embedding=None)
    return replace(judged, crop=judged.crop[:0], opinion=bare)


SUBJECT_COLUMNS = ("subject", *_COUNTED, "share", "share_low", "share_high")


def subject_row(summary: dict[str, Any]) -> dict[str, Any]:
    """Return one subject's summary (inference.subjects) as a row of subjects.csv."""
    share = summary.get("share") or {}
    ends = {"share": share.get("value"), "share_low": share.get("low"), "share_high": share.get("high")}
    return {name: summary[name] for name in ("subject", *_COUNTED)} | ends


DIFFERENTIAL_COLUMNS = ("level", "name", "kind", "cells", "percent", "low", "high", "white_cells", "goal")


def differential_rows(level: str, name: str, counted: Differential) -> Iterator[dict[str, Any]]:
    """Yield a differential as rows of differential.csv; level: 'all', 'subject' or 'field'."""
    for row in counted.table():
        yield {"level": level, "name": name, "white_cells": counted.white, "goal": counted.goal} | row


def case_result(
    summary: dict[str, Any],
    counted: Differential | None,
    manifest: Manifest,
    *,
    when: datetime,
    specimen: Specimen = "",
    laboratory: str = "",
) -> CaseResult:
    """Return one subject's numbers as a hospital's systems take them (interop.case_result).

    The rows are those of the differential; without a type head, or with too few white cells for percentages, they are
    counts and the share of blasts among the cells that were answered.
    """
    from importlib import metadata

    from ..interop.case_result import CaseResult, Row

    rows = [Row(name.replace("_", " "), summary[name], "{cells}") for name in _COUNTED]
    if counted is not None:
        rows += [Row(row.name, row.cells, "{cells}") for row in counted.rows]
        named = {"unsure": "type unsure"}  # beside the cells whose class is unsure
        apart = [(named.get(name, name), cells) for name, cells in counted.apart.items() if name != "refused"]
        rows += [Row(name, cells, "{cells}") for name, cells in apart]
        rows += [Row(row.name, row.percent, "%", row.low, row.high) for row in counted.rows if row.percent is not None]
    elif (share := summary.get("share")) and share["value"] is not None:
        ends = [100 * share[end] for end in ("value", "low", "high")]
        rows.append(Row("blast among cells answered", ends[0], "%", ends[1], ends[2]))
    return CaseResult(
        case=summary["subject"] or "all images",
        laboratory=laboratory,
        when=when,
        rows=tuple(rows),
        specimen=specimen,
        algorithm=f"leukoscope {metadata.version('leukoscope')}, {manifest.name} {manifest.seal[:16]}",
        patient_id=summary["subject"],
        conclusion=counted.said if counted is not None else "",
    )
