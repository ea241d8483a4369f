"""Reference cells: training cells that lie near a cell in the embedding, to stand beside it where somebody reads.

A few hundred cells of C-NMC 2019 and of Acevedo et al. 2020 are shipped in one file, with their labels and credits. It
belongs to the bundle whose seal it names: with another the embedding means something else, and none is shown.
`benchmarks/reference_cells.py` makes it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BundleError
from ..files import write_whole
from ..images.crop import prepare_crop
from ..images.read import RGB
from .predictor import Predictor

SHIPPED = Path(__file__).parent.parent / "bundles" / "reference-cells.safetensors"
UM_ACROSS = 20.0
"""Side of what a thumbnail shows, in micrometres: the same as of cells in their field."""
_COMPONENTS = 32
_FORMAT = 1


@dataclass(frozen=True)
class ReferenceCell:
    """One training cell."""

    label: str
    """What its data set calls it."""
    credit: str
    picture: bytes
    """WebP, UM_ACROSS micrometres a side."""


@dataclass(frozen=True)
class ReferenceCells:
    """Training cells of one bundle, and where they lie in its embedding."""

    cells: tuple[ReferenceCell, ...]
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    """(components, channels)"""
    points: NDArray[np.float32]
    """(cells, components)"""

    def place(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Return embeddings (cells, channels) in the space in which likeness is measured: (cells, components)."""
        return np.asarray((np.asarray(embeddings, np.float32) - self.mean) @ self.axes.T, np.float32)

    def nearest(self, embedding: ArrayLike, count: int) -> list[tuple[int, float]]:
        """Return the nearest cells, as (place, distance), the nearest first."""
        distances = np.linalg.norm(self.points - self.place(np.asarray(embedding)[None])[0], axis=1)
        return [(int(place), float(distances[place])) for place in np.argsort(distances)[:count]]


def embedding_of(predictor: Predictor, crop: RGB) -> NDArray[np.float32]:
    """Return the embedding of a cell cut out on black, of length one: the first network's, whatever the cell's type.

    Raises:
        ImageError: there is no cell to see.
    """
    prepared = prepare_crop(crop, predictor.manifest.members[0].prepare)
    embedding = np.asarray(predictor.embeddings_of_crops(prepared[None])[0], np.float32)
    return np.asarray(embedding / max(float(np.linalg.norm(embedding)), 1e-12), np.float32)


def write_reference_cells(path: Path, cells: Sequence[ReferenceCell], embeddings: ArrayLike, *, seal: str) -> None:
    """Write cells with their embeddings (cells, channels) for the bundle of this seal."""
    from safetensors.numpy import save
    from sklearn.decomposition import PCA

    points = np.asarray(embeddings, np.float32)
    found = PCA(min(_COMPONENTS, *points.shape), random_state=0).fit(points)
    pictures = b"".join(cell.picture for cell in cells)
    arrays = {
        "mean": found.mean_,
        "axes": found.components_,
        "points": found.transform(points),
    }
    packed: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(each, np.float16) for name, each in arrays.items()}
    packed["pictures"] = np.frombuffer(pictures, np.uint8)
    packed["ends"] = np.cumsum([len(cell.picture) for cell in cells]).astype(np.uint32)
    facts = {
        "format": str(_FORMAT),
        "seal": seal,
        "labels": json.dumps([cell.label for cell in cells]),
        "credits": json.dumps([cell.credit for cell in cells]),
    }
    with write_whole(path) as beside:
        beside.write_bytes(save(packed, metadata=facts))


def read_reference_cells(seal: str, path: Path = SHIPPED) -> ReferenceCells | None:
    """Return the reference cells of the bundle with this seal; None where there are none, or those of another.

    Raises:
        BundleError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") != str(_FORMAT) or facts.get("seal") != seal:
                return None
            arrays = {name: file.get_tensor(name) for name in ("mean", "axes", "points", "pictures", "ends")}
        return _unpacked(arrays, json.loads(facts["labels"]), json.loads(facts["credits"]))
    except (SafetensorError, KeyError, ValueError, OSError) as broken:
        raise BundleError(f"{path} is damaged ({type(broken).__name__}). Install leukoscope again.") from None


def _unpacked(arrays: dict[str, NDArray[Any]], labels: list[str], credits: list[str]) -> ReferenceCells:
    content, ends = arrays["pictures"].tobytes(), arrays["ends"].tolist()
    pictures = [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    cells = tuple(ReferenceCell(*each) for each in zip(labels, credits, pictures, strict=True))
    mean, axes, points = (arrays[name].astype(np.float32) for name in ("mean", "axes", "points"))
    if len(points) != len(cells) or axes.shape != (points.shape[1], len(mean)):
        raise ValueError("its arrays do not fit each other")
    return ReferenceCells(cells, mean, axes, points)
