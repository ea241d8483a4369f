"""Learning rates as a function of the step."""

import pytest
import torch

from leukoscope.config import Train
from leukoscope.models.network import seed_cnn
from leukoscope.training.loop import make_optimizer, rate_at, set_rates


def test_the_rate_rises_over_the_warm_up_and_falls_along_pytorchs_cosine() -> None:
    train = Train(learning_rate=0.1, warmup=0.1, cosine=True)
    rates = [rate_at(train, step=step, steps=100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for rate in rates[10:]:
        assert rate == pytest.approx(peer.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        peer.step()


def test_without_a_schedule_the_rate_is_level() -> None:
    assert {rate_at(Train(learning_rate=0.01), step=step, steps=7) for step in range(7)} == {0.01}


def test_weight_decay_spares_biases_and_normalisation() -> None:
    network = seed_cnn(classes=2, dropout=0)
    groups = make_optimizer(network, Train(optimizer="adamw", weight_decay=0.05)).param_groups
    assert all((weight.ndim > 1) == (group["weight_decay"] == 0.05) for group in groups for weight in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_the_head_learns_at_its_own_rate() -> None:
    network = seed_cnn(classes=2, dropout=0)
    settings = Train(learning_rate=0.01, head_rate=5)
    optimizer = make_optimizer(network, settings)
    set_rates(optimizer, settings, step=0, steps=7)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert rates[id(network.head.weight)] == pytest.approx(0.05)
    assert {rates[id(weight)] for weight in network.backbone.parameters()} == {0.01}
