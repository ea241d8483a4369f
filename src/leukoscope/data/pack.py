"""Prepared crops of all cells in one memory-mapped array, so that memory does not grow with their number."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Prepare
from ..errors import DataError, ImageError
from ..files import read_json, sha256_of, write_json, write_whole
from ..images.crop import prepare_crop
from ..images.read import RGB, read_image
from ..progress import in_parallel, track
from .cells import Cell, cells_fingerprint


def pack(cells: Sequence[Cell], folder: Path, *, prepare: Prepare) -> NDArray[np.uint8]:
    """Write the crops of all cells to FOLDER/crops.npy, uint8 (cells, size, size, 3), in the order of the table.

    A pack that already holds just these crops is opened instead of made again.

    Raises:
        ImageError: an image cannot be used; names the file. Nothing half-written stays.
    """
    facts = {
        "cells": cells_fingerprint(cells),
        "rows": [cell.name for cell in cells],
        "prepare": prepare.model_dump(mode="json"),
    }
    described = folder / "pack.json"
    if not (_says(described, facts) and _opens(folder)):
        for left in folder.glob(".crops.npy.*"):  # by a run that was killed
            left.unlink()
        described.unlink(missing_ok=True)  # never leave an old description beside new crops
        _write_crops(cells, folder / "crops.npy", prepare=prepare)
        write_json(described, facts)
    return open_pack(folder)


def open_pack(folder: Path) -> NDArray[np.uint8]:
    """Open FOLDER/crops.npy memory-mapped and read-only: uint8 (cells, size, size, 3).

    Raises:
        DataError: the pack is missing or was not finished.
    """
    if not (folder / "pack.json").exists():
        raise DataError(f"{folder} holds no finished pack. Run leukoscope data pack.")
    try:
        crops: NDArray[np.uint8] = np.load(folder / "crops.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as damaged:
        raise DataError(f"{folder / 'crops.npy'} is damaged ({damaged}). Run leukoscope data pack again.") from None
    return crops


def _says(described: Path, facts: dict[str, Any]) -> bool:
    try:
        return bool(read_json(described) == facts)
    except DataError:  # missing or damaged
        return False


def _opens(folder: Path) -> bool:
    try:
        open_pack(folder)
    except DataError:
        return False
    return True


def _write_crops(cells: Sequence[Cell], path: Path, *, prepare: Prepare) -> None:
    def crop_of(cell: Cell) -> RGB:
        try:
            image = read_image(cell.path)
            if sha256_of(cell.path) != cell.sha256:
                raise ImageError("has changed since it was indexed. Put it back, or index again.", path=cell.path)
            return prepare_crop(image, prepare)
        except ImageError as unusable:
            raise ImageError(unusable.reason, path=cell.path) from None

    shape = (len(cells), prepare.size, prepare.size, 3)
    with write_whole(path) as beside:
        crops = _reserve(beside, shape, named=path)
        for row, crop in enumerate(track(in_parallel(crop_of, cells), "Packing crops", total=len(cells))):
            crops[row] = crop
        crops.flush()


def _reserve(path: Path, shape: tuple[int, ...], *, named: Path) -> Any:
    """Make the .npy file at full length first: on a full disk this fails at once, and with an error, not a crash."""
    try:
        crops = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as full:
        raise OSError(full.errno, full.strerror, str(named)) from None
    return crops
