"""Training of a small prepared run, from its files to its files."""

from collections.abc import Callable
from pathlib import Path

from leukoscope.training.loop import train



def test_thin(make_run: Callable[..., Path]) -> None:
    run = make_run()
    train(run)
    print(sorted(str(p.relative_to(run)) for p in run.rglob("*")))
    print((run / "fold-0/history.csv").read_text(), (run / "predictions.csv").read_text()[:500])
