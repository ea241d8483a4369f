"""The one way from an image to an answer: the command line, Python, the server and every check go through it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..data.images import MIN_SIDE, RGB, read_image
from ..data.pack import in_parallel
from ..data.prepare import prepare_crop
from ..errors import ImageError
from .bundle import Bundle, open_bundle, operating_point
from .doubt import Doubt
from .ensemble import Crops, Ensemble, Floats, Outputs
from .opinion import REFUSED, UNSURE, Opinion

T = TypeVar("T")
Image: TypeAlias = Path | str | RGB
"""An image file, or an image as uint8 (height, width, 3)."""

_CHUNK = 4  # images that one thread reads, prepares and predicts together


@dataclass(frozen=True)
class _Seen:
    """An image that could be read, and its crops, one per preparation."""

    crops: list[RGB]
    quality: float | None
    refused: str
    """What is wrong with the picture; empty when it can be judged."""


@dataclass(frozen=True)
class _Verdict:
    """What the networks and the rules of doubt say about one cell."""

    decision: str
    reason: str
    called: str
    probabilities: Floats
    evidence: NDArray[np.float32]


class Predictor:
    """A bundle, ready to answer.

    Memory does not grow with the number of images, answers come in the order of the images, and an image that cannot
    be used is refused by name while the others are answered. One thread per core reads, prepares and predicts.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.classes = bundle.manifest.classes
        self._ensemble = Ensemble(bundle)
        self._doubt = Doubt(bundle)

    def predict(self, images: Image | Iterable[Image], *, point: str = "balanced") -> list[Opinion]:
        """Return one opinion per image: files, arrays uint8 (height, width, 3), or one of either.

        point: 'balanced', 'high-sensitivity' or 'high-specificity'.
        """
        single = isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim == 3)
        return list(self.stream([images] if single else images, point=point))  # type: ignore[list-item, arg-type]

    def stream(
        self, images: Iterable[Image], *, point: str = "balanced", with_crops: bool = False
    ) -> Iterator[Opinion]:
        """Yield one opinion per image while reading ahead a few; `with_crops` adds the prepared crop to each."""
        point = operating_point(self.manifest, point)

        def answer(chunk: list[tuple[str, Image]]) -> list[Opinion]:
            return self._answer(chunk, point=point, with_crops=with_crops)

        named = ((_name_of(image, number), image) for number, image in enumerate(images, start=1))
        for opinions in in_parallel(answer, _chunks(named)):
            yield from opinions

    def outputs(self, images: Sequence[RGB]) -> Outputs:
        """Return the calibrated probabilities, maps and embeddings of images that are already read; no gate.

        Raises:
            ImageError: an image holds no cell.
        """
        return self._ensemble.run(_stacked([self._prepare(image) for image in images]))

    def outputs_of_crops(self, crops: Crops) -> Outputs:
        """Return the same for crops (batch, size, size, 3) that are prepared already (one preparation in the bundle).

        Raises:
            ValueError: the members of this bundle want crops of several kinds.
        """
        if len(self._ensemble.preparations) > 1:
            raise ValueError("The members of this bundle prepare images in different ways: use outputs(images).")
        return self._ensemble.run([crops])

    def _prepare(self, image: RGB) -> list[RGB]:
        return [prepare_crop(image, each) for each in self._ensemble.preparations]

    def _answer(self, chunk: list[tuple[str, Image]], *, point: str, with_crops: bool) -> list[Opinion]:
        looked = [self._look(name, image) for name, image in chunk]
        fit = [each for each in looked if isinstance(each, _Seen) and not each.refused]
        judged = iter(self._judge(fit, point=point))
        return [
            each if isinstance(each, Opinion) else self._say(name, each, judged, with_crop=with_crops)
            for (name, _), each in zip(chunk, looked, strict=True)
        ]

    def _look(self, name: str, image: Image) -> "_Seen | Opinion":
        try:
            read = _check_array(image) if isinstance(image, np.ndarray) else read_image(Path(image))
        except ImageError as unusable:
            return Opinion(name, REFUSED, _reason(unusable, name), readable=False)
        except PermissionError:
            return Opinion(name, REFUSED, "No permission to read it. Change its rights.", readable=False)
        try:
            crops = self._prepare(read)
        except ImageError as unusable:
            return Opinion(name, REFUSED, _reason(unusable, name))
        quality = self._doubt.of_picture(read)
        return _Seen(crops, quality.score, quality.reason) if quality else _Seen(crops, None, "")

    def _judge(self, fit: list[_Seen], *, point: str) -> Iterator[_Verdict]:
        if not fit:
            return
        outputs = self._ensemble.run(_stacked([each.crops for each in fit]))
        far = self._doubt.of_cells(outputs.embedding)
        for probabilities, evidence, reason in zip(outputs.probabilities, outputs.maps, far, strict=True):
            called = self._call(probabilities, point)
            doubt = reason or self._doubt.of_decision(probabilities, called=called)
            decision = REFUSED if reason else UNSURE if doubt else self.classes[called]
            yield _Verdict(decision, doubt, self.classes[called], probabilities, evidence)

    def _say(self, name: str, seen: _Seen, judged: Iterator[_Verdict], *, with_crop: bool) -> Opinion:
        crop = seen.crops[0] if with_crop else None
        if seen.refused:
            return Opinion(name, REFUSED, seen.refused, quality=seen.quality, crop=crop)
        verdict = next(judged)
        if verdict.decision == REFUSED:
            return Opinion(name, REFUSED, verdict.reason, quality=seen.quality, crop=crop)
        return Opinion(
            name,
            verdict.decision,
            verdict.reason,
            quality=seen.quality,
            probabilities=dict(zip(self.classes, verdict.probabilities.tolist(), strict=True)),
            called=verdict.called,
            map=verdict.evidence,
            crop=crop,
        )

    def _call(self, probabilities: Floats, point: str) -> int:
        if self.manifest.operating_points:
            return int(probabilities[1] >= self.manifest.operating_points[point])
        return int(probabilities.argmax())


def load(path: Path | str | None = None) -> Predictor:
    """Return a predictor for a bundle; without a path, for the one that is shipped with leukoscope.

    Raises:
        BundleError: the bundle is missing, incomplete, changed, or made by a newer version.
    """
    return Predictor(open_bundle(path))


def _name_of(image: Any, number: int) -> str:
    return f"image {number}" if isinstance(image, np.ndarray) else str(image)


def _stacked(crops: list[list[RGB]]) -> list[Crops]:
    """Turn the crops of each image into one batch for each preparation."""
    return [np.stack(batch) for batch in zip(*crops, strict=True)]


def _reason(unusable: ImageError, name: str) -> str:
    """Return a reason that stands beside the name, so that it need not hold it."""
    text = str(unusable).removeprefix(f"{Path(name)} ")
    return text[:1].upper() + text[1:]


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    waiting = iter(items)
    while chunk := list(islice(waiting, _CHUNK)):
        yield chunk


def _check_array(image: RGB) -> RGB:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"is an array of {image.dtype}, shape {image.shape}; images are uint8 (height, width, 3), red first."
        )
    if min(image.shape[:2]) < MIN_SIDE:
        raise ImageError(f"has only {image.shape[1]}x{image.shape[0]} pixels, too few to show a cell.")
    return image
