"""Random changes to a batch of training crops that leave the diagnosis as it is; in torch, where the batch lies.

Draws and changes are apart: the draws are made for a whole batch on the CPU, so every device, and every share of a
batch that several processes divide, sees the same.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from ..config import Augment

_BLACK = 1.0  # of 255; cells are cut out on black, and resampling leaves a little light on their rim
_LIGHT = 255.0
_AS_IT_IS = torch.tensor([[1.0], [0.0]])  # factor and shift of an optical density that stays


@dataclass(frozen=True)
class Draws:
    """What happens to each crop of a batch; the first dimension of everything is the batch."""

    turn: Tensor
    """Radians."""
    mirror: Tensor
    """1 or -1."""
    zoom: Tensor
    """Above 1 the cell looks larger."""
    shift: Tensor
    """(batch, 2): across and down, where 2 is the side of the crop."""
    stain: Tensor
    """(batch, 2, 3): factor and shift of the optical density of each colour channel."""
    contrast: Tensor
    """Factor of a pixel's distance from the cell's mean colour."""
    light: Tensor
    """Factor of brightness."""
    blur: Tensor
    """Standard deviation, crop pixels."""
    coarse: Tensor
    """How many times fewer pixels per side a coarser camera gives; 1 leaves all detail."""

    def share(self, mine: slice) -> Self:
        """Return the draws of some of the crops."""
        return type(self)(**{field.name: getattr(self, field.name)[mine] for field in fields(self)})


def draw(settings: Augment, *, crops: int, generator: torch.Generator) -> Draws:
    """Draw what shall happen to a batch of crops."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(crops, *shape, generator=generator)

    smallest, largest = settings.zoom
    # To multiply a channel by e^c is to take c off its optical density.
    thicker = uniform(-1, 1, 3) * settings.stain / 4 + uniform(-1, 1, 3) * settings.colour
    return Draws(
        turn=uniform(-math.pi, math.pi) * settings.rotate,
        mirror=torch.where((uniform(0, 1) < 0.5) & torch.tensor(settings.flip), -1.0, 1.0),
        zoom=uniform(math.log(smallest), math.log(largest)).exp(),
        shift=uniform(-2, 2, 2) * settings.shift,
        stain=torch.stack([1 + uniform(-1, 1, 3) * settings.stain, thicker], dim=1),
        contrast=1 + uniform(-1, 1) * settings.contrast,
        light=1 + uniform(-1, 1) * settings.brightness,
        blur=uniform(0, settings.blur) * (uniform(0, 1) < 0.5),
        coarse=(uniform(0, math.log(settings.coarse)) * (uniform(0, 1) < 0.5)).exp(),
    )


def augment(crops: Tensor, draws: Draws) -> Tensor:
    """Return changed crops, float (batch, height, width, 3), 0 to 255, of crops uint8 of the same shape.

    A setting that is off leaves its values as they are, to the bit; black stays black.
    """
    here = Draws(**{field.name: getattr(draws, field.name).to(crops.device) for field in fields(draws)})
    restained = (draws.stain != _AS_IT_IS).any() or (draws.light != 1).any() or (draws.contrast != 1).any()
    images = (_restain(crops, here) if restained else crops.float()).permute(0, 3, 1, 2)
    if (draws.turn != 0).any() or (draws.mirror != 1).any() or (draws.zoom != 1).any() or (draws.shift != 0).any():
        images = _move(images, here)
    if (draws.blur > 0).any():
        images = _blur(images, here.blur)
    if (draws.coarse > 1).any():
        images = _coarsen(images, draws.coarse)
    return images.permute(0, 2, 3, 1)


