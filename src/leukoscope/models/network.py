"""The networks of the program: prepared crops in; logits, and a map that explains them, out. And their layer tables.

The paper's own network has Keras' arithmetic where that differs from PyTorch's; golden numbers from real Keras hold it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

RGB = tuple[float, float, float]


class Rescaling(nn.Module):
    """Prepared crops, 0 to 255, (batch, height, width, 3) to standardised (batch, 3, height / reduce, width / reduce).

    The transpose is only a view: the memory stays in the order of the crops, which is the fast one for convolutions.
    """

    def __init__(self, *, mean: RGB, std: RGB, reduce: int) -> None:
        super().__init__()
        self.reduce = reduce
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(3, 1, 1)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(3, 1, 1) / torch.tensor(std).view(3, 1, 1), False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, crops: Tensor) -> Tensor:
        images = crops.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
        return nn.functional.avg_pool2d(images, self.reduce) if self.reduce > 1 else images


class GlobalAveragePool(nn.Module):
    """(batch, channels, height, width) to (batch, channels)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class Network(nn.Module):
    """Rescaling, a backbone that keeps the plane, global average pooling, dropout, one linear head.

    With two classes the head has one output z and the logits are (0, z), so that softmax is the sigmoid of z and
    cross-entropy the binary one; with more classes it has one output each.
    """

    def __init__(
        self, backbone: nn.Module, *, channels: int, classes: int, dropout: float, mean: RGB, std: RGB, reduce: int = 1
    ) -> None:
        super().__init__()
        self.rescaling = Rescaling(mean=mean, std=std, reduce=reduce)
        self.backbone = backbone
        self.pool = GlobalAveragePool()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, 1 if classes == 2 else classes)
        self.classes = classes
        self.channels = channels
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, crops: Tensor) -> Tensor:
        """Return the last feature map, (batch, channels, h, w)."""
        features: Tensor = self.backbone(self.rescaling(crops))
        return features

    def embedding(self, crops: Tensor) -> Tensor:
        """Return the pooled features, (batch, channels)."""
        pooled: Tensor = self.pool(self.features(crops))
        return pooled

    def logits_of(self, embedding: Tensor) -> Tensor:
        """Return the logits (batch, classes) of pooled features (batch, channels)."""
        return self._with_reference(self.head(self.dropout(embedding)), dim=1)

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (batch, classes) of prepared crops, 0 to 255, (batch, height, width, 3)."""
        return self.logits_of(self.embedding(crops))

    def activation_map(self, features: Tensor) -> Tensor:
        """Return the evidence for each class at each place, (batch, classes, h, w), from a feature map.

        The head is linear in the pooled features, so it can be applied to every place before pooling: the mean of
        the map over the plane is the logit, exactly. Each place is centred over the classes, which softmax does not
        see; with two classes this makes evidence against one the evidence for the other.
        Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
        """
        weight = self.head.weight[:, :, None, None]
        evidence = self._with_reference(nn.functional.conv2d(features, weight, self.head.bias), dim=1)
        return evidence - evidence.mean(dim=1, keepdim=True)

    def _with_reference(self, outputs: Tensor, *, dim: int) -> Tensor:
        """Put the logit 0 of the first class before the single output of a two-class head."""
        return outputs if self.classes > 2 else torch.cat([torch.zeros_like(outputs), outputs], dim=dim)


class WithMap(nn.Module):
    """A network that gives (probabilities, activation map, embedding) in one pass; what is exported to ONNX."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (batch, classes), (batch, classes, h, w) and (batch, channels) of crops (batch, height, width, 3)."""
        features = self.network.features(crops)
        embedding = self.network.pool(features)
        probabilities = torch.softmax(self.network.logits_of(embedding), dim=1)
        return probabilities, self.network.activation_map(features), embedding


@dataclass(frozen=True)
class Layer:
    """One row of the table."""

    kind: str
    shape: tuple[int, ...]
    """Of its output for one crop, channels last: (height, width, channels) or (channels,)."""
    parameters: int


def layers_of(network: Network, *, size: int) -> list[Layer]:
    """Return the layers in the order in which a crop of `size` pixels passes them.

    Layers of a timm backbone that are not plain sequences are one row each.
    """
    rows: list[Layer] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            rows.append(Layer(type(module).__name__, _channels_last(output), count(module)))

    hooks = [module.register_forward_hook(note) for module in _rows(network)]
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return rows


def count(module: nn.Module, *, trainable: bool | None = None) -> int:
    """Return the number of parameters as Keras counts them: moving statistics are parameters that do not train."""
    trainable_count = sum(value.numel() for value in module.parameters())
    moving = sum(
        value.numel() for name, value in module.named_buffers() if name.endswith(("running_mean", "running_var"))
    )
    return {None: trainable_count + moving, True: trainable_count, False: moving}[trainable]


def describe(network: Network, *, name: str, size: int) -> dict[str, Any]:
    """Return the table as plain data, the content of RUN/model.json."""
    layers = [("Input", (size, size, 3), 0)] + [
        (row.kind, row.shape, row.parameters) for row in layers_of(network, size=size)
    ]
    return {
        "name": name,
        "parameters": count(network),
        "trainable": count(network, trainable=True),
        "rescaling": _rescaling(network),
        "layers": [{"name": kind, "output_shape": list(shape), "parameters": n} for kind, shape, n in layers],
    }


def _rescaling(network: Network) -> dict[str, list[float]]:
    """Return what is taken off each channel of a crop from 0 to 1, and what the rest is divided by."""
    std = 1 / (255 * network.rescaling.scale.flatten())
    mean = -network.rescaling.shift.flatten() * std
    return {name: [round(value, 6) for value in each.tolist()] for name, each in (("mean", mean), ("std", std))}


def summary_table(network: Network, *, size: int) -> str:
    """Return the table as text: kind, output shape and parameters of each layer, then the totals."""
    rows = [("Layer", "Output shape", "Parameters")]
    rows.append(("Input", _shown((size, size, 3)), "0"))
    rows += [(row.kind, _shown(row.shape), f"{row.parameters:,}") for row in layers_of(network, size=size)]
    wide, shape, number = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [f"{kind:<{wide}}  {output:<{shape}}  {many:>{number}}" for kind, output, many in rows]
    rule = "-" * len(lines[0])
    totals = [
        f"Total parameters: {count(network):,}",
        f"Trainable: {count(network, trainable=True):,}",
        f"Not trainable: {count(network, trainable=False):,}",
    ]
    return "\n".join([lines[0], rule, *lines[1:], rule, *totals])


def _rows(module: nn.Module) -> list[nn.Module]:
    """Return the modules that get a row: plain sequences and the outer shells are opened, everything else is whole."""
    children = list(module.children())
    shell = (
        isinstance(module, Network | nn.Sequential) or hasattr(module, "forward_features") or hasattr(module, "body")
    )
    if not children or not shell:
        return [module]
    return [row for child in children for row in _rows(child)]


def _channels_last(output: Tensor) -> tuple[int, ...]:
    shape = tuple(output.shape[1:])
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _shown(shape: tuple[int, ...]) -> str:
    return f"(None, {', '.join(map(str, shape))})"


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
