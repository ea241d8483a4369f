"""Bundles that are whole and sealed, but made to harm; and signatures."""

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from leukoscope.bundle.graph import OPERATORS, check_graph, strange_operators
from leukoscope.bundle.manifest import MANIFEST, SHIPPED, DistanceLimit, amend_bundle, open_bundle, write_bundle
from leukoscope.bundle.signature import SIGNATURE, check_signature, make_key, sign, signature_of
from leukoscope.cli.models import models
from leukoscope.errors import BundleError, DataError, UsageError
from leukoscope.files import fingerprint, read_json, write_json
from leukoscope.inference import ensemble
from leukoscope.inference.predictor import load
from leukoscope.inference.rejection import OutOfDistributionDetector, fit_space, read_detector
from tests.server.small_bundle import network, small_bundle


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


def varint(number: int) -> bytes:
    """A number as protocol buffers write it."""
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


def test_a_graph_behind_a_number_that_other_readers_cut_off_is_found(tmp_path: Path) -> None:
    """ONNX Runtime takes field 2**29 + 7 for field 7, the graph: it would run what was never looked at."""
    honest = open_bundle(small_bundle(tmp_path / "honest"))
    model = onnx.load_from_string(honest.read("model.onnx"))
    with_loop(model)
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    content = model.SerializeToString() + varint(1 << 32 | 7 << 3 | 2) + varint(len(graph)) + graph
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["crops"], "it is a graph for ONNX Runtime"
    with pytest.raises(BundleError, match="not an ONNX file"):
        check_graph(content, tmp_path / "model.onnx")


def test_the_own_format_of_onnx_runtime_is_not_loaded(tmp_path: Path) -> None:
    """A file that is ONNX for us, and another graph for whoever looks at bytes 4 to 8."""
    unknown = varint(5000 << 3 | 2) + varint(4) + b"ORTM"
    assert unknown[4:8] == b"ORTM"
    with pytest.raises(BundleError, match="not an ONNX file"):
        check_graph(unknown + network(), tmp_path / "model.onnx")


def by_values(model: onnx.ModelProto) -> None:
    """Give the brighter pictures the larger arrays: 16 GB for a white one, and nothing for the black one of a trial."""
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("factor", 20_000), ("rows", [200_000]), ("first", [0]))
    )
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.output[0] = "fair"
    make = helper.make_node
    model.graph.node.extend(
        [
            make("Cast", ["crops"], ["whole"], to=TensorProto.INT64),
            make("ReduceMax", ["whole"], ["brightest"], keepdims=0),
            make("Mul", ["brightest", "factor"], ["long"]),
            make("Unsqueeze", ["long", "first"], ["columns"]),
            make("Concat", ["columns", "rows"], ["size"], axis=0),
            make("ConstantOfShape", ["size"], ["large"]),
            make("ReduceSum", ["large"], ["zero"], keepdims=0),
            make("Add", ["fair", "zero"], ["probabilities"]),
        ]
    )


def test_a_picture_does_not_say_how_much_memory_is_needed(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="what ConstantOfShape gives from the image's values"):
        load(resealed(tmp_path, by_values))


def always(*shape: int) -> Callable[[onnx.ModelProto], None]:
    """Add an array of zeros of this shape to the probabilities, whatever the picture."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "size"))
        for node in model.graph.node:
            if node.op_type == "Softmax":
                node.output[0] = "fair"
        model.graph.node.extend(
            [
                helper.make_node("ConstantOfShape", ["size"], ["large"]),
                helper.make_node("ReduceSum", ["large"], ["zero"], keepdims=0),
                helper.make_node("Add", ["fair", "zero"], ["probabilities"]),
            ]
        )

    return change


def test_a_bundle_from_elsewhere_is_tried_in_a_process_with_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six gigabytes, which this machine would give to the program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(BundleError, match="gives no answer|broke it"):
        load(resealed(tmp_path, always(30_000, 50_000)))
    assert load(small_bundle(tmp_path / "small", seed=11)).classes
    (note,) = (tmp_path / "cache/leukoscope/bundles-tried").iterdir()
    assert note.name.startswith(open_bundle(tmp_path / "small").manifest.seal), "each is tried once"


def test_what_takes_too_long_or_breaks_the_program_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = open_bundle(small_bundle(tmp_path / "slow", seed=12))
    monkeypatch.setattr(ensemble, "_SECONDS", 0.01)
    with pytest.raises(BundleError, match=r"took more than 0 seconds"):
        ensemble.try_bundle(bundle)
    monkeypatch.setattr(ensemble, "_SECONDS", 180.0)
    monkeypatch.setattr(ensemble, "_MEMORY", 1 << 20)  # ONNX Runtime does not even start with it
    with pytest.raises(BundleError, match="in a separate process and broke it, or needed more than 1 MiB"):
        ensemble.try_bundle(bundle)


@pytest.mark.parametrize(("array", "value"), [("mean", np.nan), ("spread", np.nan), ("spread", -1.0), ("axes", np.inf)])
def test_limits_that_are_no_numbers_are_refused(tmp_path: Path, array: str, value: float) -> None:
    """A distance that is no number would compare as near, or as far, of every picture."""
    space = fit_space(np.random.default_rng(0).normal(size=(40, 8)))
    getattr(space, array)[:] = value
    limit = DistanceLimit(threshold=1.0)
    with pytest.raises(BundleError, match="NaN, Infinity"):
        read_detector(limit, OutOfDistributionDetector(space, limit).content())


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
    with pytest.raises(BundleError, match="outside 0 to 1"):
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
    with pytest.raises(BundleError, match="outside 0 to 1"):
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
    with pytest.raises(BundleError, match="operating_points|NaN or Infinity"):
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


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/etc/hostname", "..\\outside", "C:/outside", "C:outside", "a\0b", "."]
)
def test_names_that_lead_out_of_the_bundle_are_refused(tmp_path: Path, name: str) -> None:
    folder = small_bundle(tmp_path / "small")
    (tmp_path / "outside").write_text("x")
    table = read_json(folder / MANIFEST)
    table["files"][name] = sha256(b"x").hexdigest()
    table["seal"] = fingerprint({entry: each for entry, each in table.items() if entry != "seal"})
    write_json(folder / MANIFEST, table)
    with pytest.raises(BundleError, match="which is not part of the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 3000 + "1" + "}" * 3000])
def test_deep_json_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(DataError, match="deep.json is not valid JSON"):
        read_json(tmp_path / "deep.json")
