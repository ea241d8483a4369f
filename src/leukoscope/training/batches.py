"""Batches straight from the packed crops: memory holds two batches, whatever the number of cells."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.pack import open_pack
from ..errors import DataError

Rows = NDArray[np.int64]
_AGAIN = "Delete the pack folder and run leukoscope data pack again."


class Crops:
    """The packed crops of a run, read row by row.

    Read with plain file reads, not through the memory map: pages of a map that were touched count as memory of this
    process, so training on 15,000 cells would seem to need all of them at once.

    Raises:
        DataError: the pack is missing, unfinished or damaged.
    """

    def __init__(self, pack: Path) -> None:
        try:
            mapped = open_pack(pack)
        except (ValueError, EOFError) as damaged:
            raise DataError(f"{pack}/crops.npy is damaged ({damaged}). {_AGAIN}") from None
        self.shape: tuple[int, ...] = mapped.shape[1:]
        """(size, size, 3)"""
        self.count = len(mapped)
        self._start = int(getattr(mapped, "offset", 0))
        self._path = pack / "crops.npy"

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the crops of some rows, uint8 (rows, size, size, 3).

        Raises:
            DataError: the file ends too early.
        """
        crops = np.empty((len(rows), *self.shape), dtype=np.uint8)
        with self._path.open("rb", buffering=0) as file:  # opened anew: threads must not share a place in the file
            for row, crop in zip(rows, crops, strict=True):
                file.seek(self._start + int(row) * crop.nbytes)
                if file.readinto(crop.data) != crop.nbytes:
                    raise DataError(f"{self._path} ends before row {row}. {_AGAIN}")
        return crops


def cut(rows: Rows, *, batch_size: int) -> list[Rows]:
    """Cut rows into the fewest batches of at most `batch_size`, as even as can be.

    Even, because batch normalisation has nothing to measure on a last batch of one.
    """
    return np.array_split(rows, -(-len(rows) // batch_size)) if len(rows) else []


def read_ahead(
    crops: Crops, batches: Sequence[Rows], *, share: slice = slice(None)
) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """Yield (rows, crops) of each batch, while one thread reads the next; of the crops only a `share`."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(crops.read, batches[0][share]) if batches else None
        for place, rows in enumerate(batches):
            assert coming is not None
            ready = coming.result()
            coming = reader.submit(crops.read, batches[place + 1][share]) if place + 1 < len(batches) else None
            yield rows, ready
