"""Subject bootstrap of every metric against a loop over scikit-learn: seconds, and the ratio per replicate.

Usage: python benchmarks/bootstrap.py [--cells 15000] [--groups 100] [--replicates 2000] [--peer 10]
"""

import argparse
import resource
import time

import numpy as np
from board import Chart, median, publish, spent
from sklearn import metrics as reference

from leukoscope.evaluation.intervals import bootstrap
from leukoscope.evaluation.outcomes import Outcome, measure


def main() -> None:
    """Time both in one process on the same cells and print one table."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cells", 15_000), ("groups", 100), ("replicates", 2000), ("peer", 10)):
        ask.add_argument(f"--{name}", type=int, default=default)
    asked = ask.parse_args()
    outcome = synthetic_outcome(cells=asked.cells, groups=asked.groups)
    ours, theirs = [], []
    for _ in range(3):  # in turn
        ours.append(spent(lambda: ours_seconds(outcome, asked.replicates))[1])
        theirs.append(spent(lambda: peer_seconds(outcome, asked.peer))[1])
    mine, peer = median(ours), median(theirs)
    each, each_peer = (1000 * mine.processor / asked.replicates, 1000 * peer.processor / asked.peer)
    publish(
        "bootstrap",
        title="Subject bootstrap beside a loop over scikit-learn",
        about=f"{asked.cells:,} cells of {asked.groups} subject groups, 10 metrics; medians of three rounds, in turn, "
        "in one process.",
        columns=["", "replicates", "seconds", "processor ms a replicate", "ratio"],
        rows=[
            ["leukoscope", asked.replicates, f"{mine.seconds:.2f}", f"{each:.3f}", "1"],
            ["scikit-learn", asked.peer, f"{peer.seconds:.2f}", f"{each_peer:.1f}", f"{each_peer / each:.0f}"],
        ],
        chart=Chart({"leukoscope": each, "scikit-learn": each_peer}, "processor ms a replicate"),
        notes=f"Peak memory of the whole process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB.",
    )


def synthetic_outcome(*, cells: int, groups: int) -> Outcome:
    """Return cells with overlapping scores, from a seed."""
    rng = np.random.default_rng(0)
    group = rng.integers(groups, size=cells)
    labels = (group % 3 > 0).astype(np.int64)
    chance = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=cells))))
    probabilities = np.stack([1 - chance, chance], axis=1)
    return Outcome(labels, probabilities, (chance > 0.5).astype(np.int64), np.abs(chance - 0.5), {}, group)


def ours_seconds(outcome: Outcome, replicates: int) -> float:
    """Return the seconds of our bootstrap."""
    started = time.perf_counter()
    groups, cells = int(outcome.groups.max()) + 1, len(outcome.labels)
    bootstrap(lambda weights: measure(outcome, weights), groups=groups, cells=cells, replicates=replicates)
    return time.perf_counter() - started


def peer_seconds(outcome: Outcome, replicates: int) -> float:
    """Return the seconds of the plain loop: draw groups, gather their cells, call scikit-learn for each metric."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(outcome.groups == group) for group in np.unique(outcome.groups)]
    started = time.perf_counter()
    for _ in range(replicates):
        drawn = np.concatenate([rows[pick] for pick in rng.integers(len(rows), size=len(rows))])
        labels, said, chance = outcome.labels[drawn], outcome.predicted[drawn], outcome.probabilities[drawn, 1]
        reference.accuracy_score(labels, said)
        reference.balanced_accuracy_score(labels, said)
        reference.f1_score(labels, said, average="weighted")
        reference.recall_score(labels, said)
        reference.recall_score(labels, said, pos_label=0)
        reference.matthews_corrcoef(labels, said)
        reference.roc_auc_score(labels, chance)
        reference.average_precision_score(labels, chance)
        reference.brier_score_loss(labels, chance)
        _calibration_error(labels, chance)
    return time.perf_counter() - started


def _calibration_error(labels: np.ndarray, chance: np.ndarray) -> float:
    bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], chance)
    gaps = [abs((labels[bins == bin_] - chance[bins == bin_]).sum()) for bin_ in range(10)]
    return float(sum(gaps) / len(labels))


if __name__ == "__main__":
    main()
