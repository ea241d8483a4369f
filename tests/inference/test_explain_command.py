"""leukoscope explain, from files to pictures, through a real bundle."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope
from leukoscope.data.synthetic import draw_cells
from leukoscope.errors import UnknownNameError, UsageError
from leukoscope.files import read_json
from leukoscope.inference.explaining import METHODS, Explainer
from leukoscope.inference.predictor import Predictor


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [cell.path for cell in draw_cells(tmp_path_factory.mktemp("cells"), count=48, seed=9)][:2]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_what_the_predictor_says(method: str, single: Bundle, files: list[Path]) -> None:
    predictor = Predictor(single)
    image = np.asarray(Image.open(files[0]))
    found = Explainer(predictor, method=method).explain(image)
    (opinion,) = predictor.predict([image])
    assert found.probability == pytest.approx(opinion.probabilities[found.target], abs=1e-6)
    assert found.heat.shape == found.crop.shape[:2]
    assert np.isfinite(found.heat).all()


def test_pictures_numbers_and_a_page_are_written(single: Bundle, files: list[Path], tmp_path: Path) -> None:
    out, page = tmp_path / "why", tmp_path / "why.html"
    call = ["explain", *map(str, files), "--model", str(single.path), "-o", str(out), "--html", str(page), "--check"]
    ended = CliRunner().invoke(leukoscope, call)
    assert ended.exit_code == 0, ended.output
    rows = read_json(out / "explanations.json")
    assert [row["path"] for row in rows] == [str(path) for path in files]
    assert {"class", "probability", "deletion", "insertion"} <= rows[0].keys()
    assert Image.open(out / rows[0]["picture"]).size == (512, 256)
    text = page.read_text()
    assert text.count("<figure>") == 2
    assert "http" not in text


def test_a_bad_file_is_named_and_the_others_are_explained(single: Bundle, files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    call = ["explain", str(broken), str(files[0]), "--model", str(single.path), "-o", str(tmp_path / "why")]
    ended = CliRunner().invoke(leukoscope, call)
    assert ended.exit_code == 1
    assert "broken.png is empty" in ended.output
    assert len(read_json(tmp_path / "why" / "explanations.json")) == 1


def test_unknown_names_show_the_known_ones(single: Bundle, files: list[Path]) -> None:
    with pytest.raises(UnknownNameError, match="occlusion"):
        Explainer(Predictor(single), method="oclusion")
    with pytest.raises(UnknownNameError, match="blast"):
        Explainer(Predictor(single)).explain(np.asarray(Image.open(files[0])), target="blasts")


def test_without_a_place_for_pictures_nothing_is_computed(single: Bundle, files: list[Path]) -> None:
    ended = CliRunner().invoke(leukoscope, ["explain", str(files[0]), "--model", str(single.path)])
    assert isinstance(ended.exception, UsageError)
