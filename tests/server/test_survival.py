"""The survival form answers what the program's own survival command answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from leukoscope.server.settings import RoomSettings
from leukoscope.survival.fitting import fit_model
from leukoscope.survival.model import SurvivalModel, write_model
from leukoscope.survival.predict import answer
from tests.survival.conftest import drawn

from .conftest import Place, opened

PATIENT = {"stage": "II", "age": "60"}


@pytest.fixture
def model(tmp_path: Path) -> SurvivalModel:
    fitted = replace(fit_model(drawn(200)).model, horizons=((24.0, "two years"),))
    write_model(tmp_path / "study" / "model.json", fitted)
    return fitted


@pytest.fixture
def clinic(settings: RoomSettings, model: SurvivalModel, tmp_path: Path) -> Iterator[Place]:
    """A room that has a survival model."""
    yield from opened(settings.model_copy(update={"survival": (tmp_path / "study",)}))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_form_gives_what_the_command_gives(clinic: Place, model: SurvivalModel) -> None:
    me = clinic.local()
    (form,) = me.get("/survival/models").json()["models"]
    assert {field["name"] for field in form["fields"]} == set(PATIENT)
    said = me.post(f"/survival/models/{form['name']}/predict", json={"patient": PATIENT})
    assert said.status_code == 200, said.text
    expected = answer(model, "II", {"age": "60"})
    assert said.json()["answers"] == expected["horizons"]
    assert said.json()["median"] == expected["median"]
    assert said.json()["notice"].startswith("Research use, not a diagnosis")
    curve = next(iter(said.json()["curves"].values()))
    assert all(later <= earlier for earlier, later in zip(curve["value"], curve["value"][1:], strict=False))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "patient",
    [{"stage": "IX", "age": "60"}, {"stage": "II"}, {"stage": "II", "age": "old"}, {"stage": "II", "age": "-5"}],
)
def test_a_form_that_cannot_be_answered_says_why(clinic: Place, patient: dict[str, str]) -> None:
    said = clinic.local().post("/survival/models/study/predict", json={"patient": patient})
    assert said.status_code in (400, 422), said.text
    assert said.json()["error"]["message"]
