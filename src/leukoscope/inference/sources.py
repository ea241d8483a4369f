"""Whatever is given to a predictor, recognised and answered: cells, fields and slides, as files, folders or arrays."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL.Image

from ..bundle.manifest import REFUSED, Manifest
from ..data.cells import natural
from ..data.index import Place, places_of
from ..errors import DataError, ImageError, UsageError, attempt, installed, require
from ..images.crop import is_cut_out, shows_view
from ..images.listing import Passed, file_of, is_table, list_folder, read_table
from ..images.read import FORMATS, RGB, file_format, read_picture, read_size, tiff_readable
from ..interop.dicom import is_dicom
from ..progress import in_parallel
from .opinions import Opinion

if TYPE_CHECKING:
    from ..fields.blood_count import BloodCount
    from .blood_count import FieldCount
    from .fields import JudgedCell, Reader
    from .predictor import Image, Predictor, ReadFile


Kind = Literal["crop", "field", "slide", "dicom"]
Look = Literal["auto", "crops", "fields"]
"""What the images show; 'auto' decides by the pixels of each."""
SLIDES = (".svs", ".ndpi", ".scn", ".bif")
SUFFIXES = (*FORMATS, *SLIDES, ".dcm")  # what is taken from a folder

_LARGEST_CROP = 2_000_000  # pixels; the release's crops have 0.2 million


def kind_of(path: Path, *, look: Look = "auto") -> Kind:
    """Return what a file shows, by its content; one that cannot be read is a crop, and refused as such by name."""
    return look_at(path, look=look)[0]


def look_at(path: Path, *, look: Look = "auto") -> "tuple[Kind, Path | ReadFile]":
    """Return what a file shows, and the file, with its pixels where a crop had to be read to see that it is one."""
    kind = _kind_unread(path, look=look)
    if kind:
        return kind, path
    crop = attempt(lambda: _as_crop(path))  # what goes wrong is reported when the image is read
    return ("crop", path) if isinstance(crop, Exception) else ("crop", crop) if crop else ("field", path)


def _kind_unread(path: Path, *, look: Look) -> Kind | None:
    """Return what a file shows where that is known before its pixels are read."""
    if look == "crops" or attempt(path.exists) is not True:  # a name too long raises
        return "crop"
    if look == "fields":
        return _as_field(path)
    if is_dicom(path):
        return "dicom"
    if path.suffix.lower() in SLIDES or _is_slide(path):
        return "slide"
    if not installed("cv2"):  # the core install predicts crops only, and refuses a field
        return "crop"
    return None


def look_for(manifest: Manifest, look: Look) -> Look:
    """Return the kind of the pictures: a bundle that was trained on complete fields predicts complete fields."""
    return "crops" if look == "auto" and manifest.pictures == "fields" else look


def ready_for(kind: Kind) -> None:
    """Make sure that what a kind needs is installed.

    Raises:
        MissingExtraError: it is not; the message names what to install.
    """
    for module in () if kind == "crop" else ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")


def _as_field(path: Path) -> Kind:
    """Return how a file is to be read that the user calls a field."""
    if is_dicom(path):
        return "dicom"
    slide = path.suffix.lower() in SLIDES or _is_slide(path)
    return "slide" if slide else "field"


def _is_slide(path: Path) -> bool:
    if not (installed("cv2") and tiff_readable()) or attempt(lambda: file_format(path)) != "TIFF":
        return False  # what slides are read with takes long to import
    from ..fields.slides import is_slide

    return is_slide(path)


def _as_crop(path: Path) -> "ReadFile | None":
    """Return a file that shows a cell cut out on black; None where it shows a field."""
    from .predictor import ReadFile

    width, height = read_size(path)
    if width * height > _LARGEST_CROP:
        return None
    picture = read_picture(path)
    return None if shows_a_field(picture.pixels) else ReadFile(path, picture)


def shows_a_field(pixels: RGB) -> bool:
    """Return whether a picture, uint8 (height, width, 3), shows a smear field and not a cell cut out on black."""
    return not is_cut_out(pixels) or shows_view(pixels)


@dataclass(frozen=True, slots=True)
class Source:
    """An image file, and whose cell it shows; the subject is empty where none was given."""

    path: Path
    subject: str = ""


@dataclass(slots=True)
class Gathered:
    """Images found at the places that the user gave."""

    sources: list[Source] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    """One sentence for each folder or table without images, each folder that may not be read, each row without path."""
    passed: list[Passed] = field(default_factory=list)
    """Files in folders that are not read, each with its reason."""
    hidden: int = 0
    """Hidden files in folders, and those that systems leave behind."""
    notes: list[str] = field(default_factory=list)
    """How folders and tables were read, as sentences."""

    @property
    def other(self) -> list[Path]:
        """Pictures in folders that are of no kind that is read, such as GIF."""
        return [one.path for one in self.passed if one.picture]


def sources_of(given: Iterable[Path], *, suffixes: Collection[str] = FORMATS) -> list[Source]:
    """Return what `gather` finds, where every folder and table holds images.

    Raises:
        UsageError: a folder or table does not exist.
        DataError: a folder holds no image, or a table has no rows or no column path.
    """
    found = gather(given, suffixes=suffixes)
    if found.empty:
        raise DataError(" ".join(found.empty))
    return found.sources


def gather(
    given: Iterable[Path], *, suffixes: Collection[str] = FORMATS, dicom: bool = False, classes: Collection[str] = ()
) -> Gathered:
    """Return the images that are named, those of folders, and those of tables, in the order given; each once.

    A table has the columns path (relative to its folder) and optionally subject. Subjects of images in
    folders come from `data.index.places_of`; where several folders are given, the name of each one comes first.

    Args:
        given: files, folders and tables.
        suffixes: of the images that are taken; without one of these the content decides.
        dicom: whether DICOM is taken, whatever its name.
        classes: those that the model knows.

    Raises:
        UsageError: a folder or table does not exist.
        DataError: there is no image at all, or a table has no column path.
    """
    given = list(dict.fromkeys(given))
    several = sum(path.is_dir() for path in given) > 1
    all_found = Gathered()
    once: dict[Path, Source] = {}
    insides: dict[Path, PurePosixPath] = {}
    for path in given:
        if path.is_dir():
            found = _in_folder(path, insides, several=several, suffixes=suffixes, dicom=dicom)
        else:
            found = _of_file(path, suffixes=suffixes)
        for source in found.sources:
            once.setdefault(source.path, source)
        all_found.empty += found.empty
        all_found.passed += found.passed
        all_found.hidden += found.hidden
        all_found.notes += found.notes
    if given and not once:
        raise DataError(" ".join(all_found.empty))
    places = dict(zip(insides, places_of(list(insides.values()), classes=classes), strict=True))
    all_found.notes += _note_of(places)
    all_found.sources = [
        Source(path, places[path].subject) if path in places else source for path, source in once.items()
    ]
    return all_found


def _note_of(places: Mapping[Path, Place]) -> list[str]:
    """Say so where folders were taken as classes."""
    labels = sorted({place.label for place in places.values() if place.label}, key=natural)
    subjects = {place.subject for place in places.values() if place.subject}
    if not labels:
        return []
    many = f"{len(subjects):,} subject{'s' * (len(subjects) != 1)}"
    return [f"Read as in training: {', '.join(labels[:6])} as classes, {many} from the names of files and folders."]


def _of_file(path: Path, *, suffixes: Collection[str]) -> Gathered:
    if is_table(path):
        return _in_table(path)
    if not path.exists() and path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} does not exist. Check the path.")
    if path.exists() and not path.is_file():  # to open a pipe that nobody writes waits without end
        raise UsageError(f"{path} is a pipe or a device, not a file. Save its output as an image first.")
    return Gathered([Source(path)])  # one that is missing or broken is refused by name, the others answered


def _in_folder(
    folder: Path, insides: dict[Path, PurePosixPath], *, several: bool, suffixes: Collection[str], dicom: bool
) -> Gathered:
    """List a folder, and keep in `insides` where each of its images lies."""
    found = list_folder(folder, suffixes=suffixes, dicom=dicom)
    found.files.sort(key=lambda path: [natural(step) for step in path.relative_to(folder).parts])
    own = PurePosixPath(folder.resolve().name) if several else PurePosixPath()
    for path in found.files:
        insides.setdefault(path, own / path.relative_to(folder).as_posix())
    pictures = [one.path.name for one in found.passed if one.picture]
    cure = f"Save {pictures[0]} and others as PNG or TIFF." if pictures else "Check the path."
    empty = [f"{one.filename} cannot be read ({one.strerror}). Change its permissions." for one in found.unread]
    empty += [] if found.files else [f"{folder} holds no image ({', '.join(suffixes)}). {cure}"]
    return Gathered([Source(path) for path in found.files], empty, found.passed, found.hidden)


def _in_table(table: Path) -> Gathered:
    if not table.exists():
        raise UsageError(f"{table} does not exist. Check the path.")
    read = read_table(table)
    found = Gathered(notes=[*read.notes, *read.note_on_subjects()])
    cure = "Name the column with the image files path."
    for number, row in zip(read.lines, read.columns(("path",), ("subject",), cure=cure), strict=True):
        if not row["path"]:
            found.empty.append(f"{table}, row {number}: no path. Name the image file.")
            continue
        try:
            path = file_of(row["path"], table)
        except DataError as elsewhere:
            found.notes.append(str(elsewhere))
            path = table.parent / row["path"]  # which does not exist, and is refused by name
        found.sources.append(Source(path, row.get("subject", "")))
    found.empty += [] if found.sources else [f"{table} lists no images."]
    found.notes += _notes_of_rows(found.sources, table.name)
    return found


def _notes_of_rows(sources: list[Source], name: str) -> list[str]:
    """Say so where rows name an image a second time, or no subject although others do."""
    files = {source.path for source in sources}
    nobody = sum(not source.subject for source in sources)
    again = len(sources) - len(files)
    notes = []
    if again:
        several = "1 row names an image that is" if again == 1 else f"{again:,} rows name images that are"
        notes.append(f"{name}: {several} in it already; the first row of each image counts.")
    if 0 < nobody < len(sources):
        several = "1 row has" if nobody == 1 else f"{nobody:,} rows have"
        notes.append(f"{name}: {several} no subject, and are not counted for any patient.")
    return notes


@dataclass(frozen=True)
class _Item:
    """One image, whatever brought it."""

    image: "Image"
    name: str
    subject: str = ""
    kind: Kind = "crop"


def answer_all(
    predictor: "Predictor",
    images: "Iterable[Image]",
    *,
    point: str,
    kind: Look = "auto",
    um_per_px: float | None = None,
    with_crops: bool = False,
    counts: "list[FieldCount] | None" = None,
) -> Iterator[Opinion]:
    """Yield one opinion per cell, in the order of the images; see Predictor.predict for what may be given.

    counts: takes red cells and platelets of each field, once its cells have been answered.

    Raises:
        UsageError: a path does not exist.
        DataError: a folder holds no image, or a table has no column path.
        MissingExtraError: an image shows a smear field, and the extra `fields` is not installed.
    """
    look = look_for(predictor.manifest, kind)
    items = list(_items(images, look))
    paths = (item.image for item in items if isinstance(item.image, Path))
    smears = (path for path in paths if kind_of(path, look=look) != "crop")
    reader = _LazyReader(predictor, smears, point=point, um_per_px=um_per_px, with_crops=with_crops)
    for shown, group in groupby(in_parallel(lambda item: _looked_at(item, look), items), key=lambda item: item.kind):
        if shown == "crop":
            pairs = ((item, item.image) for item in group)
            for item, opinion in predictor.stream(pairs, point=point, with_crops=with_crops):
                yield replace(opinion, name=item.name, subject=item.subject)
        else:
            for item in group:
                yield from reader.answer(item, counts)


def _items(images: "Iterable[Image]", look: Look) -> Iterator[_Item]:
    for number, image in enumerate(images, start=1):
        if isinstance(image, str | os.PathLike):
            if not os.fspath(image):
                raise UsageError(f"The path of image {number} is empty. Check the list.")
            yield from _of_path(Path(image))
        else:
            yield _Item(image, f"image {number}", kind=_kind_of_pixels(image, look))


def _of_path(path: Path) -> Iterator[_Item]:
    try:
        missing = not path.exists()
    except OSError:  # a name too long for the file system
        missing = True
    if missing:
        raise UsageError(f"{path} does not exist. Check the path.")
    for source in gather([path], suffixes=SUFFIXES, dicom=True).sources:
        yield _Item(source.path, str(source.path), source.subject)


def _looked_at(item: _Item, look: Look) -> _Item:
    """Return a file with its kind, and a crop with the pixels that had to be read to see that it is one."""
    if not isinstance(item.image, Path):
        return item
    kind, image = look_at(item.image, look=look)
    return replace(item, kind=kind, image=image)


def _kind_of_pixels(image: Any, look: Look) -> Kind:
    pixels = image
    if isinstance(image, PIL.Image.Image) and image.mode == "RGB":
        pixels = attempt(lambda: np.asarray(image))  # Pillow may read the file only now
    right = isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    if not right or not pixels.size or look == "crops":
        return "crop"  # what is wrong with it is reported by name
    return "field" if look == "fields" or (installed("cv2") and shows_a_field(pixels)) else "crop"


class _LazyReader:
    """Opens fields and slides, which needs OpenCV, when the first one comes."""

    def __init__(
        self, predictor: "Predictor", files: Iterable[Path], *, point: str, um_per_px: float | None, with_crops: bool
    ) -> None:
        self._predictor, self._point, self._um_per_px, self._crops = predictor, point, um_per_px, with_crops
        self._files = files
        self._reader: Reader | None = None

    def answer(self, item: _Item, counts: "list[FieldCount] | None" = None) -> Iterator[Opinion]:
        """Yield the opinions on the cells of a field or slide; or one refusal, where it cannot be used.

        counts: takes its red cells and platelets.
        """
        from .opinions import light

        ready_for(item.kind)
        found = []
        try:
            cells, count = self._cells(item)
            for judged in cells:
                found.append(light(judged))
                yield replace(judged.opinion, subject=item.subject, field=item.name, found=judged.cell)
            if counts is not None:
                from .blood_count import counts_of

                counts += counts_of(count(), found, positive=self._predictor.manifest.positive)
        except ImageError as unusable:
            yield Opinion(item.name, REFUSED, unusable.sentence, readable=False, subject=item.subject)

    def _cells(self, item: _Item) -> "tuple[Iterator[JudgedCell], Callable[[], Sequence[BloodCount]]]":
        """Return the cells of a field or slide, and what counts its red cells and platelets."""
        if isinstance(item.image, Path):
            smear = self._opened().open(item.image)
            return smear.cells, smear.count_blood
        from ..fields.blood_count import count_blood
        from ..fields.cells import field_of, find_cells
        from ..fields.scale import Scale
        from .fields import judge_cells

        scale = Scale.exact(self._um_per_px, source="user") if self._um_per_px else None
        field = field_of(np.asarray(item.image), name=item.name, scale=scale)
        cells = find_cells(field)
        judged = judge_cells(field, self._predictor, cells=cells, point=self._point, with_crops=self._crops)
        return judged, lambda: [counted] if (counted := count_blood(field, cells)) else []

    def _opened(self) -> "Reader":
        if self._reader is None:
            from ..fields.extraction import FieldOptions
            from .fields import Reader

            self._reader = Reader(
                self._predictor,
                list(self._files),
                options=FieldOptions(self._um_per_px),
                point=self._point,
                with_crops=self._crops,
            )
        return self._reader
