"""A bundle whose network is written by hand: one convolution, fixed weights, quick to make and to ask."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leukoscope.bundle.manifest import CARD, Manifest, Member, SubjectFigures, write_bundle
from leukoscope.config import Prepare
from leukoscope.inference.ensemble import CLASSES_KEY

SIZE, CHANNELS = 64, 6
CLASSES = ("normal", "blast")
POINTS = {"balanced": 0.5, "high_sensitivity": 0.3, "high_specificity": 0.7}


def small_bundle(folder: Path, *, name: str = "small", seed: int = 0) -> Path:
    """Write a bundle of two classes; another seed gives another model."""
    manifest = Manifest(
        name=name,
        classes=CLASSES,
        positive="blast",
        operating_points=POINTS,
        members=(Member(graph="model.onnx", network="by hand", prepare=Prepare(view="frame", size=SIZE)),),
        subjects=figures(),
        credits=({"data": "none", "licence": "none needed", "credit": "Written by hand."},),
        metrics={"data": {"cells": 1, "groups": 1, "synthetic": True}},
        conformal={"format": 1, "alpha": 0.1, "unit": "subject", "smallest_plausible": [0.45, 0.45]},
    )
    write_bundle(folder, manifest, files={"model.onnx": network(seed), CARD: b"# A model made by hand\n"})
    return folder


def figures() -> tuple[SubjectFigures, ...]:
    """Counts of eight subjects, so that a share can be corrected."""
    called = {"blast": (18, 17, 19, 16), "normal": (3, 2, 4, 1)}
    return tuple(
        SubjectFigures(group=f"{label}{number}", label=label, cells=20, called=dict.fromkeys(POINTS, count))
        for label, counts in called.items()
        for number, count in enumerate(counts)
    )


def network(seed: int = 0) -> bytes:
    """Return an ONNX file that answers as every exported network does."""
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.2, (CHANNELS, 3, 8, 8)),
        "head": rng.normal(0, 3, (CHANNELS, 1)),
        "bias": np.zeros(1),
        "sides": np.array([[0.0, 1.0]]),
        "halves": np.array([-0.5, 0.5]).reshape(1, 2, 1, 1),
        "scale": np.array(1 / 255),
    }
    weights["plane"] = weights["head"].T.reshape(1, CHANNELS, 1, 1)
    make = helper.make_node
    nodes = [
        make("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        make("Transpose", ["float"], ["moved"], perm=[0, 3, 1, 2]),
        make("Mul", ["moved", "scale"], ["scaled"]),
        make("Conv", ["scaled", "kernel"], ["conv"], strides=[8, 8]),
        make("Relu", ["conv"], ["features"]),
        make("GlobalAveragePool", ["features"], ["pooled"]),
        make("Flatten", ["pooled"], ["embedding"]),
        make("MatMul", ["embedding", "head"], ["raw"]),
        make("Add", ["raw", "bias"], ["z"]),
        make("MatMul", ["z", "sides"], ["logits"]),
        make("Softmax", ["logits"], ["probabilities"], axis=1),
        make("Conv", ["features", "plane", "bias"], ["evidence"]),
        make("Mul", ["evidence", "halves"], ["map"]),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    shapes = {"probabilities": ["batch", 2], "map": ["batch", 2, 8, 8], "embedding": ["batch", CHANNELS]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", [crops], outputs, initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    helper.set_model_props(model, {CLASSES_KEY: "\n".join(CLASSES)})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
