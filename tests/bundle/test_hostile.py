"""Bundles that are whole and sealed, but made to harm; and signatures."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from leukoscope.bundle.graph import OPERATORS, check_graph, strange_operators
from leukoscope.bundle.manifest import MANIFEST, SHIPPED, amend_bundle, open_bundle, write_bundle
from leukoscope.bundle.signature import SIGNATURE, check_signature, make_key, sign, signature_of
from leukoscope.cli.models import models
from leukoscope.errors import BundleError, DataError, UsageError
from leukoscope.files import fingerprint, read_json, write_json
from leukoscope.inference.predictor import load
from tests.server.small_bundle import small_bundle


def resealed(folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Write a bundle whose graph is changed, with a new seal, as anybody can."""
    small_bundle(folder / "honest")
    honest = open_bundle(folder / "honest")
    model = onnx.load_from_string(honest.read("model.onnx"))
    change(model)
    files = {name: honest.read(name) for name in honest.manifest.files} | {"model.onnx": model.SerializeToString()}
    write_bundle(folder / "hostile", honest.manifest, files=files)
    return folder / "hostile"


def with_loop(model: onnx.ModelProto) -> None:
    """Put an endless loop before the logits."""
    one = numpy_helper.from_array(np.array(True), "true")
    many = numpy_helper.from_array(np.array(2**62, np.int64), "many")
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["go on"]), helper.make_node("Identity", ["before"], ["after"])],
        "body",
        [
            value("turn", TensorProto.INT64, []),
            value("condition", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, None),
        ],
        [value("go on", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.extend([one, many])
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.input[0] = "looped"
    place = next(number for number, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    model.graph.node.insert(place, helper.make_node("Loop", ["many", "true", "logits"], ["looped"], body=body))


def of_another_domain(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").domain = "com.example"


def with_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))


@pytest.mark.parametrize(
    ("change", "said"), [(with_loop, "Loop"), (of_another_domain, "com.example.Relu"), (with_function, "functions")]
)
def test_a_graph_that_may_not_end_is_not_loaded(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        load(resealed(tmp_path, change))


def test_the_list_holds_what_networks_need_and_nothing_with_a_graph_inside(tmp_path: Path) -> None:
    """Whatever operator has a graph as attribute may loop, and may hide others."""
    newest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version >= newest.get(schema.name, schema).since_version:
            newest[schema.name] = schema
    graphs = {
        name for name, schema in newest.items() if any("GRAPH" in str(each.type) for each in schema.attributes.values())
    }
    assert {"Loop", "If", "Scan"} <= graphs
    assert not graphs & OPERATORS
    assert newest.keys() >= OPERATORS, "each is a name that ONNX knows"
    for graph in SHIPPED.rglob("*.onnx"):
        check_graph(graph.read_bytes(), graph)
    small = small_bundle(tmp_path / "small")
    assert strange_operators((small / "model.onnx").read_bytes()) == set()


def scaled(factor: float) -> Callable[[onnx.ModelProto], None]:
    """Multiply the probabilities by a number."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
        softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
        softmax.output[0] = "fair"
        model.graph.node.append(helper.make_node("Mul", ["fair", "factor"], ["probabilities"]))

    return change


@pytest.mark.parametrize("factor", [1.5, -1.0, float("nan"), 0.2], ids=str)
def test_probabilities_that_are_none_are_refused_at_load(tmp_path: Path, factor: float) -> None:
    with pytest.raises(BundleError, match="which are none"):
        load(resealed(tmp_path, scaled(factor)))


def test_an_answer_is_checked_each_time(tmp_path: Path) -> None:
    """A network that answers well about black, and badly about cells."""

    def change(model: onnx.ModelProto) -> None:
        softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
        softmax.output[0] = "fair"
        zero = np.zeros((1, 1), np.float32)
        model.graph.initializer.extend(
            [numpy_helper.from_array(zero, "zero"), numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")]
        )
        model.graph.node.extend(
            [
                helper.make_node("ReduceMax", ["float", "axes"], ["brightest"], keepdims=0),
                helper.make_node("Unsqueeze", ["brightest", "last"], ["column"]),
                helper.make_node("Add", ["fair", "column"], ["probabilities"]),
            ]
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "last"))

    predictor = load(resealed(tmp_path, change))
    with pytest.raises(BundleError, match="which are none"):
        predictor.opinion(np.full((120, 120, 3), 200, np.uint8))


@pytest.mark.parametrize(
    ("entry", "value"),
    [("balanced", 1.7), ("balanced", -0.1), ("balanced", float("nan")), ("high_sensitivity", float("inf"))],
)
def test_thresholds_that_are_none_are_refused(tmp_path: Path, entry: str, value: float) -> None:
    folder = small_bundle(tmp_path / "small")
    table = read_json(folder / MANIFEST)
    table["operating_points"][entry] = value
    table["seal"] = fingerprint({name: each for name, each in table.items() if name != "seal"})
    (folder / MANIFEST).write_text(__import__("json").dumps(table))
    with pytest.raises(BundleError, match="operating_points|numbers that are none"):
        open_bundle(folder)


def test_a_signature_names_the_key_and_fits_one_bundle(tmp_path: Path) -> None:
    bundle = open_bundle(small_bundle(tmp_path / "small"))
    assert signature_of(bundle) is None
    key = tmp_path / "key"
    fingerprint_ = make_key(key)
    assert key.stat().st_mode & 0o077 == 0
    made = sign(bundle, key, name="Ada's laboratory")
    assert signature_of(open_bundle(bundle.path)) == made
    assert (made.name, made.key) == ("Ada's laboratory", fingerprint_)
    assert check_signature(bundle, (tmp_path / "key.pub",)) == made
    shown = CliRunner().invoke(models, ["show", str(bundle.path)])
    assert f'Signed by "Ada\'s laboratory" with the key {fingerprint_}' in shown.output
    other = open_bundle(small_bundle(tmp_path / "other", seed=3))
    shutil.copy(bundle.path / SIGNATURE, other.path / SIGNATURE)
    with pytest.raises(BundleError, match="of another bundle"):
        signature_of(other)
    assert signature_of(amend_bundle(bundle, views="flips")) is None, "a changed bundle has to be signed anew"


@pytest.mark.parametrize("entry", ["name", "seal", "public_key", "signature", "format"])
def test_every_change_of_a_signature_is_found(tmp_path: Path, entry: str) -> None:
    bundle = open_bundle(small_bundle(tmp_path / "small"))
    make_key(tmp_path / "key")
    sign(bundle, tmp_path / "key", name="Ada")
    table = read_json(bundle.path / SIGNATURE)
    changed = {"name": "Eve", "seal": "0" * 64, "format": 2}.get(entry)
    text = str(table[entry])
    table[entry] = changed if changed is not None else ("B" if text[0] == "A" else "A") + text[1:]
    write_json(bundle.path / SIGNATURE, table)
    with pytest.raises(BundleError, match="does not fit"):
        signature_of(bundle)


def test_only_trusted_keys_are_taken(tmp_path: Path) -> None:
    bundle = open_bundle(small_bundle(tmp_path / "small"))
    for name in ("ours", "theirs"):
        make_key(tmp_path / name)
    with pytest.raises(BundleError, match="is not signed"):
        check_signature(bundle, (tmp_path / "ours.pub",))
    sign(bundle, tmp_path / "theirs", name="Somebody")
    with pytest.raises(BundleError, match="none of those that are trusted"):
        check_signature(bundle, (tmp_path / "ours.pub",))
    with pytest.raises(UsageError, match="no public Ed25519 key"):
        check_signature(bundle, (tmp_path / "ours",))
    with pytest.raises(UsageError, match="exists already"):
        make_key(tmp_path / "ours")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 3000 + "1" + "}" * 3000])
def test_deep_json_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(DataError, match="deep.json is not valid JSON"):
        read_json(tmp_path / "deep.json")
