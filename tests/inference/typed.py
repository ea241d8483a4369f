"""Bundles with a type head: a small ONNX graph that tells types by how dark a crop is, in the place of the network."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from leukoscope.bundle.manifest import TYPES, Bundle, Manifest, write_bundle
from leukoscope.images.crop import GLASS, SIDE
from leukoscope.inference.cell_types import GRAPH, entry_of

CONFUSION = (np.eye(len(TYPES), len(TYPES) + 1, dtype=int) * 90 + 1).tolist()
"""(true type, called type or unsure): 91 of 100 right."""


def type_graph(surely: Mapping[str, float], *, by_darkness: Mapping[str, float] | None = None) -> bytes:
    """Return a graph whose logits are `surely`, and `by_darkness` for each grey level that a crop is below glass."""
    bias = np.array([surely.get(name, 0.0) for name in TYPES], np.float32)
    slope = np.array([[(by_darkness or {}).get(name, 0.0) for name in TYPES]], np.float32)
    constants = {
        "glass": np.float32(GLASS),
        "axes": np.array([1, 2, 3], np.int64),
        "slope": slope,
        "bias": bias,
    }
    nodes = [
        helper.make_node("Cast", ["crops"], ["level"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["glass", "level"], ["dark"]),
        helper.make_node("ReduceMean", ["dark", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants["column"] = np.array([-1, 1], np.int64)
    graph = helper.make_graph(
        nodes,
        "types",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(TYPES)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def with_types(
    bundle: Bundle, folder: Path, surely: Mapping[str, float], *, by_darkness: Mapping[str, float] | None = None
) -> Bundle:
    """Write a bundle again with a type head."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files[GRAPH] = type_graph(surely, by_darkness=by_darkness)
    entry = entry_of(temperature=1.0, least=0.6, lymphoid=0.5, confusion=CONFUSION, figures={})
    manifest = Manifest.model_validate(bundle.manifest.model_dump() | {"types": entry})
    return write_bundle(folder, manifest, files=files)
