"""Batches straight from the packed crops: memory holds two batches, whatever the number of cells."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.pack import open_pack

Rows = NDArray[np.int64]


class Crops:
    """The packed crops of a run, read row by row.

    Read with plain file reads, not through the memory map: pages of a map that were touched count as memory of this
    process, so training on 15,000 cells would seem to need all of them at once.
    """

    def __init__(self, pack: Path) -> None:
        mapped = open_pack(pack)
        self.shape: tuple[int, ...] = mapped.shape[1:]
        """(size, size, 3)"""
        self.count = len(mapped)
        self._start = int(getattr(mapped, "offset", 0))
        self._file = (pack / "crops.npy").open("rb", buffering=0)

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the crops of some rows, uint8 (rows, size, size, 3)."""
        crops = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for place, row in enumerate(rows):
            self._file.seek(self._start + int(row) * crops[place].nbytes)
            self._file.readinto(crops[place].data)
        return crops

    def close(self) -> None:
        self._file.close()


def cut(rows: Rows, *, batch_size: int) -> list[Rows]:
    """Cut rows into the fewest batches of at most `batch_size`, as even as can be.

    Even, because batch normalisation has nothing to measure on a last batch of one.
    """
    return np.array_split(rows, -(-len(rows) // batch_size)) if len(rows) else []


def read_ahead(crops: Crops, batches: Sequence[Rows]) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """Yield (rows, crops) of each batch, while one thread reads the next."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(crops.read, batches[0]) if batches else None
        for place, rows in enumerate(batches):
            assert coming is not None
            ready = coming.result()
            coming = reader.submit(crops.read, batches[place + 1]) if place + 1 < len(batches) else None
            yield rows, ready
