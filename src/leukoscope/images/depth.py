"""From values of any depth to 8 bits per channel: the range is taken from the file, else from the data, and said."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DEPTHS = (8, 10, 12, 14, 16, 24, 32, 64)  # bits of which cameras and programs make use, whatever they are stored in
_STORED = (8, 16, 32, 64)  # bits of a number in memory: they say nothing of the camera
_ROWS = 256  # worked on at once, so that floating point takes little memory
_ROUNDING = 1e-3  # that a fraction of white may exceed 1


@dataclass(frozen=True)
class Range:
    """The values that are black and white, and where they come from."""

    low: float
    high: float
    said: str
    """In words, such as '12 bits per channel, told by the brightest pixel'; empty where nothing was changed."""


EIGHT = Range(0, 255, "")


def range_of(values: NDArray[Any], *, bits: int, stated: tuple[float, float] | None = None) -> Range:
    """Return the range of colours, (height, width, channels), without alpha.

    Args:
        values: whole numbers or floating point.
        bits: bits of one value as the file states them.
        stated: the lowest and highest value that the file states, such as SMinSampleValue and SMaxSampleValue.

    Raises:
        ValueError: there is none, in words that can follow 'has'.
    """
    if values.dtype == np.uint8 and bits == 8:
        return EIGHT
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("values that are no numbers (NaN or infinite)")
    if stated and stated[0] <= low and high <= stated[1] and stated[0] < stated[1]:
        return Range(*stated, f"values from {stated[0]:g} to {stated[1]:g}, as the file states")
    if low < 0:
        raise ValueError("values below zero, and does not state their range")
    if values.dtype.kind == "f":
        return _of_fractions(high)
    if bits not in _STORED:
        return Range(0, 2**bits - 1, f"{bits} bits per channel, as the file states")
    return _of_depth(high)


def eight_bits(values: NDArray[Any], given: Range) -> NDArray[np.uint8]:
    """Return values as whole numbers from 0 (low) to 255 (high); what lies outside becomes black or white."""
    if given is EIGHT:
        return np.ascontiguousarray(values, np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        table = _scaled(np.arange(np.iinfo(values.dtype).max + 1), given)
        return np.asarray(table[values])
    result = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        result[top : top + _ROWS] = _scaled(values[top : top + _ROWS], given)
    return result


def _of_fractions(high: float) -> Range:
    if high <= 1 + _ROUNDING:
        return Range(0, 1, "floating point from 0 to 1")
    depth = _of_depth(high)
    return Range(0, depth.high, f"floating point, read as {depth.said}")


def _of_depth(high: float) -> Range:
    depth = next((bits for bits in _DEPTHS if high < 2**bits), _DEPTHS[-1])
    return Range(0, 2**depth - 1, f"{depth} bits per channel, told by the brightest pixel")


def _scaled(values: NDArray[Any], given: Range) -> NDArray[np.uint8]:
    share = (values.astype(np.float64) - given.low) / (given.high - given.low)
    return np.asarray(np.clip(np.floor(share * 255 + 0.5), 0, 255), np.uint8)
