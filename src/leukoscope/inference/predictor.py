"""The one way from an image to an answer: the command line, Python, the server and every check go through it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..bundle.manifest import REFUSED, UNSURE, Bundle, open_bundle, operating_point
from ..errors import ImageError, UsageError
from ..images.crop import prepare_crop
from ..images.read import MIN_SIDE, RGB, read_image
from ..progress import in_parallel
from .ensemble import Crops, Ensemble, Floats, Outputs
from .opinion import Opinion
from .rejection import Rejection

if TYPE_CHECKING:
    from .quality import Quality

Image: TypeAlias = os.PathLike[str] | str | RGB | PIL.Image.Image
"""An image file, an image as uint8 (height, width, 3), or one of Pillow's in mode RGB."""

_PASS = "Pass the path of an image file, an array uint8 (height, width, 3), or a PIL image"


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
        self._rejection = Rejection(bundle)

    def predict(self, images: Image | Iterable[Image], *, point: str = "balanced") -> list[Opinion]:
        """Return one opinion per image: files, arrays uint8 (height, width, 3), PIL images, or one of these.

        point: 'balanced', 'high-sensitivity' or 'high-specificity'.

        Raises:
            UsageError: `images` is neither an image nor several. A single bad image among several is refused instead.
        """
        return list(self.stream(_several(images), point=point))

    def stream(
        self, images: Iterable[Image], *, point: str = "balanced", with_crops: bool = False
    ) -> Iterator[Opinion]:
        """Yield one opinion per image while reading ahead a few; `with_crops` adds the prepared crop to each."""
        point = operating_point(self.manifest, point)

        def answer(named: tuple[str, Image]) -> Opinion:
            return self._answer(*named, point=point, with_crop=with_crops)

        named = ((_name_of(image, number), image) for number, image in enumerate(images, start=1))
        yield from in_parallel(answer, named)

    def opinion(
        self, image: Image, *, name: str = "image", point: str = "balanced", with_crop: bool = False
    ) -> Opinion:
        """Return the opinion on one image, asked and answered in this thread: for who brings threads of their own."""
        return self._answer(name, image, point=operating_point(self.manifest, point), with_crop=with_crop)

    def outputs(self, images: Sequence[RGB]) -> Outputs:
        """Return the calibrated probabilities, maps and embeddings of images that are already read; nothing is refused.

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

    def embeddings_of_crops(self, crops: Crops) -> NDArray[np.float32]:
        """Return the embedding (batch, channels) of crops in the preparation of the first member, and nothing else."""
        return self._ensemble.embed(crops)

    def _prepare(self, image: RGB) -> list[RGB]:
        return [prepare_crop(image, each) for each in self._ensemble.preparations]

    def _answer(self, name: str, image: Image, *, point: str, with_crop: bool) -> Opinion:
        """Look at one image. Alone, not in a batch: it then stays in the processor's cache, which is faster."""
        try:
            read = _read(image)
        except ImageError as unusable:
            return Opinion(name, REFUSED, _reason(unusable, name), readable=False)
        try:
            crops = self._prepare(read)
        except ImageError as empty:
            side = self._ensemble.preparations[0].size
            black = np.zeros((side, side, 3), np.uint8) if with_crop else None
            return Opinion(name, REFUSED, _reason(empty, name), crop=black)
        quality = self._rejection.of_picture(read)
        opinion = self._judge(name, crops, quality, point=point)
        return replace(opinion, quality=quality.score if quality else None, crop=crops[0] if with_crop else None)

    def _judge(self, name: str, crops: list[RGB], quality: "Quality | None", *, point: str) -> Opinion:
        if quality and quality.reason:
            return Opinion(name, REFUSED, quality.reason)
        outputs = self._ensemble.run([crop[None] for crop in crops])
        if far := self._rejection.of_cell(outputs.embedding[0]):
            return Opinion(name, REFUSED, far)
        probabilities = outputs.probabilities[0]
        called = self._call(probabilities, point)
        unsure = self._rejection.of_decision(probabilities, called=called)
        return Opinion(
            name,
            UNSURE if unsure else self.classes[called],
            unsure,
            probabilities=dict(zip(self.classes, probabilities.tolist(), strict=True)),
            called=self.classes[called],
            map=outputs.maps[0],
            embedding=outputs.embedding[0],
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


def _several(images: Any) -> Iterable[Image]:
    """Return images as they are given, or the one image that is given in a list."""
    if isinstance(images, str | os.PathLike | PIL.Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim != 4 and (images.dtype.kind not in "OU" or not images.ndim):
        return [images]  # neither a batch nor a column of paths
    if isinstance(images, bytes | bytearray) or not isinstance(images, Iterable):
        raise UsageError(f"{type(images).__name__} is no image. {_PASS}, or several of these in a list.")
    return images


def _name_of(image: Any, number: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def _stacked(crops: list[list[RGB]]) -> list[Crops]:
    """Turn the crops of each image into one batch for each preparation."""
    return [np.stack(batch) for batch in zip(*crops, strict=True)]


def _reason(unusable: ImageError, name: str) -> str:
    """Return a reason that stands beside the name, so that it need not hold it."""
    text = str(unusable).removeprefix(f"{Path(name)} ")
    return text[:1].upper() + text[1:]


def _read(image: Any) -> RGB:
    """Return an image of any kind as uint8 (height, width, 3), or say in an ImageError why it is none."""
    if isinstance(image, str | os.PathLike):
        return _read_file(Path(image))
    if isinstance(image, PIL.Image.Image):
        return _check_array(_pixels(image))
    if isinstance(image, np.ndarray):
        return _check_array(image)
    raise ImageError(f"is {type(image).__name__}, which is no image. {_PASS}.")


def _read_file(path: Path) -> RGB:
    try:
        if path.is_dir():
            raise ImageError("is a folder. Pass the image files in it.")
        if not path.exists():
            raise ImageError("does not exist. Check the path.")
        return read_image(path)
    except PermissionError:
        raise ImageError("No permission to read it. Change its rights.") from None
    except OSError as failed:  # a name too long for the file system, a disk that fails
        raise ImageError(f"cannot be read ({failed.strerror}). Check the path.") from None


def _pixels(image: PIL.Image.Image) -> RGB:
    if image.mode != "RGB":
        raise ImageError(f"is a PIL image of mode {image.mode}. Pass image.convert('RGB'), the cell on black.")
    try:
        return np.asarray(image)  # Pillow may read the file only now
    except (OSError, ValueError, SyntaxError) as broken:
        raise ImageError(f"ends early or is damaged ({broken}). Open it again.") from None


def _check_array(image: RGB) -> RGB:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"is an array of {image.dtype}, shape {image.shape}; images are uint8 (height, width, 3), red first."
        )
    if min(image.shape[:2]) < MIN_SIDE:
        raise ImageError(f"has only {image.shape[1]}x{image.shape[0]} pixels, too few to show a cell.")
    return image
