"""A backbone whose feature map holds every stage of a timm network, of one look at the crop or of two.

What the first stages see, fine grain and colour, is lost to the last one, and it is what holds from one part of C-NMC
to the next (docs/evidence/generalisation.md). The second look enlarges the cell until it fills the crop in proportion
to its area: so the network sees how large a cell is, and what it is like whatever its size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images.crop import BLACK

PLACES = 8  # along a side of the map
MARGIN = 0.075  # around the enlarged cell, as a share of the diameter of a disc of its area
_OPENING = 5  # px: what hangs on the cell by less does not move the second look


class Stages(nn.Module):
    """All stages of a network with a stem and blocks (EfficientNet, MobileNet): (batch, channels, 8, 8).

    The mean of a channel over its places is that of the stage's own map. `body` is a timm model, `reduce` the side of
    the squares of pixels that are averaged before each look, `twice` whether there is the second look; `black` is what
    a black pixel comes to after standardisation, `step` what one grey level does, (3,) both.
    """

    def __init__(self, body: Any, *, reduce: int, twice: bool, black: Tensor, step: Tensor) -> None:
        super().__init__()
        if not all(hasattr(body, part) for part in ("conv_stem", "bn1", "blocks")):
            raise UsageError(
                "model.pool = 'stages' needs a backbone with a stem and blocks, such as timm:tf_efficientnet_lite0. "
                "Choose one, or model.pool = 'last'."
            )
        self.stem = nn.Sequential(body.conv_stem, body.bn1)
        self.blocks = nn.ModuleList(body.blocks)
        self.reduce, self.twice = reduce, twice
        self.register_buffer("black", black.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("least", (BLACK * step).view(1, 3, 1, 1), persistent=False)
        self.black: Tensor
        self.least: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return the map of standardised images (batch, 3, side, side)."""
        lit = images - self.black
        if not self.twice:
            return self._look(lit)
        middle, share = self._square(lit)
        cell = _resampled(lit, middle, share, side=lit.shape[-1])
        return torch.cat([self._look(lit), _put_back(self._look(cell), middle, share)], dim=1)

    def _look(self, lit: Tensor) -> Tensor:
        """Return the maps of all stages, brought to PLACES along a side, side by side."""
        seen = lit + self.black
        seen = nn.functional.avg_pool2d(seen, self.reduce) if self.reduce > 1 else seen
        found = self.stem(seen)
        maps = [_places(found)]
        for block in self.blocks:
            found = block(found)
            maps.append(_places(found))
        return torch.cat(maps, dim=1)

    def _square(self, lit: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle of the cell (batch, 2), x and y from -1 to 1, and its square's share of the side (batch,).

        The square is in proportion to the cell's area, as Prepare's view 'area' is.
        """
        cell = ((lit - self.least).amax(dim=1, keepdim=True) > 0).to(lit.dtype)
        reach = _OPENING // 2
        opened = -nn.functional.max_pool2d(-cell, _OPENING, stride=1, padding=reach)
        opened = nn.functional.max_pool2d(opened, _OPENING, stride=1, padding=reach)
        some = (opened.sum(dim=(1, 2, 3), keepdim=True) > 0).to(lit.dtype)
        cell = (some * opened + (1 - some) * cell)[:, 0]
        side = lit.shape[-1]
        place = (torch.arange(side, device=lit.device, dtype=lit.dtype) + 0.5) * 2 / side - 1
        area = cell.sum(dim=(1, 2)).clamp(min=1)
        x, y = (cell.sum(dim=1) * place).sum(dim=1) / area, (cell.sum(dim=2) * place).sum(dim=1) / area
        return torch.stack([x, y], dim=1), 2 * torch.sqrt(area / torch.pi) * (1 + 2 * MARGIN) / side


def _resampled(planes: Tensor, middle: Tensor, share: Tensor, *, side: int) -> Tensor:
    """Return squares of planes (batch, channels, height, width) as (batch, channels, side, side); nought outside."""
    place = (torch.arange(side, device=planes.device, dtype=planes.dtype) + 0.5) * 2 / side - 1
    x = middle[:, 0, None] + share[:, None] * place
    y = middle[:, 1, None] + share[:, None] * place
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
    return nn.functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _put_back(maps: Tensor, middle: Tensor, share: Tensor) -> Tensor:
    """Return maps of the enlarged square laid where the square is in the crop; their means over the places stay."""
    back = _resampled(maps, -middle / share[:, None], 1 / share, side=maps.shape[-1]) / (share**2).view(-1, 1, 1, 1)
    return back + (maps - back).mean(dim=(2, 3), keepdim=True)


def _places(found: Tensor) -> Tensor:
    """Return a map with PLACES along a side, by averaging or by repeating, so that its mean stays."""
    side = found.shape[-1]
    if side % PLACES == 0:
        return nn.functional.avg_pool2d(found, side // PLACES) if side > PLACES else found
    if PLACES % side == 0:
        return nn.functional.interpolate(found, scale_factor=PLACES // side, mode="nearest")
    raise UsageError(
        f"A stage of this backbone has {side} places along a side, which cannot be brought to {PLACES}. "
        "Choose crops that are seen at 64, 128 or 256 px."
    )
