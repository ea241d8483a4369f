"""A slide of 20,480 x 20,160 px made of real fields: cells per second, peak memory, and the same cells for three tiles.

    python benchmarks/slides.py ../shared/data/bccd --jobs 2

The slide is written tile by tile (JPEG, two smaller levels) to a temporary folder and removed afterwards.
"""

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tifffile

from leukoscope.fields.images import read_pixels, rescaled
from leukoscope.fields.slides import TiffSlide, extract_slide

HEIGHT, WIDTH = 480, 640  # of a BCCD field


def write_mosaic(path: Path, images: list[Path], *, rows: int, columns: int) -> None:
    """Write a pyramid whose tiles are real fields, drawn at random, without ever holding it whole."""
    draw = np.random.default_rng(0).integers(0, len(images), (rows, columns))
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for factor in (1, 4, 16):
            high, wide = HEIGHT // factor, WIDTH // factor
            tiles = (rescaled(read_pixels(images[place]), 1 / factor) for row in draw for place in row)
            shape = (rows * high, columns * wide, 3)
            options = {"photometric": "rgb", "compression": "jpeg", "dtype": np.uint8}
            if factor == 1:
                writer.write(tiles, shape=shape, tile=(high, wide), subifds=2, **options)
            else:
                whole = np.concatenate(
                    [
                        np.concatenate([rescaled(read_pixels(images[p]), 1 / factor) for p in row], axis=1)
                        for row in draw
                    ]
                )
                writer.write(whole, tile=(256, 256), subfiletype=1, **options)


def main() -> None:
    """Print one line for each tile size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=42)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    images = sorted((options.folder / "JPEGImages").glob("*.jpg"))
    reference: list[tuple[int, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        write_mosaic(path, images, rows=options.rows, columns=options.columns)
        print(f"{TiffSlide(path).size} pixels, {path.stat().st_size / 1e6:.0f} MB", flush=True)
        for tile in (2048, 4096, 1300):
            started = time.perf_counter()
            out = Path(folder) / str(tile)
            found = extract_slide(partial(TiffSlide, path), out, name="mosaic", tile=tile, jobs=options.jobs)
            seconds = time.perf_counter() - started
            boxes = sorted(cell.box for cell in found.cells)
            reference = reference or boxes
            own, children = (
                resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            )
            speed = f"{len(boxes)} cells in {seconds:.0f} s, {len(boxes) / seconds:.1f} cells per second"
            memory = f"peak memory {own:.0f} MB, of a worker {children:.0f} MB"
            print(f"tile {tile}: {speed}, {memory}, same cells as the first: {boxes == reference}", flush=True)


if __name__ == "__main__":
    main()
