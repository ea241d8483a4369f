"""The one way from an image to an answer: the command line, Python, the server and every check go through it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..bundle.manifest import NOT_ASKED, REFUSED, UNSURE, Bundle, open_bundle, operating_point
from ..errors import BundleError, ImageError, UsageError, attempt, refusal_of, usable
from ..images.crop import View, crop_on_black, prepare_crop, turn_back, turned, view_of
from ..images.read import MIN_SIDE, RGB, Picture, picture_of, read_picture
from ..progress import in_parallel
from .cell_types import CellTyper, TypeOpinion
from .ensemble import Crops, Ensemble, Floats, Outputs, try_bundle
from .opinions import Opinion, Opinions, full_evidence
from .rejection import Rejection

if TYPE_CHECKING:
    from .blood_count import FieldCount
    from .rejection import Quality
    from .sources import Look

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class ReadFile:
    """An image file that was read already, to see what it shows."""

    path: Path
    picture: Picture

    def __fspath__(self) -> str:
        return str(self.path)


Image: TypeAlias = os.PathLike[str] | str | RGB | PIL.Image.Image
"""An image file, an image as uint8 (height, width, 3), or one of Pillow's in mode RGB."""

_TOGETHER = 4  # cells in one batch: see ensemble
_MAP_TILES = 4  # squares along a side: twice as coarse as `explain`, and a tenth of its price
_PASS = "Pass the path of an image file, an array uint8 (height, width, 3), or a PIL image"


