"""Layers with Keras' arithmetic where it differs from PyTorch's; golden numbers from real Keras hold them."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from .network import Network

# Defaults of keras.layers.BatchNormalization; Keras' momentum is the share that is kept, PyTorch's the share taken in.
EPSILON = 1e-3
MOMENTUM = 0.99


class SameConv2d(nn.Conv2d):
    """A 2x2 convolution with padding='same': the output is the input divided by the stride, rounded up.

    Keras puts an odd row of padding at the bottom and right, where PyTorch's symmetric padding cannot.
    Kernels start Glorot-uniform, biases at zero.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__(inputs, outputs, kernel_size=2, stride=stride)
        assert self.bias is not None
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        below, right = (_missing(side, stride=self.stride[0]) for side in input.shape[2:])
        if below or right:
            input = functional.pad(input, (0, right, 0, below))
        return super().forward(input)


class KerasBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose moving variance takes in the biased variance of the batch, as Keras 3 does.

    PyTorch takes in the unbiased one, which is larger by n / (n - 1) with n places per channel in the batch.
    """

    def __init__(self, channels: int, *, momentum: float = MOMENTUM) -> None:
        super().__init__(channels, eps=EPSILON, momentum=1 - momentum)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        output = biased_batch_norm(input, layer=self)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
        return output


def biased_batch_norm(input: Tensor, *, layer: KerasBatchNorm2d) -> Tensor:
    """Normalise a batch; move the layer's statistics, in place, towards its mean and biased variance.

    A PyTorch function mode can take it over, as torch.nn.functional's own: so several processes share a batch.
    """
    if has_torch_function_unary(input):
        shared: Tensor = handle_torch_function(biased_batch_norm, (input,), input, layer=layer)
        return shared
    assert layer.momentum is not None
    assert layer.running_var is not None
    places = input.numel() // input.shape[1]
    unbiased = layer.running_var * (places / (places - 1)) if places > 1 else layer.running_var.clone()
    output = functional.batch_norm(
        input, layer.running_mean, unbiased, layer.weight, layer.bias, True, layer.momentum, EPSILON
    )
    with torch.no_grad():
        layer.running_var.copy_(unbiased * ((places - 1) / places))
    return output


def same_max_pool() -> nn.MaxPool2d:
    """Return 2x2 max pooling with stride 2 and padding='same': rounding up equals Keras' padding with -inf."""
    return nn.MaxPool2d(2, stride=2, ceil_mode=True)


def _missing(side: int, *, stride: int) -> int:
    """Return how many rows a 2-wide window lacks at the end of `side` pixels."""
    return max((-(-side // stride) - 1) * stride + 2 - side, 0)


FILTERS = (16, 32, 64, 128)


def seed_cnn(*, classes: int, dropout: float, momentum: float = MOMENTUM) -> Network:
    """Return the paper's network: 44,529 parameters with two classes, 480 of them moving statistics.

    At 450 px its planes are 225, 113, 57, 29, 15, 8 and 4 pixels wide. The table leaves the order inside a block
    open; it is that of Keras' own example "Image classification from scratch": convolution, normalisation, ReLU.
    """
    return _network(classes=classes, dropout=dropout, momentum=momentum, extra_convolutions=0)


def seed_cnn_deep(*, classes: int, dropout: float, momentum: float = MOMENTUM) -> Network:
    """Return the paper's network with a second convolution, of stride 1, in each block; its planes stay the same."""
    return _network(classes=classes, dropout=dropout, momentum=momentum, extra_convolutions=1)


def _network(*, classes: int, dropout: float, momentum: float, extra_convolutions: int) -> Network:
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *FILTERS), FILTERS, strict=False):
        layers += _convolution(inputs, outputs, stride=2, momentum=momentum)
        for _ in range(extra_convolutions):
            layers += _convolution(outputs, outputs, stride=1, momentum=momentum)
        layers += [nn.Dropout(dropout)] if outputs == FILTERS[-1] else [same_max_pool()]
    backbone = nn.Sequential(*layers)
    return Network(backbone, channels=FILTERS[-1], classes=classes, dropout=dropout, mean=(0, 0, 0), std=(1, 1, 1))


def _convolution(inputs: int, outputs: int, *, stride: int, momentum: float) -> list[nn.Module]:
    norm = KerasBatchNorm2d(outputs, momentum=momentum)
    return [SameConv2d(inputs, outputs, stride=stride), norm, nn.ReLU(inplace=True)]