def _restain(crops: Tensor, draws: Draws) -> Tensor:
    """Scale and shift the optical density -log(I / 255) of each colour, the contrast and the light of each cell.

    A crop has only 256 values per colour, so they are worked out once and looked up: three passes over the batch
    instead of eleven. Source of the model: Ruifrok & Johnston, Quantification of histochemical staining by color
    deconvolution, 2001; of jittering it: Tellez et al., IEEE Transactions on Medical Imaging, 2018.
    """
    factor, shift = draws.stain[:, 0, :, None], draws.stain[:, 1, :, None]  # (batch, 3, 1)
    value = torch.arange(256, device=crops.device, dtype=torch.float32)
    mean = _mean_colour(crops)
    contrasted = torch.where(
        draws.contrast[:, None, None] == 1, value, mean + (value - mean) * draws.contrast[:, None, None]
    )
    density = -torch.log(contrasted.clamp(min=1) / _LIGHT)
    changed = (_LIGHT * torch.exp(-(density * factor + shift)) * draws.light[:, None, None]).clamp(0, _LIGHT)
    table = torch.where(value > _BLACK, changed, value)  # (batch, 3, 256)
    places = torch.arange(table[..., 0].numel(), device=crops.device, dtype=torch.int32).view(-1, 1, 1, 3) * 256
    return table.flatten().index_select(0, (crops.int() + places).flatten()).view(crops.shape)


def _mean_colour(crops: Tensor) -> Tensor:
    """Return the mean colour of each cell, (batch, 3, 1)."""
    cell = crops.amax(dim=3, keepdim=True) > _BLACK
    return ((crops * cell).sum(dim=(1, 2)) / cell.sum(dim=(1, 2)).clamp(min=1))[..., None]


def _move(images: Tensor, draws: Draws) -> Tensor:
    """Mirror, turn, enlarge and move in one resampling, so that crops are smoothed once."""
    height, width = images.shape[2:]
    # places in the output, -1 to 1 from border to border, and where in the input each comes from
    down, across = (
        (2 * torch.arange(side, device=images.device, dtype=images.dtype) + 1) / side - 1 for side in (height, width)
    )
    cos, sin = (wave(draws.turn) / draws.zoom for wave in (torch.cos, torch.sin))
    cos, sin, mirror, down = cos[:, None, None], sin[:, None, None], draws.mirror[:, None, None], down[:, None]
    right, below = draws.shift[:, :, None, None].unbind(dim=1)
    grid = torch.stack([(cos * across - sin * down) * mirror - right, sin * across + cos * down - below], dim=3)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each crop with a Gaussian of its own."""
    return _inside(images, lambda planes: _gaussian(planes, sigma))


def _coarsen(images: Tensor, factors: Tensor) -> Tensor:
    """Average each crop over larger pixels, and enlarge it again as crops of coarse fields are."""
    changed = []
    for image, factor in zip(images, factors.tolist(), strict=True):
        changed.append(_inside(image[None], partial(_reduced, by=factor)) if factor > 1 else image[None])
    return torch.cat(changed)


def _reduced(planes: Tensor, *, by: float) -> Tensor:
    height, width = planes.shape[2:]
    small = (max(1, round(height / by)), max(1, round(width / by)))
    reduced = functional.interpolate(planes, size=small, mode="bilinear", antialias=True)
    return functional.interpolate(reduced, size=(height, width), mode="bicubic")


def _inside(images: Tensor, smoothed: Callable[[Tensor], Tensor]) -> Tensor:
    """Smooth crops inside their cells alone: the black around a cell lends no darkness to its rim."""
    cell = _cell(images)
    light, share = smoothed(torch.cat([images * cell, cell], dim=1)).tensor_split([3], dim=1)
    return torch.where(cell, (light / share.clamp(min=1e-6)).clamp(0, _LIGHT), images)


def _gaussian(images: Tensor, sigma: Tensor) -> Tensor:
    """Convolve each crop with a Gaussian of its own; sigma is (batch,), in pixels."""
    reach = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(images.shape[1], dim=0)[:, None]
    stacked = images.reshape(1, -1, *images.shape[2:])  # every plane is a channel of its own
    stacked = functional.conv2d(stacked, kernel[:, :, None, :], padding=(0, reach), groups=stacked.shape[1])
    stacked = functional.conv2d(stacked, kernel[:, :, :, None], padding=(reach, 0), groups=stacked.shape[1])
    return stacked.view_as(images)


def _cell(images: Tensor) -> Tensor:
    """Return where there is a cell, (batch, 1, height, width)."""
    return images.amax(dim=1, keepdim=True) > _BLACK