class Predictor:
    """A bundle, ready to answer; safe to share between threads.

    Answers come in the order of the images, and an image that cannot be used is refused by name while the others are
    answered. One thread per core reads, prepares and predicts.
    """

    def __init__(self, bundle: Bundle, *, maps: bool = False) -> None:
        """Load the networks of a bundle.

        maps: give every opinion a map for pages that draw it, also where the bundle's own does not say where: then by
        occlusion, which takes up to sixteen further predictions per cell.

        Raises:
            BundleError: a network cannot be loaded, or does not fit bundle.json.
        """
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.classes = bundle.manifest.classes
        self.typer = CellTyper.of(bundle)
        """Tells types of cells; None where the bundle cannot, so that mature cells are not recognised."""
        self.types = self.typer.types if self.typer else ()
        self._ensemble = Ensemble(bundle)
        if len({each.canonical for each in self._ensemble.preparations}) > 1:
            raise BundleError(
                f"The members of {bundle.path} see cells in different orientations, so their maps do not fit each "
                "other. Make the bundle again with leukoscope export."
            )
        # A picture is turned once, for networks and for all else that is measured on it.
        self._preparations = [each.model_copy(update={"canonical": False}) for each in self._ensemble.preparations]
        self._rejection = Rejection(bundle)
        self._occluding = maps and len(self._ensemble.preparations) == 1

    def predict(
        self,
        images: Image | Iterable[Image],
        *,
        point: str = "balanced",
        kind: "Look" = "auto",
        um_per_px: float | None = None,
        with_crops: bool = True,
    ) -> Opinions:
        """Return the opinions on one image or several, in their order: one per cell.

        images: paths of image files, folders or CSV tables (columns path and, if there is one, subject), arrays uint8
        (height, width, 3) with red first, or PIL images; cells cut out on black, smear fields or slides. The
        cells of fields and slides are found and cut out first.
        point: 'balanced', 'high-sensitivity' or 'high-specificity'.
        kind: what the images show, 'crops' or 'fields'; 'auto' decides for each.
        um_per_px: scale of the fields in micrometres per pixel; estimated where it is not given.
        with_crops: keep the crop of each cell, which `Opinions.plot` and notebooks show: about 0.2 MB a cell.

        An image that cannot be used is refused, with the reason, and the others are answered.

        Raises:
            UsageError: a path does not exist, `images` is neither an image nor several, or no such operating point.
            DataError: a folder holds no image, or a table has no column path.
            MissingExtraError: an image shows a smear field, and the extra `fields` is not installed.
        """
        from .sources import answer_all

        named = operating_point(self.manifest, point)
        counts: list[FieldCount] = []
        given = answer_all(
            self,
            _several(images),
            point=named,
            kind=kind,
            um_per_px=um_per_px,
            with_crops=with_crops,
            counts=counts,
        )
        return Opinions(given, self.manifest, point=named, counts=counts)

    def stream(
        self, images: Iterable[tuple[K, Image]], *, point: str = "balanced", with_crops: bool = False
    ) -> Iterator[tuple[K, Opinion]]:
        """Yield (key, opinion) for each (key, image) of one cell cut out on black, in order, reading ahead a few.

        Memory does not grow with the number of images. A file that is missing or cannot be read is refused by name.
        with_crops: add the prepared crop to each opinion.

        Raises:
            UnknownNameError: there is no such operating point.
        """
        point = operating_point(self.manifest, point)

        def answer(numbered: list[tuple[int, tuple[K, Image]]]) -> list[tuple[K, Opinion]]:
            named = [(_name_of(image, number), image) for number, (_, image) in numbered]
            opinions = self._answer(named, point=point, with_crop=with_crops)
            return [(key, opinion) for (_, (key, _)), opinion in zip(numbered, opinions, strict=True)]

        for answered in in_parallel(answer, _in_groups(enumerate(images, start=1), _TOGETHER)):
            yield from answered

    def opinion(
        self,
        image: Image,
        *,
        name: str = "",
        point: str = "balanced",
        with_crop: bool = False,
        typed: TypeOpinion | None = None,
    ) -> Opinion:
        """Return the opinion on one cell cut out on black, in this thread: for who brings threads of their own.

        A file that is missing or cannot be read is refused. name: what the opinion calls the image.
        typed: the type of the cell, where it was already classified in its field.
        """
        threshold = operating_point(self.manifest, point)
        return self._answer([(name or _name_of(image, 1), image)], point=threshold, with_crop=with_crop, typed=typed)[0]

    def __repr__(self) -> str:
        return f"<Predictor: {self.manifest.name}, classes {', '.join(self.classes)}>"

    def outputs(self, images: Sequence[RGB]) -> Outputs:
        """Return the calibrated probabilities, maps and embeddings of images that are already read; nothing is refused.

        Raises:
            ImageError: an image holds no cell.
        """
        views = [self._view(image) for image in images]
        seen = (turned(image, view) for image, view in zip(images, views, strict=True))
        outputs = self._ensemble.run(_stacked([self._prepare(image) for image in seen]))
        upright = [turn_back(each, view, axes=(1, 2)) for each, view in zip(outputs.maps, views, strict=True)]
        return replace(outputs, maps=np.stack(upright))

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

    def _view(self, image: RGB) -> View:
        return view_of(image, self._ensemble.preparations[0])

    def _prepare(self, image: RGB) -> list[RGB]:
        """Return the crops of an image in its view."""
        return [prepare_crop(image, each) for each in self._preparations]

    def _answer(
        self, named: Sequence[tuple[str, Image]], *, point: str, with_crop: bool, typed: TypeOpinion | None = None
    ) -> list[Opinion]:
        """Prepare a few images and predict them in one batch, which takes less time than one by one."""
        looked = [self._looked_at(name, image, with_crop=with_crop, typed=typed) for name, image in named]
        waiting = [each for each in looked if isinstance(each, _Cell)]
        judged = iter(self._judged(waiting, point=point))
        return [
            each if isinstance(each, Opinion) else each.completed(next(judged), with_crop=with_crop) for each in looked
        ]

    def _looked_at(self, name: str, image: Image, *, with_crop: bool, typed: TypeOpinion | None) -> "_Cell | Opinion":
        """Return a prepared cell for the networks, or an opinion where they are not needed."""
        try:
            return usable(lambda: self._look(name, image, with_crop=with_crop, typed=typed), name=name)
        except ImageError as unusable:
            return Opinion(name, REFUSED, unusable.sentence, readable=False)

    def _look(self, name: str, image: Image, *, with_crop: bool, typed: TypeOpinion | None) -> "_Cell | Opinion":
        picture = _read(image)
        view = self._view(picture.pixels)
        read = turned(picture.pixels, view)
        try:
            crops = self._prepare(read)
        except ImageError as empty:
            side = self._ensemble.preparations[0].size
            black = np.zeros((side, side, 3), np.uint8) if with_crop else None
            return Opinion(name, REFUSED, empty.sentence, crop=black)
        quality = self._rejection.of_picture(read)
        if typed is None and self.typer and not (quality and quality.reason):
            typed = self.typer.classify([crop_on_black(read)])[0]
        cell = _Cell(name, crops, view, quality, typed, picture.notes)
        if typed and not typed.asked:
            return cell.completed(Opinion(name, NOT_ASKED, typed.reason), with_crop=with_crop)
        if quality and quality.reason:
            return cell.completed(Opinion(name, REFUSED, quality.reason), with_crop=with_crop)
        return cell

    def _judged(self, cells: "Sequence[_Cell]", *, point: str) -> list[Opinion]:
        """Predict some cells; where that fails, predict each separately, so that one does not affect the others."""
        if not cells:
            return []
        done = attempt(lambda: self._judge(cells, point=point))
        if not isinstance(done, Exception):
            return done
        if len(cells) > 1:
            return [self._judged([each], point=point)[0] for each in cells]
        refusal = refusal_of(done, name=cells[0].name)
        if not isinstance(refusal, ImageError):
            raise refusal from None
        return [Opinion(cells[0].name, REFUSED, refusal.sentence, readable=False)]

    def _judge(self, cells: "Sequence[_Cell]", *, point: str) -> list[Opinion]:
        outputs = self._ensemble.run(_stacked([each.crops for each in cells]))
        return [self._called(each, outputs, place, point=point) for place, each in enumerate(cells)]

    def _called(self, cell: "_Cell", outputs: Outputs, place: int, *, point: str) -> Opinion:
        embedding = outputs.embedding[place]
        if far := self._rejection.of_cell(embedding):
            return Opinion(cell.name, REFUSED, far)
        probabilities = outputs.probabilities[place]
        called = self._call(probabilities, point)
        unsure = self._rejection.of_decision(probabilities, called=called)
        return Opinion(
            cell.name,
            UNSURE if unsure else self.classes[called],
            unsure,
            probabilities=dict(zip(self.classes, probabilities.tolist(), strict=True)),
            called=self.classes[called],
            map=outputs.maps[place] if self.manifest.activation_map else self._occluded(cell.crops[0]),
            embedding=embedding,
        )

    def _occluded(self, crop: RGB) -> NDArray[np.float32] | None:
        """Return an occlusion map of each class of two (2, places, places), on the scale of a network's map."""
        if not self._occluding or len(self.classes) != 2:
            return None
        from ..explanation import FULL_LOG_ODDS, OCCLUDED_PLACES, occlude

        heat = occlude(
            lambda crops: self.outputs_of_crops(crops).probabilities, crop, target=1, tiles=_MAP_TILES, overlap=False
        )
        side = len(crop) // OCCLUDED_PLACES
        whole = heat[: side * OCCLUDED_PLACES, : side * OCCLUDED_PLACES]
        plane = whole.reshape(OCCLUDED_PLACES, side, OCCLUDED_PLACES, side).mean(axis=(1, 3))
        plane *= full_evidence(self.manifest) / FULL_LOG_ODDS
        return np.stack([-plane, plane])

    def _call(self, probabilities: Floats, point: str) -> int:
        if self.manifest.operating_points:
            return int(probabilities[1] >= self.manifest.operating_points[point])
        return int(probabilities.argmax())


