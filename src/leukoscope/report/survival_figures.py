"""The drawings of survival.html: curves with numbers at risk, hazard ratios, calibration, one patient's curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import figures
from .figures import INK, MODEL, MUTED, PAPER, SIZE, canvas, drawing

# Stages from mild to grave, cool to warm: (placeholder while drawing, on light ground, on dark ground).
STAGE_COLOURS = (
    ("#0a0a01", "#1f6fb2", "#6bb6ee"),
    ("#0a0a02", "#0b7f73", "#3fc7b4"),
    ("#0a0a03", "#a86a00", "#f0b54a"),
    ("#0a0a04", "#b8402a", "#f28b76"),
    ("#0a0a05", "#7a3b9a", "#c79be0"),
)
_LINES = ("-", "--", ":")
_SMALL = 9.5
_ROW = 13  # points between rows of numbers at risk


def stage_roles() -> dict[str, tuple[str, str, str]]:
    """Return the colours of the stages as roles of the page: 'stage-1' and up."""
    return {f"stage-{number}": colours for number, colours in enumerate(STAGE_COLOURS, start=1)}


def for_page(svg: str, *, alt: str) -> str:
    """Return a drawing whose colours, those of the stages too, follow the page."""
    for number, (placeholder, *_) in enumerate(STAGE_COLOURS, start=1):
        svg = svg.replace(placeholder, f"var(--stage-{number})")
    return figures.for_page(svg, alt=alt)


def for_file(svg: str) -> str:
    """Return a drawing in the colours of light ground, as a file of its own."""
    for placeholder, light, _ in STAGE_COLOURS:
        svg = svg.replace(placeholder, light)
    return figures.for_file(svg)


def stage_looks(stages: Sequence[str]) -> dict[str, str]:
    """Return the role of each stage's colour on the page."""
    return {name: f"stage-{_number(place, len(stages)) + 1}" for place, name in enumerate(stages)}


def _number(place: int, stages: int) -> int:
    """Return which colour a stage has; a few stages are spread over the whole scale."""
    count = len(STAGE_COLOURS)
    return {2: (0, 3), 3: (0, 2, 3), 4: (0, 1, 2, 3)}.get(stages, tuple(range(count)))[place % min(stages, count)]


