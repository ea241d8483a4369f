"""A bundle is whole and as it was made, or it is refused in one clear sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load as load_tensors

from leukoscope.bundle import manifest as module
from leukoscope.bundle.graph import points_outside
from leukoscope.bundle.manifest import FORMAT, Bundle, amend_bundle, open_bundle, operating_point, write_bundle
from leukoscope.errors import BundleError, UnknownNameError, UsageError
from leukoscope.exporting import export_run
from leukoscope.files import fingerprint, read_csv
from leukoscope.inference.predictor import Predictor, load

from .conftest import changed, facts


def test_an_exported_bundle_holds_what_the_run_knew(ensemble: Bundle, synthetic_run: Path) -> None:
    manifest = ensemble.manifest
    assert manifest.classes == ("normal", "blast")
    assert manifest.positive == "blast"
    assert [member.fold for member in manifest.members] == [0, 1]
    assert set(manifest.operating_points) == set(module.OPERATING_POINTS)
    calibration = json.loads((synthetic_run / "calibration.json").read_text())
    assert [member.temperature for member in manifest.members] == [f["temperature"] for f in calibration["folds"]]
    metrics = json.loads((synthetic_run / "metrics.json").read_text())
    assert manifest.metrics["estimators"]["model"] == metrics["estimators"]["model"]
    assert manifest.training["split"] == metrics["split"]["hash"]
    assert manifest.credits[0]["data"] == "synthetic"


def test_figures_of_subjects_add_up_to_the_confusion_of_the_run(ensemble: Bundle, synthetic_run: Path) -> None:
    rows = [row for row in read_csv(synthetic_run / "predictions.csv") if row["set"] == "test"]
    assert sum(each.cells for each in ensemble.manifest.subjects) == len(rows)
    assert {each.group for each in ensemble.manifest.subjects} == {row["group"] for row in rows}


def test_the_card_says_what_a_reader_needs(ensemble: Bundle) -> None:
    card = ensemble.read("card.md").decode()
    for words in (
        "Research use, not a diagnosis",
        "synthetic",
        "AUROC",
        "Subjects with the lowest accuracy",
        "Limits",
        "2 of them",
    ):
        assert words in card
    assert str(ensemble.path) not in card


def test_a_card_shows_what_the_same_settings_reach_on_another_split(synthetic_run: Path, tmp_path: Path) -> None:
    bundle = export_run(
        synthetic_run, tmp_path / "bundle", folds=[0], also=[synthetic_run], name="Synthetic", say=lambda _: None
    )
    card = bundle.read("card.md").decode()
    assert card.startswith("# Synthetic")
    auroc = bundle.manifest.metrics["estimators"]["model"]["auroc"]["value"]
    row = next(line for line in card.splitlines() if line.startswith("| kfold, seed 0 |"))
    assert f"{auroc:.2f}" in row
    assert bundle.manifest.stain.pixels > 1000


def test_a_bundle_names_no_folder_of_the_machine_that_made_it(ensemble: Bundle, synthetic_run: Path) -> None:
    text = (ensemble.path / "bundle.json").read_text() + (ensemble.path / "card.md").read_text()
    assert str(synthetic_run.parent) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("name", ["member-0/model.onnx", "member-1/weights.safetensors", "card.md", "bundle.json"])
def test_a_flipped_byte_is_found(ensemble: Bundle, copy_of: Callable[[Bundle], Path], name: str) -> None:
    path = copy_of(ensemble)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        open_bundle(path)


@pytest.mark.parametrize("name", ["member-0/model.onnx", "member-1/weights.safetensors", "card.md", "bundle.json"])
def test_a_missing_file_is_named(ensemble: Bundle, copy_of: Callable[[Bundle], Path], name: str) -> None:
    path = copy_of(ensemble)
    (path / name).unlink()
    with pytest.raises(BundleError, match=name):
        open_bundle(path)


def test_a_bundle_of_version_0_1_says_how_to_get_one_that_is_read(
    ensemble: Bundle, copy_of: Callable[[Bundle], Path]
) -> None:
    path = copy_of(ensemble)
    (path / "bundle.json").write_text(json.dumps(facts(path) | {"format": 1, "gate": {}}))
    with pytest.raises(BundleError, match=r"made by leukoscope 0\.1 .* Make it again from its run"):
        open_bundle(path)


def test_a_newer_format_asks_for_an_update(ensemble: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    path = copy_of(ensemble)
    (path / "bundle.json").write_text(json.dumps(facts(path) | {"format": FORMAT + 1, "future": True}))
    with pytest.raises(BundleError, match="newer leukoscope"):
        open_bundle(path)


@pytest.mark.parametrize(
    "classes", [["blast", "normal"], ["normal", "blast", "other"], ["hem", "all"], ["normal", "normal"], ["normal"]]
)
def test_another_class_list_is_refused_even_when_sealed(
    ensemble: Bundle, copy_of: Callable[[Bundle], Path], classes: list[str]
) -> None:
    path = copy_of(ensemble)
    table = facts(path) | {"classes": classes, "positive": classes[1] if len(classes) == 2 else ""}
    table["operating_points"] = table["operating_points"] if len(classes) == 2 else {}
    table.pop("seal")
    (path / "bundle.json").write_text(json.dumps(table | {"seal": fingerprint(table)}))
    with pytest.raises(BundleError, match="class|bundle.json"):
        Predictor(open_bundle(path))


@pytest.mark.parametrize("stray", ["../secret.onnx", "/etc/passwd"])
def test_no_entry_leads_out_of_the_bundle(ensemble: Bundle, copy_of: Callable[[Bundle], Path], stray: str) -> None:
    path = copy_of(ensemble)
    table = facts(path)
    table.pop("seal")
    table["files"] = {**table["files"], stray: "0" * 64}  # type: ignore[dict-item]
    (path / "bundle.json").write_text(json.dumps(table | {"seal": fingerprint(table)}))
    with pytest.raises(BundleError, match="not part of the bundle"):
        open_bundle(path)


def test_a_graph_with_data_outside_is_refused(single: Bundle, tmp_path: Path) -> None:
    graph = onnx.load_from_string(single.read("model.onnx"))
    tensor = next(each for each in graph.graph.initializer if each.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    files = {name: single.read(name) for name in single.manifest.files} | {"model.onnx": graph.SerializeToString()}
    outside = write_bundle(tmp_path / "outside", single.manifest, files=files)
    with pytest.raises(BundleError, match="outside the bundle"):
        Predictor(outside)


def test_data_outside_is_found_wherever_a_tensor_can_stand() -> None:
    outside = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [1.0])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="w")
    plain = onnx.helper.make_tensor("p", onnx.TensorProto.FLOAT, [1], [1.0])

    def model(graph: onnx.GraphProto, functions: list[onnx.FunctionProto] | None = None) -> bytes:
        return onnx.helper.make_model(graph, functions=functions or []).SerializeToString()

    def graph(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.GraphProto:
        return onnx.helper.make_graph(nodes, "g", [], [], tensors)

    constant = onnx.helper.make_node("Constant", [], ["c"], value=outside)
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=graph([constant], []), else_branch=graph([], []))
    function = onnx.helper.make_function("d", "f", [], ["c"], [constant], [])
    assert points_outside(model(graph([], [outside])))
    assert points_outside(model(graph([constant], [])))
    assert points_outside(model(graph([branch], [])))
    assert points_outside(model(graph([], []), [function]))
    assert not points_outside(model(graph([onnx.helper.make_node("Constant", [], ["c"], value=plain)], [plain])))


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x07"])
def test_a_file_that_is_no_graph_is_refused(single: Bundle, tmp_path: Path, content: bytes) -> None:
    files = {name: single.read(name) for name in single.manifest.files} | {"model.onnx": content}
    with pytest.raises(BundleError, match="model.onnx"):
        Predictor(write_bundle(tmp_path / "broken", single.manifest, files=files))


def test_a_bundle_is_never_written_over_something_else(single: Bundle, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_bundle(tmp_path, single.manifest, files={})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_amending_keeps_all_else(single: Bundle, tmp_path: Path) -> None:
    bundle = changed(single, tmp_path / "bundle")
    amended = amend_bundle(bundle, views="flips", files={"extra.bin": b"1"})
    assert amended.manifest.views == "flips"
    assert amended.read("extra.bin") == b"1"
    assert amended.read("model.onnx") == single.read("model.onnx")
    assert open_bundle(bundle.path).manifest == amended.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_amendment_leaves_the_bundle_as_it_was(
    single: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = changed(single, tmp_path / "bundle")

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_fill", disk_full)
    with pytest.raises(OSError, match="No space left"):
        amend_bundle(bundle, views="flips")
    assert open_bundle(bundle.path).manifest == bundle.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_without_a_shipped_model_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "none")
    with pytest.raises(BundleError, match="leukoscope export"):
        load()


def test_operating_points_are_understood_as_they_are_said(single: Bundle) -> None:
    assert operating_point(single.manifest, "high-sensitivity") == "high_sensitivity"
    with pytest.raises(UnknownNameError, match="high-specificity"):
        operating_point(single.manifest, "high-specifity")


def test_weights_in_the_bundle_are_those_of_the_checkpoint(single: Bundle, synthetic_run: Path) -> None:
    kept = load_tensors(single.read("weights.safetensors"))
    trained = load_tensors((synthetic_run / "fold-1" / "checkpoints" / "best.safetensors").read_bytes())
    assert {f"weights.{name}" for name in kept} == set(trained)
    assert all(np.array_equal(value, trained[f"weights.{name}"]) for name, value in kept.items())


def test_an_export_appears_only_when_it_is_whole(synthetic_run: Path, tmp_path: Path) -> None:
    there: list[bool] = []
    folder = tmp_path / "out" / "bundle"
    bundle = export_run(synthetic_run, folder, folds=[1], say=lambda _: there.append(folder.exists()))
    assert len(there) >= 5, "also called while rules are learned"
    assert not any(there)
    assert bundle.path == folder
    assert [each.name for each in folder.parent.iterdir()] == ["bundle"]