@dataclass(frozen=True)
class _Cell:
    """A cell that was read, prepared and measured."""

    name: str
    crops: list[RGB]
    """In each of the preparations."""
    view: View
    """Of the picture, in which the crops show it."""
    quality: "Quality | None"
    typed: TypeOpinion | None
    notes: tuple[str, ...]

    def completed(self, opinion: Opinion, *, with_crop: bool) -> Opinion:
        """Return an opinion with type, quality and notes added; crop and map are turned back as in the picture."""
        known: dict[str, Any] = {"type": self.typed.type, "types": self.typed.probabilities} if self.typed else {}
        crop = np.ascontiguousarray(turn_back(self.crops[0], self.view, axes=(0, 1))) if with_crop else None
        if opinion.map is not None:
            known["map"] = np.ascontiguousarray(turn_back(opinion.map, self.view, axes=(1, 2)))
        score = self.quality.score if self.quality else None
        return replace(opinion, quality=score, crop=crop, notes=self.notes, **known)


def _in_groups(items: Iterable[K], size: int) -> Iterator[list[K]]:
    """Yield the items in lists of `size`, the last one perhaps shorter."""
    waiting = iter(items)
    while group := list(islice(waiting, size)):
        yield group


def load(path: Path | str | None = None, *, maps: bool = False) -> Predictor:
    """Return a predictor for a bundle; without a path, for the one that is shipped with leukoscope.

    path: a folder, 'default' for the shipped bundle, or 'hf://owner/name' (optionally '@revision') in a model hub.
    maps: see Predictor.

    Raises:
        BundleError: the bundle is missing, incomplete, changed, made by a newer version, or needs memory or time
            without bound.
        MissingExtraError: an address of a hub is given, and the extra `hub` is not installed.
    """
    bundle = open_bundle(path)
    try_bundle(bundle)
    return Predictor(bundle, maps=maps)


