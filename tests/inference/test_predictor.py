"""From images to opinions: the same numbers on every way, in order, past every bad file."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.errors import BundleError, UsageError
from leukoscope.evaluation.predictions import temper as evaluated_temper
from leukoscope.files import read_csv
from leukoscope.images.crop import RELEASE_UM_PER_PX, VIEWS, View, prepare_crop, turn, turn_back
from leukoscope.images.read import read_image
from leukoscope.inference.ensemble import temper
from leukoscope.inference.explaining import UM_ACROSS, Explainer, read_reference_cells
from leukoscope.inference.opinions import DISEASE, NOT_JUDGED_COLOUR, OTHERS, TYPE_COLOURS, review_priority
from leukoscope.inference.predictor import Predictor, load
from leukoscope.inference.sources import look_at

from .conftest import changed


def synthetic(run: Path) -> list[Path]:
    return sorted((run / "synthetic").rglob("*.png"))


def test_every_fold_says_what_training_wrote_down(synthetic_run: Path, ensemble: Bundle, tmp_path: Path) -> None:
    for fold in (0, 1):
        rows = [row for row in read_csv(synthetic_run / "predictions.csv") if row["fold"] == str(fold)]
        member = ensemble.manifest.members[fold].model_copy(update={"temperature": 1.0})
        alone = changed(ensemble, tmp_path / str(fold), members=[member.model_dump()])
        images = [read_image(synthetic_run / row["path"]) for row in rows]
        raw = Predictor(alone).outputs(images).probabilities
        wrote = np.array([[float(row["prob_normal"]), float(row["prob_blast"])] for row in rows])
        assert np.abs(raw - wrote).max() < 1e-5


def test_an_ensemble_is_the_mean_of_its_calibrated_members(
    synthetic_run: Path, ensemble: Bundle, tmp_path: Path
) -> None:
    images = [read_image(path) for path in synthetic(synthetic_run)[:6]]
    each = [
        Predictor(changed(ensemble, tmp_path / str(fold), members=[member.model_dump()])).outputs(images)
        for fold, member in enumerate(ensemble.manifest.members)
    ]
    both = Predictor(ensemble).outputs(images)
    assert np.allclose(both.probabilities, (each[0].probabilities + each[1].probabilities) / 2, atol=1e-7)
    assert np.allclose(both.maps, (each[0].maps + each[1].maps) / 2, atol=1e-6)
    assert np.array_equal(both.embedding, each[0].embedding)


def test_members_may_prepare_images_in_their_own_ways(synthetic_run: Path, single: Bundle, tmp_path: Path) -> None:
    member = single.manifest.members[0].model_dump()
    other = member | {"prepare": member["prepare"] | {"view": "cell"}}
    images = [read_image(path) for path in synthetic(synthetic_run)[:3]]
    alone = [
        Predictor(changed(single, tmp_path / name, members=[each])).outputs(images).probabilities
        for name, each in (("frame", member), ("cell", other))
    ]
    mixed = Predictor(changed(single, tmp_path / "mixed", members=[member, other]))
    assert not np.allclose(alone[0], alone[1])
    assert np.allclose(mixed.outputs(images).probabilities, np.mean(alone, axis=0))
    with pytest.raises(ValueError, match="different ways"):
        mixed.outputs_of_crops(np.zeros((1, 64, 64, 3), np.uint8))


def test_files_and_arrays_give_the_same_answers_in_their_order(synthetic_run: Path, single: Bundle) -> None:
    paths = synthetic(synthetic_run)[::-3]
    predictor = Predictor(single)
    from_files = predictor.predict(paths)
    from_arrays = predictor.predict([read_image(path) for path in paths])
    assert [opinion.name for opinion in from_files] == [str(path) for path in paths]
    assert [opinion.name for opinion in from_arrays[:2]] == ["image 1", "image 2"]
    assert [opinion.probabilities for opinion in from_files] == [opinion.probabilities for opinion in from_arrays]
    assert predictor.predict(paths[0])[0].probabilities == pytest.approx(from_files[0].probabilities, abs=1e-6)


def test_cells_that_come_together_get_the_answers_that_each_gets_alone(synthetic_run: Path, single: Bundle) -> None:
    """Seven, so that the last group is not full; one of them holds no cell."""
    images = [read_image(path) for path in synthetic(synthetic_run)[:6]]
    images.insert(2, np.zeros((96, 96, 3), np.uint8))
    predictor = Predictor(single)
    together = [opinion for _, opinion in predictor.stream(enumerate(images))]
    alone = [predictor.opinion(image) for image in images]
    assert [each.decision for each in together] == [each.decision for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert other.probabilities is None or one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_crop_that_was_looked_at_is_not_read_again(synthetic_run: Path, single: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "cell.png"
    path.write_bytes(synthetic(synthetic_run)[0].read_bytes())
    predictor = Predictor(single)
    expected = predictor.opinion(path)
    kind, file = look_at(path)
    path.unlink()
    assert kind == "crop"
    assert predictor.opinion(file).row(predictor.classes) == expected.row(predictor.classes)
    assert look_at(path) == ("crop", path)  # which is then refused by name


def test_bad_files_are_refused_by_name_and_the_others_answered(
    synthetic_run: Path, single: Bundle, tmp_path: Path
) -> None:
    good = synthetic(synthetic_run)[:9]
    bad = {"empty.png": b"", "text.png": b"not an image", "short.png": good[0].read_bytes()[:200]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    mixed = [*good[:4], *(tmp_path / name for name in bad), *good[4:], tmp_path / "black.png"]
    opinions = Predictor(single).predict(mixed)
    assert [opinion.name for opinion in opinions] == [str(path) for path in mixed]
    refused = {Path(opinion.name).name: opinion for opinion in opinions if opinion.decision == "refused"}
    assert set(refused) == {*bad, "black.png"}
    assert not any(refused[name].readable for name in bad)
    assert refused["black.png"].readable
    assert all(opinion.reason and opinion.probabilities is None and not opinion.called for opinion in refused.values())
    assert str(tmp_path) not in refused["empty.png"].reason


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.ones((64, 64, 3), np.float32),
        np.ones((8, 8, 3), np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(single: Bundle, array: np.ndarray) -> None:
    (opinion,) = Predictor(single).predict([array])
    assert opinion.decision == "refused"
    assert not opinion.readable


def test_an_item_that_is_no_image_loses_none_of_the_others(synthetic_run: Path, single: Bundle, tmp_path: Path) -> None:
    good = synthetic(synthetic_run)[0]
    pixels = Image.fromarray(read_image(good))
    truncated = tmp_path / "short.png"
    truncated.write_bytes(good.read_bytes()[:-400])
    strange = [None, 7, good.read_bytes(), pixels.convert("L"), Image.open(truncated)]
    mixed = [good, *strange, pixels, np.stack([read_image(good)])[0]]
    opinions = Predictor(single).predict(mixed)
    refused = opinions[1:-2]
    assert all(each.decision == "refused" and not each.readable for each in refused)
    words = ("NoneType", "int", "bytes", "mode L", "damaged")
    assert [word for word, each in zip(words, refused, strict=True) if word not in each.reason] == []
    assert [each.name for each in opinions[1:6]] == [f"image {number}" for number in range(2, 7)]
    assert opinions[0].probabilities == opinions[-1].probabilities == opinions[-2].probabilities


@pytest.mark.parametrize("path", ["gone.png", "gone", "gone.csv", "x" * 400 + ".png", ""])
def test_a_missing_path_raises_and_nothing_is_answered(single: Bundle, path: str) -> None:
    with pytest.raises(UsageError, match=r"does not exist\. Check the path|is empty"):
        Predictor(single).predict([path])


@pytest.mark.parametrize("images", [None, 7, 0.5, b"bytes", object()])
def test_a_call_without_any_image_is_told_what_to_pass(single: Bundle, images: object) -> None:
    with pytest.raises(UsageError, match=f"{type(images).__name__} is not an image. Pass the path"):
        Predictor(single).predict(images)


def test_one_image_of_any_kind_is_one_opinion(synthetic_run: Path, single: Bundle) -> None:
    path, predictor = synthetic(synthetic_run)[0], Predictor(single)
    image = read_image(path)
    for one in (path, str(path), image, Image.fromarray(image)):
        assert len(predictor.predict(one)) == 1
    (grey,) = predictor.predict(image[..., 0])
    assert "shape (" in grey.reason
    assert len(predictor.predict(np.stack([image] * 2))) == 2
    assert len(predictor.predict(np.array([str(path)] * 3))) == 3


def test_operating_points_decide(synthetic_run: Path, single: Bundle) -> None:
    predictor, edges = Predictor(single), single.manifest.operating_points
    for point in ("balanced", "high-sensitivity", "high-specificity"):
        for opinion in predictor.predict(synthetic(synthetic_run)[:40], point=point):
            assert opinion.probabilities is not None
            ill = opinion.probabilities["blast"] >= edges[point.replace("-", "_")]
            assert opinion.decision == ("blast" if ill else "normal")


def crop_of(run: Path, bundle: Bundle) -> np.ndarray:
    """Return one prepared crop; turned before preparation, its pixels would be rounded otherwise."""
    return prepare_crop(read_image(synthetic(run)[0]), bundle.manifest.members[0].prepare)


def test_views_average_what_each_view_says(synthetic_run: Path, single: Bundle, tmp_path: Path) -> None:
    crop = crop_of(synthetic_run, single)
    member = single.manifest.members[0].model_copy(update={"temperature": 1.0}).model_dump()
    plain, flips, turns = (
        Predictor(changed(single, tmp_path / views, members=[member], views=views))
        for views in ("one", "flips", "turns")
    )
    seen = [crop, crop[:, ::-1], crop[::-1], crop[::-1, ::-1]]
    turned = [each.transpose(1, 0, 2) for each in seen]
    mean_of_flips = plain.outputs_of_crops(np.stack(seen)).probabilities.mean(0)
    mean_of_turns = plain.outputs_of_crops(np.stack(seen + turned)).probabilities.mean(0)
    assert np.allclose(flips.outputs_of_crops(crop[None]).probabilities, mean_of_flips, atol=1e-6)
    assert np.allclose(turns.outputs_of_crops(crop[None]).probabilities, mean_of_turns, atol=1e-6)
    assert np.array_equal(turns.outputs_of_crops(crop[None]).embedding, plain.outputs_of_crops(crop[None]).embedding)


def test_a_turned_cell_gets_the_same_answer(synthetic_run: Path, single: Bundle, tmp_path: Path) -> None:
    predictor = Predictor(changed(single, tmp_path / "turns", views="turns"))
    crop = crop_of(synthetic_run, single)
    straight = predictor.outputs_of_crops(crop[None]).probabilities
    assert np.allclose(straight, predictor.outputs_of_crops(np.rot90(crop)[None].copy()).probabilities, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS["flips"])
def test_maps_of_views_lie_as_the_crop_does(synthetic_run: Path, single: Bundle, tmp_path: Path, view: View) -> None:
    predictor = Predictor(changed(single, tmp_path / "flips", views="flips"))
    crop = crop_of(synthetic_run, single)
    straight, mirrored = (
        predictor.outputs_of_crops(np.ascontiguousarray(each)[None]).maps[0]
        for each in (crop, turn(crop, view, axes=(0, 1)))
    )
    assert np.ptp(straight) > 0
    assert np.allclose(turn(straight, view, axes=(1, 2)), mirrored, atol=1e-4)


@given(height=st.integers(1, 5), width=st.integers(1, 5), view=st.sampled_from(VIEWS["turns"]))
def test_turning_back_undoes_turning(height: int, width: int, view: View) -> None:
    maps = np.arange(2 * height * width).reshape(2, height, width)
    assert np.array_equal(turn_back(turn(maps, view, axes=(1, 2)), view, axes=(1, 2)), maps)


def test_temper_is_that_of_the_evaluation() -> None:
    chances = np.random.default_rng(0).dirichlet([0.2, 0.3, 0.4], size=200)
    for temperature in (0.05, 0.7, 1.0, 3.0, 20.0):
        assert np.allclose(temper(chances, temperature), evaluated_temper(chances, temperature), atol=1e-12)


def test_the_neediest_come_first(synthetic_run: Path, ensemble: Bundle) -> None:
    opinions = Predictor(ensemble).predict([*synthetic(synthetic_run)[:30], np.zeros((64, 64, 3), np.uint8)])
    ranked = sorted(opinions, key=lambda opinion: review_priority(opinion, positive="blast", threshold=0.5))
    order = [("unsure", "refused", "blast", "normal").index(opinion.decision) for opinion in ranked]
    assert order == sorted(order)


def test_lines_in_every_colour_of_a_class_or_type_can_be_seen_on_a_bright_field() -> None:
    """At least 3 to 1 against white, as WCAG 2.2 (1.4.11) asks of graphics."""
    named = {**TYPE_COLOURS, **dict(enumerate(OTHERS)), "disease": DISEASE, "refused": NOT_JUDGED_COLOUR}
    channels = np.array(list(named.values()))
    assert channels.min() >= 0
    assert channels.max() <= 255
    light = np.where(channels <= 10, channels / 255 / 12.92, ((channels / 255 + 0.055) / 1.055) ** 2.4)
    contrast = 1.05 / (light @ [0.2126, 0.7152, 0.0722] + 0.05)
    assert [name for name, each in zip(named, contrast, strict=True) if each < 3] == []


def cells_that_lie_anyhow(count: int) -> list[np.ndarray]:
    """Return training cells, as they are shipped to be looked at, enlarged to the scale of the release, on black."""
    found = read_reference_cells(load().manifest.seal)
    assert found is not None
    images = []
    for cell in [cell for cell in found.cells if "C-NMC" in cell.credit][:: len(found.cells) // count][:count]:
        thumbnail = Image.open(io.BytesIO(cell.picture)).convert("RGB")
        side = round(UM_ACROSS / RELEASE_UM_PER_PX)
        image = Image.new("RGB", (451, 450))  # odd and even: neither has its middle where the other has it
        image.paste(thumbnail.resize((side, side), Image.Resampling.BICUBIC), (50, 60))
        images.append(np.asarray(image))
    return images


def test_the_shipped_model_says_just_the_same_of_a_cell_that_is_turned() -> None:
    """Turned by 90° or mirrored, to the last digit: nobody can tell which side of a cell is up."""
    shipped = load()
    for image in cells_that_lie_anyhow(6):
        opinions = [shipped.opinion(turn(image, view, axes=(0, 1)), with_crop=True) for view in VIEWS["turns"]]
        told = [replace(each, crop=None, embedding=None) for each in opinions]
        assert all(each == told[0] for each in told)
        for opinion, view in zip(opinions, VIEWS["turns"], strict=True):
            assert opinion.crop is not None
            assert np.array_equal(opinion.crop, turn(opinions[0].crop, view, axes=(0, 1)))
        outputs = shipped.outputs([turn(image, view, axes=(0, 1)) for view in VIEWS["turns"]])
        assert np.ptp(outputs.probabilities, axis=0).max() == 0
        assert np.ptp(outputs.embedding, axis=0).max() == 0
        for maps, view in zip(outputs.maps, VIEWS["turns"], strict=True):
            assert np.array_equal(maps, turn(outputs.maps[0], view, axes=(1, 2)))


def test_an_explanation_turns_with_the_cell() -> None:
    image, explainer = cells_that_lie_anyhow(1)[0], Explainer(load())
    straight = explainer.explain(image)
    for view in VIEWS["turns"][3:6]:
        turned = explainer.explain(turn(image, view, axes=(0, 1)))
        assert turned.probability == straight.probability
        assert np.array_equal(turned.crop, turn(straight.crop, view, axes=(0, 1)))
        assert np.array_equal(turned.heat, turn(straight.heat, view, axes=(0, 1)))


def test_members_that_see_a_cell_in_two_orientations_are_refused(single: Bundle, tmp_path: Path) -> None:
    member = single.manifest.members[0].model_dump()
    other = member | {"prepare": member["prepare"] | {"canonical": True}}
    with pytest.raises(BundleError, match="different orientations"):
        Predictor(changed(single, tmp_path / "mixed", members=[member, other]))
