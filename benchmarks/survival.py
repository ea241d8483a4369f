"""How long the survival study takes: fit and page for 2,000 patients; curves and log-rank test up to a million.

    python benchmarks/survival.py [--quick]

Prints a table; no file is kept. Peak memory is that of a process of its own for each row.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from leukoscope.report.survival import write_page
from leukoscope.survival.cohort import Cohort, read_cohort
from leukoscope.survival.curves import logrank, logrank_trend, pairwise, risk_table
from leukoscope.survival.fitting import curves_of
from leukoscope.survival.study import run_study, write_study
from leukoscope.survival.table import StudySettings

SETTINGS = StudySettings(time="months", event="died", stage="stage", covariates=("age", "wbc", "sex", "marrow"))


def patients(count: int, *, seed: int = 0) -> Cohort:
    """Draw a cohort of four stages and four covariates; times are continuous, so that almost none are tied."""
    rng = np.random.default_rng(seed)
    stage, age, wbc = rng.integers(0, 4, count), rng.normal(50, 15, count), rng.normal(size=count)
    time_months = rng.exponential(60 * np.exp(-0.4 * stage - 0.02 * (age - 50) - 0.2 * wbc))
    censored = rng.uniform(1, 120, count)
    return Cohort(
        time=np.minimum(time_months, censored),
        state=(time_months <= censored).astype(np.int64),
        stage=stage,
        stages=("I", "II", "III", "IV"),
        ordered=True,
        unit="months",
        events=("death",),
        covariates={
            "age": age,
            "wbc": wbc,
            "sex": rng.choice(["female", "male"], count),
            "marrow": rng.choice(["related", "unrelated", "cord"], count),
        },
    )


def curves_and_tests(cohort: Cohort) -> None:
    """Estimate a curve with its band for every stage, and test for difference, trend and pairs."""
    for place in range(len(cohort.stages)):
        curves_of(cohort.take(cohort.stage == place))
    table = risk_table(cohort.time, cohort.state, group=cohort.stage, groups=len(cohort.stages))
    logrank(table)
    logrank_trend(table)
    pairwise(table)


def whole_study(cohort: Cohort) -> None:
    """Fit, judge, and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        study = run_study(cohort, SETTINGS)
        write_study(Path(folder), study)
        write_page(Path(folder), study.result)


def from_csv(cohort: Cohort) -> None:
    """Read the cohort from a file, then curves and tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cohort.csv"
        rows = zip(cohort.time, cohort.state, cohort.stage, strict=True)
        path.write_text("months,died,stage\n" + "\n".join(f"{t:.4f},{s},{g}" for t, s, g in rows) + "\n")
        curves_and_tests(read_cohort(path, StudySettings(time="months", event="died", stage="stage")))


def _measure(
    task: Callable[[Cohort], None], count: int, answer: "multiprocessing.SimpleQueue[tuple[float, float, float]]"
) -> None:
    cohort = patients(count)
    started, busy = time.perf_counter(), time.process_time()
    task(cohort)
    seconds, processor = time.perf_counter() - started, time.process_time() - busy
    answer.put((seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the patients")
    scale = 10 if parser.parse_args().quick else 1
    rows = [
        ("fit, judge, page", whole_study, 2_000, "under 30 s"),
        ("curves and tests", curves_and_tests, 250_000, ""),
        ("curves and tests", curves_and_tests, 1_000_000, "under 20 s"),
        ("the same, read from CSV", from_csv, 1_000_000, ""),
    ]
    print(f"{'task':26}{'patients':>12}{'seconds':>10}{'CPU s':>8}{'peak MB':>10}  goal")
    context = multiprocessing.get_context("spawn")
    for name, task, count, goal in rows:
        answer = context.SimpleQueue()
        process = context.Process(target=_measure, args=(task, count // scale, answer))
        process.start()
        process.join()
        seconds, processor, megabytes = answer.get()
        print(f"{name:26}{count // scale:>12,}{seconds:>10.2f}{processor:>8.2f}{megabytes:>10.0f}  {goal}")


if __name__ == "__main__":
    main()
