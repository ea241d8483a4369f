"""A new head from reviewed cells: the same arithmetic as before, no cell judged by what has learned from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from leukoscope.adaptation import (
    _STRENGTHS,
    FEWEST,
    Adapted,
    Head,
    Reviewed,
    _fit,
    _folds,
    _solve,
    adapt,
    compare,
    embed_cells,
    heads_of,
    held_out_by,
    write,
)
from leukoscope.bundle.graph import read_head, with_head
from leukoscope.bundle.manifest import Bundle, Manifest, open_bundle, write_bundle
from leukoscope.cli.models import adapt as command
from leukoscope.data.cells import Cell
from leukoscope.data.synthetic import draw_cells
from leukoscope.errors import DataError, UsageError
from leukoscope.images.read import read_image
from leukoscope.inference.predictor import Predictor
from leukoscope.report.card import card
from tests.server.small_bundle import CHANNELS, network, small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(small_bundle(tmp_path_factory.mktemp("adapt") / "small"))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    """96 synthetic cells of 24 subjects."""
    return draw_cells(tmp_path_factory.mktemp("reviewed"), count=96)


@pytest.fixture(scope="module")
def adapted(bundle: Bundle, cells: list[Cell]) -> Adapted:
    return adapt(bundle, cells)[0]


def test_a_head_is_read_as_the_network_computes_with_it(bundle: Bundle, cells: list[Cell]) -> None:
    (head,) = heads_of(bundle)
    reviewed = embed_cells(bundle, cells)
    assert head.weight.shape == (1, CHANNELS)
    said = Predictor(bundle).outputs([read_image(cell.path) for cell in cells]).probabilities
    assert np.allclose(reviewed.old, said, atol=1e-5)


def test_heads_are_judged_with_every_view_and_member_that_the_bundle_averages(
    bundle: Bundle, cells: list[Cell], tmp_path: Path
) -> None:
    member = bundle.manifest.members[0].model_dump()
    members = [member | {"temperature": 0.7}, member | {"graph": "other.onnx", "temperature": 1.6}]
    files = {name: bundle.read(name) for name in bundle.manifest.files} | {"other.onnx": network(5)}
    changes = {"members": members, "views": "flips", "files": {}}
    several = write_bundle(
        tmp_path / "two", Manifest.model_validate(bundle.manifest.model_dump() | changes), files=files
    )
    reviewed = embed_cells(several, cells)
    said = Predictor(several).outputs([read_image(cell.path) for cell in cells]).probabilities
    assert reviewed.embeddings[0].shape == (len(cells), 4, CHANNELS)
    written = write(several, tmp_path / "new", adapt(several, cells)[0], reviewed)
    assert "average cannot be tested" in card(several.manifest.model_copy(update={"metrics": {}}))
    assert "average cannot be tested" not in card(written.manifest)
    heads = [Head(*read_head(written.read(each.graph)), each.temperature) for each in written.manifest.members]
    expected = np.mean([head.probabilities(reviewed.embeddings[place]) for place, head in enumerate(heads)], axis=0)
    served = Predictor(written).outputs([read_image(cell.path) for cell in cells]).probabilities
    assert np.allclose(served, expected, atol=1e-4)
    assert np.allclose(reviewed.old, said, atol=1e-5)


def test_the_head_of_the_shipped_model_is_read_and_replaced() -> None:
    """Its head is kept in half precision behind a Cast, its large weights in one byte times a scale."""
    shipped = open_bundle()
    content, size = shipped.read(shipped.manifest.members[0].graph), shipped.manifest.members[0].prepare.size
    weight, bias = read_head(content)
    crops = np.random.default_rng(0).integers(0, 120, (1, size, size, 3)).astype(np.uint8)
    for head in (Head(weight, bias), Head(1.5 * weight, bias + 0.25)):
        written = with_head(content, head.weight, head.bias)
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        chances, maps, embedding = session.run(("probabilities", "map", "embedding"), {"crops": crops})
        assert np.allclose(chances, head.raw(embedding[:, None]), atol=1e-5)
        rounding = 1e-6 * np.abs(maps).max()  # places of this model's map cancel: they are far larger than their mean
        summed = 2 * maps[:, 1].astype(np.float64).mean()
        assert np.allclose(summed, embedding @ head.weight[0] + head.bias, atol=1e-4 + rounding)
    unchanged = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    said = unchanged.run(("probabilities", "embedding"), {"crops": crops})
    assert np.allclose(said[0], Head(weight, bias).raw(said[1][:, None]), atol=1e-5)


def test_a_new_head_stands_in_answer_and_map_alike(bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(0, 2, (1, CHANNELS)), np.array([0.3])
    content = with_head(bundle.read("model.onnx"), weight, bias)
    crops = rng.integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    chances, maps, embedding = session.run(("probabilities", "map", "embedding"), {"crops": crops})
    assert np.allclose(chances, Head(weight, bias).raw(embedding[:, None]), atol=1e-5)
    logit = 2 * maps[:, 1].mean(axis=(1, 2))  # the map is centred over the classes
    assert np.allclose(1 / (1 + np.exp(-logit)), chances[:, 1], atol=1e-4)
    assert np.allclose(read_head(content)[0], weight, atol=1e-6)


def test_a_head_without_bias_is_read_and_replaced(bundle: Bundle) -> None:
    """The exporter leaves out a bias that is zero, as that of a network which was never trained."""
    model = onnx.load_from_string(bundle.read("model.onnx"))
    for node in model.graph.node:
        if node.op_type == "Gemm" or (node.op_type == "Conv" and node.input[-1] == "network.head.bias"):
            del node.input[2]
    content = model.SerializeToString()
    weight, bias = read_head(content)
    assert bias.tolist() == [0.0]
    crops = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(with_head(content, weight, bias + 0.7), providers=["CPUExecutionProvider"])
    chances, maps, embedding = session.run(("probabilities", "map", "embedding"), {"crops": crops})
    assert np.allclose(chances, Head(weight, bias + 0.7).raw(embedding[:, None]), atol=1e-5)
    assert np.allclose(2 * maps[:, 1].mean(axis=(1, 2)), embedding @ weight[0] + 0.7, atol=1e-4)


def test_no_subject_is_judged_by_a_head_that_has_learned_from_it(bundle: Bundle, cells: list[Cell]) -> None:
    reviewed = embed_cells(bundle, cells)
    tested = np.zeros(len(cells), int)
    for train, test in _folds(reviewed, seed=0):
        assert not set(reviewed.groups[train]) & set(reviewed.groups[test])
        tested += test
    assert (tested == 1).all()


def test_labels_that_say_nothing_are_not_called_better(bundle: Bundle, cells: list[Cell]) -> None:
    """The trap: a head fitted to noise and judged on its own training cells would look better."""
    rng = np.random.default_rng(0)
    subjects = sorted({cell.subject for cell in cells})
    drawn = dict(zip(subjects, rng.permutation(["normal", "blast"] * (len(subjects) // 2)), strict=True))
    noise = [replace(cell, label=str(drawn[cell.subject])) for cell in cells]
    found = adapt(bundle, noise)[0].result
    assert found["new"]["auroc"]["low"] < 0.5 < found["new"]["auroc"]["high"]


def test_a_head_that_answers_at_random_is_improved_and_said_to_be(adapted: Adapted) -> None:
    old, new = (adapted.result[which]["brier"]["value"] for which in ("old", "new"))
    assert new < old
    assert adapted.better == (adapted.result["differences"]["brier"]["high"] < 0)
    assert adapted.result["unit"] == "subject"


def test_the_new_bundle_predicts_and_leaves_the_old_one_as_it_is(
    bundle: Bundle, cells: list[Cell], tmp_path: Path
) -> None:

    fitted, reviewed = adapt(bundle, cells)
    new = write(bundle, tmp_path / "new", fitted, reviewed)
    assert new.manifest.training["adapted_from"] == bundle.manifest.seal
    expected = fitted.heads[0].probabilities(reviewed.embeddings[0])
    opinions = Predictor(new).predict([cell.path for cell in cells[:5]])
    for opinion, chances in zip(opinions, expected, strict=False):
        if opinion.probabilities:
            assert np.allclose(list(opinion.probabilities.values()), chances, atol=1e-4)
    assert open_bundle(bundle.path).manifest.seal == bundle.manifest.seal

    assert "command" not in new.manifest.training["made"]
    assert str(tmp_path) not in (tmp_path / "new" / "bundle.json").read_text()
    assert "Adapted from small" in (tmp_path / "new" / "card.md").read_text()


def test_too_few_cells_and_strange_classes_are_named(bundle: Bundle, cells: list[Cell]) -> None:
    few = [cell for cell in cells if cell.label == "normal"] + [c for c in cells if c.label == "blast"][: FEWEST - 1]
    with pytest.raises(DataError, match=f"{FEWEST - 1} reviewed cells of blast"):
        adapt(bundle, few)
    with pytest.raises(DataError, match="does not have: lymphocyte. It has normal, blast"):
        adapt(bundle, [replace(cells[0], label="lymphocyte"), *cells])


def test_cells_of_one_subject_are_held_out_one_by_one_and_that_is_said() -> None:
    labels = np.array([0, 1] * 20)
    groups, by_subject = held_out_by(["P1"] * 40, labels)
    assert not by_subject
    assert len(set(groups.tolist())) == 40


def test_the_command_writes_only_what_is_asked_for(bundle: Bundle, cells: list[Cell], tmp_path: Path) -> None:
    folder = cells[0].path.parents[1]
    said = CliRunner().invoke(command, [str(bundle.path), str(folder)])
    assert "held out once" in said.output
    assert said.exit_code == 0
    taken = tmp_path / "taken"
    taken.mkdir()
    refused = CliRunner().invoke(command, [str(bundle.path), str(folder), "-o", str(taken)])
    assert isinstance(refused.exception, UsageError)


def test_a_bad_picture_is_named_and_costs_the_others_nothing(bundle: Bundle, cells: list[Cell], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [f"{cell.path},{cell.label},{cell.subject}" for cell in cells]
    bad = [f"{tmp_path / 'cut.png'},{cells[0].label},9", f"{tmp_path / 'gone.png'},{cells[0].label},9"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,subject", *rows, *bad]))
    said = CliRunner().invoke(command, [str(bundle.path), str(tmp_path / "t.csv"), "--json"])
    assert said.exit_code == 1
    result = json.loads(said.stdout)
    assert result["cells"] == len(cells)
    assert len(result["refused"]) == 2
    assert "cut.png ends early" in said.stderr
    assert "gone.png does not exist" in said.stderr


def test_how_strongly_a_head_leans_on_new_cells_is_chosen_on_cells_that_it_was_not_fitted_on() -> None:
    """Noise in more channels than cells is overfitted; out-of-fold predictions show it."""
    rng = np.random.default_rng(0)
    labels, groups = np.arange(80) % 2, np.arange(80) // 4
    embeddings = rng.normal(size=(80, 1, 200))
    old = Head(rng.normal(size=(1, 200)), np.zeros(1))
    reviewed = Reviewed(labels, groups, True, tuple(map(str, groups)), (embeddings,), np.full((80, 2), 0.5), ())
    head = _fit(reviewed, old, 0, np.ones(80, bool), seed=0)
    weakest, strongest = (_solve(embeddings, labels, old, strength) for strength in (_STRENGTHS[0], _STRENGTHS[-1]))
    assert np.allclose(head.weight, weakest.weight)
    assert not np.allclose(head.weight, strongest.weight)
    assert head.temperature > 1


def test_the_scale_of_the_old_scores_does_not_matter() -> None:
    """Old scores are standardised, so the penalty shrinks a head and its tenfold alike."""
    rng = np.random.default_rng(0)
    embeddings, old = rng.normal(size=(80, 1, 6)), Head(rng.normal(size=(1, 6)), np.array([0.3]))
    labels = (old.raw(embeddings)[:, 1] + rng.normal(0, 0.2, 80) > 0.5).astype(np.int64)
    tenfold = replace(old, weight=10 * old.weight, bias=10 * old.bias)
    first, second = (_solve(embeddings, labels, head, 0.01) for head in (old, tenfold))
    assert np.allclose(first.raw(embeddings), second.raw(embeddings), atol=1e-3)


def test_a_head_that_predicts_the_same_is_not_shown_to_be_better(bundle: Bundle, cells: list[Cell]) -> None:
    reviewed = embed_cells(bundle, cells)
    found = compare(bundle.manifest, reviewed, reviewed.old, seed=0)
    assert found["verdict"] == "The adapted bundle is not shown to be better."
    assert not found["better"]
