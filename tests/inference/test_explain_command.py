"""leukoscope explain, from files to pictures, through a real bundle."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from leukoscope.bundle.manifest import Bundle, open_bundle
from leukoscope.cli import leukoscope
from leukoscope.data.synthetic import draw_cells
from leukoscope.errors import UnknownNameError, UsageError
from leukoscope.explanation import enlarge, occlude
from leukoscope.files import read_json
from leukoscope.images.crop import canonical_view, cell_mask, turn, turn_back
from leukoscope.inference.explaining import Explainer
from leukoscope.inference.opinions import full_evidence
from leukoscope.inference.predictor import Predictor
from tests.inference.conftest import changed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [cell.path for cell in draw_cells(tmp_path_factory.mktemp("cells"), count=48, seed=9)][:2]


@pytest.mark.parametrize("method", ["", "occlusion", "lime"])
def test_every_method_explains_what_the_predictor_says(method: str, single: Bundle, files: list[Path]) -> None:
    predictor = Predictor(single)
    image = np.asarray(Image.open(files[0]))
    found = Explainer(predictor, method=method).explain(image)
    (opinion,) = predictor.predict([image])
    assert found.probability == pytest.approx(opinion.probabilities[found.target], abs=1e-6)
    assert found.heat.shape == found.crop.shape[:2]
    assert np.isfinite(found.heat).all()
    assert found.method == (method or "occlusion"), "the map of this network has 2x2 places"


def test_a_map_of_too_few_places_is_not_offered(single: Bundle, files: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"too few.*occlusion"):
        Explainer(Predictor(single), method="cam").explain(np.asarray(Image.open(files[0])))


def test_a_map_of_enough_places_is_the_default(files: list[Path], tmp_path: Path) -> None:
    bundle = changed(open_bundle(), tmp_path / "maps", activation_map=True)
    shipped, image = Predictor(bundle), np.asarray(Image.open(files[0]))
    found, outputs = Explainer(shipped).explain(image), shipped.outputs([image])
    row = shipped.classes.index(found.target)
    assert (found.method, found.probability) == ("cam", pytest.approx(outputs.probabilities[0, row], abs=1e-6))
    np.testing.assert_array_equal(found.heat, enlarge(outputs.maps[0, row], size=len(found.crop)))
    assert found.checks["cell_share"] == pytest.approx(cell_mask(found.crop).mean(), abs=5.1e-5)
    assert (
        f"inside {found.checks['inside']:.2f} (the cell takes {found.checks['cell_share']:.2f})"
        in found.checks_in_words()
    )


def test_of_a_map_that_says_nothing_occlusion_is_drawn(files: list[Path], tmp_path: Path) -> None:
    image = np.asarray(Image.open(files[0]))
    with pytest.raises(UsageError, match=r"cancel.*occlusion"):
        Explainer(Predictor(open_bundle()), method="cam").explain(image)
    bundle = changed(open_bundle(), tmp_path / "open", quality={}, out_of_distribution={}, types={})
    (plain,), (drawn,) = (Predictor(bundle, maps=maps).predict([image]) for maps in (False, True))
    assert plain.map is None
    assert plain.probabilities == drawn.probabilities
    view = canonical_view(image)  # in which the networks see the cell
    heat = occlude(
        lambda crops: Predictor(bundle).outputs_of_crops(crops).probabilities,
        turn(drawn.crop, view, axes=(0, 1)),
        target=1,
        tiles=4,
        overlap=False,
    )
    heat = turn_back(heat, view, axes=(0, 1))
    places = heat.reshape(8, 16, 8, 16).mean(axis=(1, 3)) / 0.5
    np.testing.assert_allclose(drawn.map[1] / full_evidence(bundle.manifest), places, atol=1e-4)
    assert not drawn.map[1][~cell_mask(drawn.crop).reshape(8, 16, 8, 16).any(axis=(1, 3))].any()


def test_pictures_numbers_and_a_page_are_written(single: Bundle, files: list[Path], tmp_path: Path) -> None:
    out, page = tmp_path / "why", tmp_path / "why.html"
    call = ["explain", *map(str, files), "--model", str(single.path), "-o", str(out), "--html", str(page), "--check"]
    ended = CliRunner().invoke(leukoscope, call)
    assert ended.exit_code == 0, ended.output
    rows = read_json(out / "explanations.json")
    assert [row["path"] for row in rows] == [str(path) for path in files]
    assert {"class", "probability", "method", "deletion", "insertion"} <= rows[0].keys()
    assert "inside" not in rows[0], "occlusion covers nothing but the cell"
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
