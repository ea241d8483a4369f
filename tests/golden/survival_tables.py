"""The tables that R and this program are both asked about: from lifelines, from the shared data, and drawn at random.

A table is a dict of columns: `time`, `state` (0 censored, 1 the event, 2 a competing one), `group` (0, 1, …), and
where they exist `entry`, `x` (a number), `z` (0 or 1). `tables` draws nothing at random that a seed does not fix.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines import datasets

Columns = dict[str, np.ndarray]
RANDOM = 300  # tables of `for_logrank`


def _of(frame: pd.DataFrame, **columns: object) -> Columns:
    made = {name: np.asarray(frame[what] if isinstance(what, str) else what) for name, what in columns.items()}
    frame = pd.DataFrame(made).dropna()
    whole = ("state", "group")
    return {name: frame[name].to_numpy(int if name in whole else float) for name in frame}


def of_lifelines() -> dict[str, Columns]:
    """Return nine tables that come with lifelines."""
    rossi, lung, gbsg = datasets.load_rossi(), datasets.load_lung(), datasets.load_gbsg2()
    kidney, waltons, larynx = (datasets.load_kidney_transplant(), datasets.load_waltons(), datasets.load_larynx())
    leukemia, lymphoma, dd = datasets.load_leukemia(), datasets.load_lymphoma(), datasets.load_dd()
    stage = larynx["Stage_II"] + 2 * larynx["Stage_III"] + 3 * larynx["Stage_IV"]
    return {
        "rossi": _of(rossi, time="week", state="arrest", group="race", x="age", z="fin"),
        "lung": _of(lung, time="time", state="status", group=lung["sex"] - 1, x="age", z=lung["ph.ecog"] > 0),
        "gbsg2": _of(
            gbsg,
            time="time",
            state="cens",
            group=gbsg["tgrade"].map({"I": 0, "II": 1, "III": 2}),
            x="age",
            z=gbsg["horTh"] == "yes",
        ),
        "kidney": _of(
            kidney,
            time="time",
            state="death",
            group=kidney["black_male"] + 2 * kidney["white_male"] + 3 * kidney["black_female"],
            x="age",
            z=kidney["age"] > 45,
        ),
        "waltons": _of(waltons, time="T", state="E", group=waltons["group"] == "control"),
        "larynx": _of(larynx, time="time", state="death", group=stage, x="age", z=larynx["age"] > 65),
        "leukemia": _of(leukemia, time="t", state="status", group="Rx", x="logWBC", z="sex"),
        "lymphoma": _of(lymphoma, time="Time", state="Censor", group=lymphoma["Stage_group"] - 1),
        "dd": _of(
            dd,
            time="duration",
            state="observed",
            group=pd.Categorical(dd["un_continent_name"]).codes,
            x="start_year",
            z=dd["democracy"] == "Democracy",
        ),
    }


def of_shared(folder: Path) -> dict[str, Columns]:
    """Return three tables of the shared data, and one of them with late entry."""
    bmt, ebmt, wbc = (pd.read_csv(folder / "survival" / f"{name}.csv") for name in ("bmtcrr", "ebmt1", "wbc1"))
    phase = bmt["Phase"].map({"CR1": 0, "CR2": 1, "CR3": 2, "Relapse": 3})
    score = ebmt["score"].map({"Low risk": 0, "Medium risk": 1, "High risk": 2})
    entry = (ebmt["patid"] * 7) % 60
    late = (entry < ebmt["srv"]).to_numpy()
    return {
        "bmt": _of(bmt, time="ftime", state="Status", group=phase, x="Age", z=bmt["D"] == "AML"),
        "ebmt": _of(ebmt, time="srv", state="srvstat", group=score, x="age", z=ebmt["age"] > 40),
        "ebmt-late": {
            name: column[late]
            for name, column in _of(
                ebmt, time="srv", state="srvstat", group=score, entry=entry, x="age", z=ebmt["age"] > 40
            ).items()
        },
        "wbc": _of(
            wbc,
            time="tyears",
            state="d",
            group=np.digitize(wbc["sokal"], [0.8, 1.2], right=True),
            x="age",
            z=wbc["age"] > 60,
        ),
    }


def drawn(
    patients: int,
    *,
    seed: int,
    groups: int = 3,
    causes: int = 1,
    ties: float = 0.1,
    late: bool = False,
    zero: bool = False,
) -> Columns:
    """Draw a table whose groups and covariates differ; `ties` is the width of the steps of time."""
    rng = np.random.default_rng(seed)
    group, x, z = rng.integers(0, groups, patients), rng.normal(0, 1, patients).round(2), rng.integers(0, 2, patients)
    rate = np.exp(0.2 * group + 0.3 * x - 0.4 * z) / 20
    when, censored = rng.exponential(1 / rate), rng.uniform(2, 60, patients)
    cause = rng.integers(1, causes + 1, patients)
    time = np.minimum(when, censored)
    time = np.floor(time / ties) * ties if zero else np.ceil(time / ties) * ties
    columns = {"time": time.round(6), "state": np.where(when <= censored, cause, 0), "group": group, "x": x}
    columns["z"] = z.astype(float)
    if late:
        columns["entry"] = (np.floor(rng.uniform(0, 12, patients) / ties) * ties).round(6)
        kept = columns["entry"] < columns["time"]
        columns = {name: column[kept] for name, column in columns.items()}
    return columns


def of_chance() -> dict[str, Columns]:
    """Return eight tables drawn at random, each hard in one way."""
    return {
        "tied": drawn(400, seed=1, ties=5),
        "heavily-tied": drawn(600, seed=2, ties=20, groups=2),
        "untied": drawn(300, seed=3, ties=1e-5),
        "zeros": drawn(250, seed=4, ties=3, zero=True),
        "competing": drawn(500, seed=5, causes=2),
        "competing-tied": drawn(400, seed=6, causes=2, ties=4),
        "late": drawn(500, seed=7, late=True, ties=1),
        "competing-late": drawn(600, seed=8, causes=2, late=True),
    }


def for_logrank() -> Iterator[Columns]:
    """Yield 300 tables of 20 to 20,000 patients in 2 to 5 groups, with few and many ties."""
    rng = np.random.default_rng(16)
    for seed in range(RANDOM):
        patients = int(np.exp(rng.uniform(np.log(20), np.log(20_000))))
        columns = drawn(
            patients, seed=1000 + seed, groups=int(rng.integers(2, 6)), ties=float(rng.choice([0.01, 1, 6]))
        )
        yield {name: columns[name] for name in ("time", "state", "group")}
