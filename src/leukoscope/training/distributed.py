"""Several processes learn as one: batch statistics and dropout are those of the whole batch, not of a share of it.

Each process holds a share of every batch. Were each share normalised by itself, the loss would depend on the number of
processes. So what looks across the cells of a batch is answered for all of them: PyTorch hands these calls to a mode,
whichever layer makes them. (torch.nn.SyncBatchNorm does the same, but on GPUs alone.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..models.seed_cnn import biased_batch_norm

Pair = tuple[Tensor | None, Tensor | None]


class AsOneBatch(TorchFunctionMode):
    """While it is entered, batch normalisation and dropout act on the `total` cells of a batch that is shared out.

    mine: which of them this process holds. The random state must be the same in all processes.
    """

    def __init__(self, mine: slice, *, total: int) -> None:
        super().__init__()
        self._mine, self._total = mine, total

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one call of PyTorch's."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is biased_batch_norm:
            layer = kwargs["layer"]
            running, scale = (layer.running_mean, layer.running_var), (layer.weight, layer.bias)
            return _normalise(*args, running=running, scale=scale, momentum=layer.momentum, eps=layer.eps, biased=True)
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Draw for the whole batch, keep this share: every cell loses what it would lose in one process."""
        if not training or p == 0:
            return functional.dropout(input, p, training, inplace)
        last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (self._total, *input.shape[1:])
        kept = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout).bernoulli_(1 - p)
        return input * (kept[self._mine] / (1 - p))


class _Total(torch.autograd.Function):
    """The sum over all processes; the gradient of a sum that all of them use is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _all_reduced(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_reduced(gradients[0])


def _all_reduced(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Total.apply(values)
    return total


def _batch_norm(  # noqa: PLR0917  # the arguments of torch.nn.functional.batch_norm
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    running, scale = (running_mean, running_var), (weight, bias)
    return _normalise(input, running=running, scale=scale, momentum=momentum, eps=eps, biased=False)


def _normalise(input: Tensor, *, running: Pair, scale: Pair, momentum: float, eps: float, biased: bool) -> Tensor:
    """Normalise by mean and variance over all processes, and move the running statistics towards them."""
    across, shape = [0, *range(2, input.ndim)], (1, -1, *[1] * (input.ndim - 2))
    values = input.float()
    places = _all_reduced(torch.tensor(float(input.numel() // input.shape[1]), device=input.device))
    mean = _total(values.sum(across)) / places
    centred = values - mean.view(shape)
    variance = _total(centred.square().sum(across)) / places
    output = centred * torch.rsqrt(variance + eps).view(shape)
    weight, bias = scale
    output = output if weight is None else output * weight.view(shape)
    output = output if bias is None else output + bias.view(shape)
    with torch.no_grad():
        correction = 1.0 if biased else places / (places - 1).clamp(min=1)
        for kept, now in zip(running, (mean, variance * correction), strict=True):
            if kept is not None:
                kept.lerp_(now.to(kept.dtype), momentum)
    return output.to(input.dtype)