def _style(place: int, stages: int) -> dict[str, Any]:
    line = _LINES[place // len(STAGE_COLOURS) % len(_LINES)]
    return {"color": STAGE_COLOURS[_number(place, stages)][0], "linestyle": line}


def stage_curves(comparison: Mapping[str, Any], *, curve: str, unit: str, since: str = "the start") -> str:
    """Draw one curve per stage with its band, and the numbers at risk below."""
    stages = comparison["stages"]
    rows = len(stages) * (1.15 if _fit_beside(stages) else 2.05) + 1
    with canvas(height=3.4 + _ROW * rows / 72) as (figure, axes):
        for place, (name, stage) in enumerate(stages.items()):
            _step(axes, stage["curves"][curve], name=name, **_style(place, len(stages)))
        _percent_axis(axes, label="of 100 patients")
        axes.set_xlabel(f"{unit} since {since}", labelpad=2)
        axes.set_xlim(0, max(stage["curves"][curve]["last"] for stage in stages.values()))
        ticks = [tick for tick in comparison["ticks"] if tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        if len(stages) > 1:
            axes.legend(loc="upper right" if curve == "survival" else "upper left", fontsize=_SMALL, borderaxespad=0.2)
        _numbers_at_risk(axes, stages, comparison["ticks"])
        return drawing(figure, f"curve-{_plain(curve)}")


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _step(axes: Any, curve: Mapping[str, Any], *, name: str, color: str, linestyle: str) -> None:
    start, last = curve["start"], curve["last"]
    times = np.array([0.0, *curve["times"], last])
    value, low, high = (_padded(curve[key], start) for key in ("value", "low", "high"))
    axes.fill_between(times, low, high, step="post", color=color, alpha=0.13, linewidth=0)
    axes.step(times, value, where="post", color=color, linestyle=linestyle, label=name, linewidth=1.8)


def _padded(values: Sequence[float | None], start: float) -> Any:
    """Return values from the start to the last follow-up; None, a limit that does not exist, becomes NaN: no shade."""
    inner = [start, *values]
    return np.array([*inner, inner[-1]], dtype=float)


def _percent_axis(axes: Any, *, label: str) -> None:
    axes.set_ylim(0, 1.01)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.set_ylabel(label)


def _numbers_at_risk(axes: Any, stages: Mapping[str, Any], ticks: Sequence[float]) -> None:
    """Write under the axis how many patients each stage still has under observation."""
    _under(axes, 0, 3.4 * _ROW, "still under observation", colour=MUTED)
    beside = _fit_beside(stages)
    line = 3.4 * _ROW
    for place, (name, stage) in enumerate(stages.items()):
        line += _ROW * (1.15 if beside else 1.05)
        colour = _style(place, len(stages))["color"]
        _under(axes, 0, line, name, colour=colour, align="right" if beside else "left", aside=-10 if beside else 0)
        line += 0 if beside else _ROW
        for tick, count in zip(ticks, stage["at_risk"], strict=True):
            if tick <= axes.get_xlim()[1]:
                _under(axes, tick, line, f"{count:,}", colour=INK, align="center" if tick else "left")


def _fit_beside(stages: Mapping[str, Any]) -> bool:
    """Tell whether the names of the stages are short enough for the margin."""
    return max(map(len, stages)) <= 8


def _under(axes: Any, x: float, down: float, text: str, *, colour: str, align: str = "left", aside: float = 0) -> None:
    axes.annotate(
        text,
        xy=(x, 0),
        xycoords=("data", "axes fraction"),
        xytext=(aside, -down),
        textcoords="offset points",
        ha=align,
        va="top",
        color=colour,
        fontsize=_SMALL,
        annotation_clip=False,
    )


def hazard_ratios(rows: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Draw hazard ratios with their intervals on a logarithmic scale."""
    with canvas(height=0.9 + 0.52 * len(rows)) as (figure, axes):
        places = np.arange(len(rows))[::-1]
        axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        low, high = (np.clip([row[key] or row["ratio"] for row in rows], 1e-3, 1e3) for key in ("low", "high"))
        axes.hlines(places, low, high, color=MODEL, linewidth=2)
        axes.scatter([row["ratio"] for row in rows], places, s=46, color=MODEL, edgecolor=PAPER, zorder=3)
        for place, row in zip(places, rows, strict=True):
            axes.annotate(
                row["term"],
                (0, place),
                xycoords=("axes fraction", "data"),
                xytext=(0, 7),
                textcoords="offset points",
                fontsize=_SMALL,
            )
        axes.set_xscale("log")
        limits = min(0.5, float(low.min()) / 1.1), max(2.0, float(high.max()) * 1.1)
        axes.set_xlim(limits)
        ticks = [tick for tick in (0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 4, 10, 30, 100) if limits[0] <= tick <= limits[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_ylim(-0.5, len(rows) - 0.3)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("hazard ratio (right of 1: events come sooner)")
        return drawing(figure, name)


def calibration(entry: Mapping[str, Any]) -> str:
    """Draw, at one horizon, how many had the event against how many the model expected, in groups of rising risk."""
    with canvas(height=3.6) as (figure, axes):
        groups = entry["groups"]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        x = [group["predicted"] for group in groups]
        limits = ([np.nan if group[key] is None else group[key] for group in groups] for key in ("low", "high"))
        axes.vlines(x, *limits, color=MODEL, alpha=0.5)
        axes.scatter(x, [group["observed"] for group in groups], s=50, color=MODEL, edgecolor=PAPER, zorder=3)
        if curve := entry["curve"]:
            axes.fill_between(curve["risk"], curve["low"], curve["high"], color=MODEL, alpha=0.13, linewidth=0)
            axes.plot(curve["risk"], curve["smooth"], color=MODEL, linewidth=1.8)
        _percent_axis(axes, label="of 100, had the event")
        axes.set_xlim(0, 1.01)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
        axes.set_xlabel("of 100, expected by the model")
        return drawing(figure, f"calibration-{_plain(entry['words'])}")


def effect_in_time(effect: Mapping[str, Any], *, unit: str, name: str) -> str:
    """Draw scaled Schoenfeld residuals of a term over time with their smooth; a level line is one effect for all."""
    with canvas(height=2.7) as (figure, axes):
        axes.axhline(effect["coefficient"], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.scatter(effect["times"], effect["values"], s=9, color=SIZE, alpha=0.45, linewidth=0)
        axes.fill_between(effect["grid"], effect["low"], effect["high"], color=MODEL, alpha=0.15, linewidth=0)
        axes.plot(effect["grid"], effect["smooth"], color=MODEL, linewidth=1.8)
        spread = np.quantile(effect["values"], [0.02, 0.98])
        axes.set_ylim(min(*effect["low"], spread[0]), max(*effect["high"], spread[1]))
        axes.set_xlabel(f"{unit} since the start")
        axes.set_ylabel("log hazard ratio")
        return drawing(figure, name)


def spline(found: Mapping[str, Any], *, name: str) -> str:
    """Draw the hazard ratio of a number to its median, with its band, on a logarithmic scale."""
    with canvas(height=3.0) as (figure, axes):
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        low, high = (np.clip(found[side], 1e-2, 1e2) for side in ("low", "high"))
        axes.fill_between(found["grid"], low, high, color=MODEL, alpha=0.13, linewidth=0)
        axes.plot(found["grid"], np.clip(found["ratio"], 1e-2, 1e2), color=MODEL, linewidth=1.8)
        axes.set_yscale("log")
        limits = min(0.5, float(low.min())), max(2.0, float(high.max()))
        ticks = [tick for tick in (0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 4, 10, 30, 100) if limits[0] <= tick <= limits[1]]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(
            found["column"].removeprefix("spline(").removesuffix(")").removeprefix("log(").removesuffix(")")
        )
        axes.set_ylabel("hazard ratio to the median")
        return drawing(figure, name)


def nomogram(sheet: Mapping[str, Any]) -> str:
    """Draw the model as scales of points to add up, and of the chance that their total means."""
    columns, chances, total = sheet["columns"], sheet["chances"], sheet["total"]
    rows = len(columns) + len(chances) + 2
    with canvas(height=0.62 * rows + 0.3) as (figure, axes):
        axes.set_axis_off()
        axes.set_xlim(-62, 104)
        axes.set_ylim(-rows + 0.4, 0.6)
        tens = [float(points) for points in range(0, 101, 20)]
        scales: list[tuple[str, Sequence[str], Sequence[float], float]] = [
            ("points", [f"{points:.0f}" for points in tens], tens, 1.0)
        ]
        scales += [(scale["name"], scale["labels"], scale["points"], 1.0) for scale in columns]
        step = next(step for step in (10, 20, 50, 100, 200, 500) if total / step <= 8)
        marks = [float(mark) for mark in np.arange(0, total + 1e-9, step)]
        scales.append(("total of points", [f"{mark:.0f}" for mark in marks], marks, 100 / total))
        scales += [(scale["name"], scale["labels"], scale["points"], 100 / total) for scale in chances]
        for row, (name, labels, points, stretch) in enumerate(scales):
            _scale(axes, -row, name, labels=labels, points=[point * stretch for point in points])
        return drawing(figure, "nomogram")


def _width(label: str) -> float:
    """Return the points of a nomogram that a label takes up."""
    return 2.4 * len(label) + 2


def _scale(axes: Any, at: float, name: str, *, labels: Sequence[str], points: Sequence[float]) -> None:
    """Draw one scale; labels that would overlap are put below the line, every second one."""
    axes.annotate(name, (-62, at), fontsize=_SMALL, va="center", color=INK, annotation_clip=False)
    axes.hlines(at, min(points), max(points), color=MODEL, linewidth=1.2)
    order = np.argsort(points, kind="stable")
    last = {1: -np.inf, -1: -np.inf}
    for place in order:
        side = 1 if points[place] - last[1] >= _width(labels[place]) else -1
        axes.vlines(points[place], at, at + 0.1 * side, color=MODEL, linewidth=1.0)
        if points[place] - last[side] < _width(labels[place]):
            continue  # no space above or below: the mark is drawn without its number
        last[side] = points[place]
        axes.annotate(
            labels[place],
            (points[place], at + 0.14 * side),
            fontsize=_SMALL - 1,
            ha="center",
            va="bottom" if side > 0 else "top",
            color=INK,
        )


def decision(entry: Mapping[str, Any]) -> str:
    """Draw net benefit over thresholds: the model with its band, stage alone, treating all and treating none."""
    cuts, rules = entry["thresholds"], entry["rules"]
    with canvas(height=3.6) as (figure, axes):
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.fill_between(cuts, rules["model"]["low"], rules["model"]["high"], color=MODEL, alpha=0.13, linewidth=0)
        axes.plot(cuts, rules["model"]["value"], color=MODEL, linewidth=1.8, label="model")
        axes.plot(cuts, rules["stage alone"]["value"], color=SIZE, linewidth=1.4, linestyle="--", label="stage alone")
        axes.plot(cuts, rules["all"]["value"], color=INK, linewidth=1.2, linestyle=":", label="everybody")
        top = max(*rules["model"]["high"], *rules["all"]["value"], 0.02)
        axes.set_ylim(-0.25 * top, 1.05 * top)
        axes.set_xlim(0, cuts[-1])
        axes.set_xticks(
            ticks := [tick for tick in axes.get_xticks() if tick <= cuts[-1]], [f"{100 * t:.0f}" for t in ticks]
        )
        axes.set_yticks(ticks := axes.get_yticks()[1:-1], [f"{100 * tick:.0f}" for tick in ticks])
        axes.set_xlabel("threshold, chance of 100")
        axes.set_ylabel("net benefit, of 100 patients")
        axes.legend(loc="upper right", fontsize=_SMALL)
        return drawing(figure, f"decision-{_plain(entry['words'])}")


def prediction_curve(prediction: Any) -> str:
    """Draw one patient's survival (and, where events compete, the incidence of the event) with bands."""
    competing = len(prediction.events) > 1
    names = [("survival", MODEL)] if not competing else [("survival", MODEL), (prediction.events[0], SIZE)]
    with canvas() as (figure, axes):
        for name, colour in names:
            curve = prediction.curves[name]
            raw = {key: getattr(curve, key) for key in ("times", "value", "low", "high", "start", "last")}
            _step(axes, raw, name="free of every event" if name == "survival" else name, color=colour, linestyle="-")
        _percent_axis(axes, label="of 100 patients")
        axes.set_xlim(0, prediction.last)
        axes.set_xlabel(f"{prediction.unit} since the start")
        if competing:
            axes.legend(loc="best", fontsize=_SMALL)
        return drawing(figure, "prediction")