def _several(images: Any) -> Iterable[Image]:
    """Return images as they are given, or the one image that is given in a list."""
    if isinstance(images, str | os.PathLike | PIL.Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim != 4 and (images.dtype.kind not in "OU" or not images.ndim):
        return [images]  # neither a batch nor a column of paths
    if isinstance(images, bytes | bytearray) or not isinstance(images, Iterable):
        raise UsageError(f"{type(images).__name__} is not an image. {_PASS}, or several of these in a list.")
    return images


def _name_of(image: Any, number: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def _stacked(crops: list[list[RGB]]) -> list[Crops]:
    """Turn the crops of each image into one batch for each preparation."""
    return [np.stack(batch) for batch in zip(*crops, strict=True)]


def _read(image: Any) -> Picture:
    if isinstance(image, ReadFile):
        return image.picture
    return _read_file(Path(image)) if isinstance(image, str | os.PathLike) else _picture_of(image)


def pixels_of(image: Any) -> RGB:
    """Return an array or PIL image as uint8 (height, width, 3).

    Raises:
        ImageError: it is of another kind, shape or type.
    """
    return _picture_of(image).pixels


def _picture_of(image: Any) -> Picture:
    if isinstance(image, PIL.Image.Image):
        picture = picture_of(image)
        _check_array(picture.pixels)
        return picture
    if isinstance(image, np.ndarray):
        return Picture(_check_array(image))
    raise ImageError(f"is {type(image).__name__}, which is not an image. {_PASS}.")


def _read_file(path: Path) -> Picture:
    try:
        if path.is_dir():
            raise ImageError("is a folder. Pass the image files in it.")
        if not path.exists():
            raise ImageError("does not exist. Check the path.")
        return read_picture(path)
    except PermissionError:
        raise ImageError("cannot be read: no permission. Change its permissions.") from None
    except OSError as failed:  # a name too long for the file system, a disk that fails
        raise ImageError(f"cannot be read ({failed.strerror}). Check the path.") from None


def _check_array(image: RGB) -> RGB:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"is an array of {image.dtype}, shape {image.shape}; images are uint8 (height, width, 3), red first."
        )
    if min(image.shape[:2]) < MIN_SIDE:
        raise ImageError(f"has only {image.shape[1]}x{image.shape[0]} pixels, too few to show a cell.")
    return image
