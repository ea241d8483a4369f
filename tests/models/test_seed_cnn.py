"""seed-cnn against real Keras: golden numbers made by tests/golden/make_keras_golden.py."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leukoscope.config import Train
from leukoscope.models.network import Network, count, layers_of, seed_cnn, seed_cnn_deep
from leukoscope.training.loop import make_optimizer, set_rates

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from seed_cnn_inputs import LEARNING_RATE, STEPS, inputs, sample, weights  # noqa: E402


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(GOLDEN / "seed_cnn_keras.npz", allow_pickle=False) as file:
        return dict(file)


def tensors_in_keras_order(network: Network) -> list[torch.Tensor]:
    blocks = list(network.backbone)
    convolutions = [layer for layer in blocks if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in blocks if isinstance(layer, torch.nn.BatchNorm2d)]
    tensors = []
    for conv, norm in zip(convolutions, norms, strict=True):
        tensors += [conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    return [*tensors, network.head.weight, network.head.bias]


def in_keras_layout(tensor: torch.Tensor) -> NDArray[np.float32]:
    array = tensor.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


@pytest.fixture
def network() -> Network:
    network = seed_cnn(classes=2, dropout=0.0)
    with torch.no_grad():
        for tensor, value in zip(tensors_in_keras_order(network), weights(), strict=True):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T  # noqa: PLW2901
            tensor.copy_(torch.from_numpy(value.copy()))
    return network.double().to(memory_format=torch.channels_last)


def test_the_layer_table_is_the_papers(golden: dict[str, NDArray[np.float32]]) -> None:
    network = seed_cnn(classes=2, dropout=0.2)
    widths = [row.shape[0] for row in layers_of(network, size=450) if len(row.shape) == 3]
    assert [width for before, width in zip([450, *widths], widths, strict=False) if width != before] == [
        225,
        113,
        57,
        29,
        15,
        8,
        4,
    ]
    assert widths == golden["widths"].tolist()[1:]  # from the rescaling on
    assert [count(network), count(network, trainable=True)] == golden["parameters"].tolist() == [44_529, 44_049]
    assert count(network, trainable=False) == 480


def test_inference_gives_the_numbers_of_keras(network: Network, golden: dict[str, NDArray[np.float32]]) -> None:
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(inputs()[0]))
    assert torch.equal(logits[:, 0], torch.zeros(4, dtype=torch.float64))
    np.testing.assert_allclose(logits[:, 1:].numpy(), golden["logits"], atol=1e-6)


def test_two_steps_of_adam_end_at_the_weights_of_keras(
    network: Network, golden: dict[str, NDArray[np.float32]]
) -> None:
    crops, labels = (torch.from_numpy(value) for value in inputs())
    train = Train(optimizer="adam", learning_rate=LEARNING_RATE)
    optimizer = make_optimizer(network, train)
    losses = []
    for step in range(STEPS):
        set_rates(optimizer, train, step=step, steps=STEPS)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network.train()(crops), labels.long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4)
    for number, tensor in enumerate(tensors_in_keras_order(network)):
        mine = sample(in_keras_layout(tensor))
        np.testing.assert_allclose(mine, golden[f"weight_{number}"], atol=1e-6, err_msg=f"weight {number}")
    with torch.no_grad():
        after = network.eval()(torch.from_numpy(inputs()[0]))[:, 1:]
    np.testing.assert_allclose(after.numpy(), golden["logits_after"], rtol=1e-5)


def test_a_fresh_network_starts_as_keras_does() -> None:
    torch.manual_seed(0)
    for tensor, value in zip(tensors_in_keras_order(seed_cnn(classes=2, dropout=0.0)), weights(), strict=True):
        array = in_keras_layout(tensor)
        assert array.shape == value.shape
        if array.ndim == 4:
            limit = (6 / (4 * array.shape[2] + 4 * array.shape[3])) ** 0.5  # Glorot's, with 2x2 places
            assert abs(array).max() <= limit
            assert abs(array).max() > 0.9 * limit


@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (4, 4)])
def test_two_classes_share_one_logit_and_more_have_one_each(classes: int, outputs: int) -> None:
    for make in (seed_cnn, seed_cnn_deep):
        network = make(classes=classes, dropout=0.2)
        assert network.head.out_features == outputs
        assert network(torch.zeros(3, 32, 32, 3, dtype=torch.uint8)).shape == (3, classes)
