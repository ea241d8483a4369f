"""The first block of the paper's network, which is most of a step, in one pass over the images on a processor.

Convolution, normalisation, ReLU and pooling of a few images at a time, so that the large planes between them stay in
the processor's cache. Three facts make one pass over the images enough:

- a channel's largest value in a window is also its largest after normalisation, if its scale is not negative; where it
  is, the channel is turned round before and after. So planes are pooled first, and a quarter of them is normalised.
- the mean and the variance of a convolution follow from sums of its input and of input times output.
- the gradient of a pooled normalised convolution follows from the same sums, and from one convolution of the gradient
  with the input. The bias before a normalisation has the gradient zero, which rounding otherwise hides.

The numbers are those of the layers themselves up to rounding; tests compare them.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.network import KerasBatchNorm2d, Network, SameConv2d

_AT_ONCE = 2  # images; measured: their planes, 3 MB an image at 450 px, then stay near the processor


class InOnePass(nn.Module):
    """A network whose first block is computed in one pass while it learns on a processor; else it is as it is."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (batch, classes) of crops (batch, height, width, 3), 0 to 255."""
        network, layers = self.network, self.network.backbone
        assert isinstance(layers, nn.Sequential)
        if not layers[1].training or crops.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            logits: Tensor = network(crops)
            return logits
        features = layers[4:](_first_block(crops, layers[0], layers[1], scale=network.rescaling.scale))  # type: ignore[arg-type]
        return network.logits_of(network.pool(features))


def in_one_pass(network: Network) -> nn.Module:
    """Return the network with a faster first block, where it begins as the paper's does; else the network itself."""
    first = list(network.backbone.children())[:4]
    kinds = (SameConv2d, KerasBatchNorm2d, nn.ReLU, nn.MaxPool2d)
    begins_so = len(first) == 4 and all(isinstance(layer, kind) for layer, kind in zip(first, kinds, strict=True))
    plain = begins_so and network.rescaling.reduce == 1 and not network.rescaling.shift.any()
    return InOnePass(network) if plain else network


def _first_block(crops: Tensor, convolution: SameConv2d, norm: KerasBatchNorm2d, *, scale: Tensor) -> Tensor:
    """Return what the first four layers give, and move the statistics of the normalisation."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    down, across = (side % 2 for side in crops.shape[1:3])
    crops = functional.pad(crops, (0, 0, 0, across, 0, down)) if down or across else crops
    images = crops.permute(0, 3, 1, 2).float()
    weight = convolution.weight * scale.view(1, 3, 1, 1)
    output, mean, variance = _Block.apply(images, weight, convolution.bias, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance, norm.momentum)
        norm.num_batches_tracked.add_(1)
    return cast(Tensor, output)


class _Block(torch.autograd.Function):
    """Convolve 2x2 patches, normalise over the batch, ReLU, largest of 2x2."""

    @staticmethod
    def forward(  # noqa: PLR0917  # autograd passes them in order
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (batch, channels, h, w), and mean and biased variance of each channel of the convolution."""
        turned = torch.where(gamma < 0, -1.0, 1.0)
        kernel = (weight * turned.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
        height, width = (side // 2 for side in images.shape[2:])
        shape = (len(images), len(kernel), -(-height // 2), -(-width // 2))
        output = torch.empty(shape, memory_format=torch.channels_last)
        places = torch.empty(shape, dtype=torch.int64, memory_format=torch.channels_last)
        by_input = torch.zeros(kernel.shape, dtype=torch.float64)  # sums of output times input
        inputs = torch.zeros(kernel.shape[1:], dtype=torch.float64)
        for start in range(0, len(images), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            plane = functional.conv2d(images[some], kernel, stride=2)
            by_input += _by_input(plane, images[some], kernel)
            inputs += _sum_of_patches(images[some])
            torch.ops.aten.max_pool2d_with_indices.out(
                plane, [2, 2], [2, 2], [0, 0], [1, 1], True, out=output[some], indices=places[some]
            )
        count = len(images) * height * width
        mean = torch.einsum("okij,kij->o", kernel.double(), inputs) / count
        square = torch.einsum("okij,okij->o", kernel.double(), by_input) / count
        variance = (square - mean.square()).clamp(min=0)
        factor = gamma.abs() * torch.rsqrt(variance + eps).float()
        output.mul_(factor.view(1, -1, 1, 1)).add_((beta - factor * mean.float()).view(1, -1, 1, 1)).relu_()
        ctx.save_for_backward(images, kernel, gamma, turned, output, places)
        ctx.sums = by_input, inputs, mean, torch.rsqrt(variance + eps), count
        ctx.mark_non_differentiable(now := (mean * turned).float() + bias, spread := variance.float())
        return output, now, spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, kernel, gamma, turned, output, places = ctx.saved_tensors
        by_input, inputs, mean, inverse, count = ctx.sums
        gradient = gradients[0].contiguous(memory_format=torch.channels_last) * (output > 0)
        total = _sum_of_channels(gradient)
        convolved = torch.zeros(kernel.shape, dtype=torch.float64)  # sums of gradient times input
        height, width = (side // 2 for side in images.shape[2:])
        for start in range(0, len(images), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            shape = (len(images[some]), len(kernel), height, width)
            like = torch.empty(shape, memory_format=torch.channels_last)
            spread = torch.ops.aten.max_pool2d_with_indices_backward(
                gradient[some], like, [2, 2], [2, 2], [0, 0], [1, 1], True, places[some]
            )
            convolved += _by_input(spread, images[some], kernel)
        normal = (torch.einsum("okij,okij->o", kernel.double(), convolved) - mean * total) * inverse
        by_normal = (by_input - mean.view(-1, 1, 1, 1) * inputs) * inverse.view(-1, 1, 1, 1)
        rest = total.view(-1, 1, 1, 1) * inputs + normal.view(-1, 1, 1, 1) * by_normal
        gradient = (gamma.abs().double() * inverse * turned).view(-1, 1, 1, 1) * (convolved - rest / count)
        return None, gradient.float(), torch.zeros_like(gamma), (normal * turned).float(), total.float(), None


def _by_input(plane: Tensor, images: Tensor, kernel: Tensor) -> Tensor:
    """Return the sums over all places of what is there times each pixel of its patch, as the kernel's shape."""
    _, sums, _ = torch.ops.aten.convolution_backward(
        plane, images, kernel, None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    assert isinstance(sums, Tensor)
    return sums.double()


def _sum_of_patches(images: Tensor) -> Tensor:
    """Return the sum of each pixel of all 2x2 patches, (3, 2, 2)."""
    count, colours, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(count * height // 2, 2 * width * colours)
    summed = (rows.new_ones(1, len(rows)) @ rows).double()
    patch: Tensor = summed.view(2, width // 2, 2, colours).sum(dim=1).permute(2, 0, 1)
    return patch


def _sum_of_channels(planes: Tensor) -> Tensor:
    """Return the sum of each channel, (channels,); a product with ones, which is faster than a sum over three sides."""
    rows = planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1])
    total: Tensor = rows.new_ones(1, len(rows)) @ rows
    return total[0].double()
