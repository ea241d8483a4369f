"""The seal of a survival model: no number of model.json can be changed without being noticed."""

import json
import random
from pathlib import Path

import pytest

from leukoscope.errors import DataError
from leukoscope.survival.cohort import Cohort
from leukoscope.survival.fitting import fit_model
from leukoscope.survival.model import read_model, write_model


def test_every_changed_number_is_found(tmp_path: Path, larynx: Cohort) -> None:
    path = tmp_path / "model.json"
    write_model(path, fit_model(larynx).model)
    assert read_model(path)
    text = path.read_text()
    digits = [place for place, sign in enumerate(text) if sign.isdigit()]
    rng, same = random.Random(0), list[int]()
    for place in rng.sample(digits, 200):
        other = rng.choice([digit for digit in "123456789" if digit != text[place]])
        changed = text[:place] + other + text[place + 1 :]
        path.write_text(changed)
        if json.loads(changed) == json.loads(text):  # a 17th digit that names the same double
            read_model(path)
            same.append(place)
            continue
        with pytest.raises(DataError):
            read_model(path)
    assert len(same) < 5
