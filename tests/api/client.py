"""A program that uses leukoscope as its documentation says; mypy checks it strictly, and a test runs it."""

from pathlib import Path

import leukoscope as lk


def counted(folder: Path, table: Path) -> dict[str, int]:
    predictor: lk.Predictor = lk.load()
    opinions: lk.Opinions = predictor.predict([folder], point="high-sensitivity")
    first: lk.Opinion = opinions[0]
    chances: dict[str, float] = first.probabilities or {}
    assert all(0 <= chance <= 1 for chance in chances.values())
    opinions.to_csv(table)
    try:
        lk.predict(folder / "missing.png", model=predictor)
    except lk.errors.UsageError as missing:
        print(missing)
    return {row.subject: row.cells for row in opinions.by_subject()}
