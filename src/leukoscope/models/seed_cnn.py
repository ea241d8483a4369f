"""The paper's small convolutional network, to the digit of its table, and a deeper one of the same kind."""

from torch import nn

from .keras_layers import MOMENTUM, KerasBatchNorm2d, SameConv2d, same_max_pool
from .network import Network

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
