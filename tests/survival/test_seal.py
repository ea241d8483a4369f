"""The seal of a survival model: not a digit of model.json can be changed without being noticed."""

import random
from pathlib import Path

import pytest

from leukoscope.errors import DataError
from leukoscope.survival.cohort import Cohort
from leukoscope.survival.fitting import fit_model
from leukoscope.survival.model import read_model, write_model


def test_every_changed_digit_is_found(tmp_path: Path, larynx: Cohort) -> None:
    path = tmp_path / "model.json"
    write_model(path, fit_model(larynx).model)
    assert read_model(path)
    text = path.read_text()
    digits = [place for place, sign in enumerate(text) if sign.isdigit()]
    rng = random.Random(0)
    for place in rng.sample(digits, 200):
        other = rng.choice([digit for digit in "123456789" if digit != text[place]])
        path.write_text(text[:place] + other + text[place + 1 :])
        with pytest.raises(DataError):
            read_model(path)
