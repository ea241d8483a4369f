"""The contract that all networks meet, and what is exported of it."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from leukoscope.config import Model
from leukoscope.models.catalogue import build_network
from leukoscope.models.network import Network, WithMap


def crops(count: int, *, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8))


def network(name: str, *, classes: int = 2) -> Network:
    torch.manual_seed(0)
    return build_network(Model(name=name), classes=classes, size=64).eval()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", ["seed-cnn", "timm:resnet18"])
def test_the_activation_map_adds_up_to_the_probabilities(name: str, classes: int) -> None:
    with torch.no_grad():
        given = network(name, classes=classes)
        probabilities, evidence, embedding = WithMap(given)(crops(3))
        logits = given(crops(3))
    assert evidence.shape[:2] == (3, classes)
    assert embedding.shape == (3, given.channels)
    torch.testing.assert_close(probabilities, torch.softmax(logits, dim=1))
    torch.testing.assert_close(torch.softmax(evidence.mean(dim=(2, 3)), dim=1), probabilities)
    torch.testing.assert_close(evidence.mean(dim=(2, 3)), logits - logits.mean(dim=1, keepdim=True), atol=1e-5, rtol=0)


def test_two_classes_are_one_logit_against_zero() -> None:
    with torch.no_grad():
        given = network("seed-cnn")
        logits = given(crops(3))
        assert torch.equal(logits[:, 0], torch.zeros(3))
        torch.testing.assert_close(torch.softmax(logits, dim=1)[:, 1], torch.sigmoid(logits[:, 1]))


def test_standardisation_is_inside_and_the_backbones_own() -> None:
    given = network("timm:resnet18")
    grey = torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)
    expected = [
        (128 / 255 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    torch.testing.assert_close(given.rescaling(grey)[0, :, 5, 5], torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["seed-cnn", "timm:test_efficientnet"])
def test_onnx_runtime_agrees_with_pytorch_at_any_batch(name: str, tmp_path: Path) -> None:
    given = WithMap(network(name)).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        given,
        (crops(2),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["crops"],
        dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1, max=4096)}},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        outputs = session.run(None, {"crops": crops(count).numpy()})
        with torch.no_grad():
            expected = given(crops(count))
        for mine, theirs in zip(expected, outputs, strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-4)
