"""The first block in one pass: the same numbers as the layers that it stands for."""

import copy

import pytest
import torch
from torch.nn import functional

from leukoscope.config import Model
from leukoscope.models.catalogue import build_network
from leukoscope.models.network import Network
from leukoscope.training.fused_block import InOnePass, in_one_pass


def network_with_negative_scales(size: int) -> Network:
    torch.manual_seed(0)
    network = build_network(Model(dropout=0.0), classes=2, size=size)
    with torch.no_grad():
        network.backbone[1].weight.normal_()
        network.backbone[1].bias.normal_()
    return network.train()


def learn(model: torch.nn.Module, crops: torch.Tensor) -> torch.Tensor:
    loss = functional.cross_entropy(model(crops), torch.arange(len(crops)) % 2)
    loss.backward()
    return loss


@pytest.mark.parametrize("size", [32, 33, 34, 35])
def test_loss_gradients_and_statistics_are_those_of_the_layers_in_double_precision(size: int) -> None:
    network = network_with_negative_scales(size)
    exact = copy.deepcopy(network).double()
    crops = torch.randint(0, 255, (5, size, size, 3), generator=torch.Generator().manual_seed(1))
    crops[:, :, : size // 4] = 0  # black, as around a cell: all places of a window are then the largest
    fast = in_one_pass(network)
    assert isinstance(fast, InOnePass)
    assert abs(learn(fast, crops.float()) - learn(exact, crops.double())) < 1e-5
    for (name, mine), right in zip(network.named_parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert right.grad is not None
        nothing = name.endswith("0.bias") or name in {"backbone.4.bias", "backbone.8.bias", "backbone.12.bias"}
        apart = (mine.grad - right.grad).abs().max()
        assert apart < (1e-5 if nothing else 1e-4 * right.grad.abs().max()), name
    for (name, mine), right in zip(network.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(mine.double(), right.double(), rtol=1e-4, atol=1e-6, msg=name)


def test_the_bias_before_a_normalisation_learns_nothing() -> None:
    network = network_with_negative_scales(32)
    learn(in_one_pass(network), torch.rand(4, 32, 32, 3) * 255)
    assert network.backbone[0].bias.grad.abs().max() == 0


def test_a_network_that_predicts_or_begins_otherwise_is_left_as_it_is() -> None:
    network = network_with_negative_scales(32).eval()
    crops = torch.rand(3, 32, 32, 3) * 255
    assert torch.equal(in_one_pass(network)(crops), network(crops))
    for name in ("seed-cnn-deep", "timm:test_efficientnet"):
        other = build_network(Model(name=name), classes=2, size=32)
        assert in_one_pass(other) is other
