"""Read DICOM microscope images from files; fetch them from a hospital's archive through DICOMweb, and store results.

VL Microscopic, VL Slide-Coordinates Microscopic and VL Whole Slide Microscopy images are read. Only their pixels, scale
and the identity that results must carry are used; the patient's data stay in the source object.
"""

import contextlib
import io
import logging
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ImageError, LeukoscopeError, UnreachableError, attempt, require, why_unreachable
from ..files import atomic_write
from ..images.colour import Profile, ValueRange, eight_bits, profile_of_label, range_of, to_srgb
from ..images.read import MAX_PIXELS, RGB, file_format
from ..images.scale import MM_UM, Claim, Stated, believed, number_of
from ..progress import track

MICROSCOPE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.77.1.2": "VL Microscopic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.3": "VL Slide-Coordinates Microscopic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "VL Whole Slide Microscopy Image",
}
_MOST_FRAMES = 2_000_000  # of a slide; the largest known have some hundred thousand
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_GREY = "is black and white; stained cells need colour. Use a colour image."

T = TypeVar("T")
_PREAMBLE = 128  # bytes before the letters DICM
_META_BYTES = 4096  # in which the file meta information states how the rest is packed
_MOST_INFLATED = 400 << 20  # bytes: a hundred million pixels of three bytes, and a header


class DicomImage:
    """A microscope image in DICOM, read piece by piece; compressed ones are decoded frame by frame."""

    def __init__(self, path: Path) -> None:
        """Open an image.

        Raises:
            ImageError: the file is not DICOM, shows something other than a microscope's field, holds several frames,
                or has no pixels.
            MissingExtraError: the extra `dicom` is not installed.
        """
        self.path = path
        self.name = path.name
        self._header = head = read_dataset(path)
        facts = _decoded(lambda: _facts(head, path), f"{path} cannot be read as DICOM", cure="Export it again.")
        self._whole_slide, self.size = facts.whole_slide, facts.size
        self.stated = facts.stated
        """What the file states about its scale."""
        self.um_per_px = self.stated.um_per_px
        self.notes: tuple[str, ...] = (self.stated.note,) if self.stated.note else ()
        """What was done to depth and colours, and what was not believed of the scale."""
        self._profile = facts.profile
        self._range: ValueRange | None = None
        self._image = _opened(path, head, whole_slide=self._whole_slide)
        self._whole: RGB | None = None

    def read(self, left: int, top: int, width: int, height: int) -> RGB:
        """Return a rectangle at full resolution, uint8 sRGB, (height, width, 3)."""
        if not self._whole_slide:
            if self._whole is None:
                self._whole = self._srgb(_decoded(self._frame, f"{self.path} is damaged"))
            return np.ascontiguousarray(self._whole[top : top + height, left : left + width])
        part = _decoded(lambda: self._matrix(left, top, width, height), f"{self.path} is damaged at {left}, {top}")
        return self._srgb(part)

    def thumbnail(self, longest: int) -> RGB:
        """Return the whole image shrunk to about `longest` pixels by taking every n-th, read in strips."""
        width, height = self.size
        step = max(1, max(width, height) // longest)
        strips = [(top, self.read(0, top, width, min(1024, height - top))) for top in range(0, height, 1024)]
        return np.concatenate([strip[(-top) % step :: step, ::step] for top, strip in strips])

    def identity(self) -> Any:
        """Return the source's dataset without its pixels, for results that must carry its identity."""
        return read_dataset(self.path, pixels=False)

    def _frame(self) -> NDArray[Any]:
        if self._header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = require("pydicom.pixels", feature="DICOM", extra="dicom")
            values = np.asarray(pixels.apply_color_lut(pixels.pixel_array(self._header), self._header))
            return np.asarray(values if values.dtype == np.uint8 else (values.astype(np.uint32) + 128) // 257, np.uint8)
        if self._image is None:
            pixels = require("pydicom.pixels", feature="DICOM", extra="dicom")
            return self._used_bits(np.asarray(pixels.pixel_array(self._header)))
        return self._used_bits(np.asarray(self._image.get_frame(1, dtype=self._dtype, apply_icc_profile=False)))

    def _matrix(self, left: int, top: int, width: int, height: int) -> NDArray[Any]:
        return self._used_bits(
            np.asarray(
                self._image.get_total_pixel_matrix(
                    row_start=top,
                    row_end=top + height,
                    column_start=left,
                    column_end=left + width,
                    dtype=self._dtype,
                    as_indices=True,
                    apply_icc_profile=False,
                )
            )
        )

    def _used_bits(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the bits that hold the picture; above and below them uncompressed pixels may hold anything."""
        stored, high = int(self._header.BitsStored), _high_bit(self._header)
        packed = self._header.file_meta.TransferSyntaxUID.is_encapsulated
        if packed or (stored == 8 * values.itemsize and high == stored - 1):
            return values
        return np.asarray((values >> max(0, high + 1 - stored)) & (2**stored - 1), values.dtype)

    @property
    def _dtype(self) -> type[Any]:
        return np.uint16 if int(self._header.BitsAllocated) > 8 else np.uint8

    def _srgb(self, values: NDArray[Any]) -> RGB:
        if values.ndim != 3 or values.shape[2] != 3:
            raise ImageError(_GREY, path=self.path)
        if self._range is None:
            try:
                palette = self._header.PhotometricInterpretation == "PALETTE COLOR"
                self._range = range_of(values, bits=8 if palette else int(self._header.BitsStored))
            except ValueError as unknown:
                raise ImageError(f"has {unknown}. Export it again.", path=self.path) from None
        pixels, change = to_srgb(eight_bits(values, self._range), self._profile)
        self.notes = tuple(note for note in (self._range.note, change, self.stated.note) if note)
        return pixels


Report = Callable[[str], None]
_TIMEOUT_S = 60.0  # for one answer
_INSTANCE, _SERIES = "00080018", "0020000E"  # tags in QIDO-RS answers
_UID = re.compile(r"[0-9.]{1,64}")
# Reasons that PS3.18, section 10.5.3 (Table I.2-2) gives for instances that were not stored.
_REASONS = {
    0xA700: "the archive is out of resources",
    0xA900: "the data do not match their SOP class",
    0xC000: "the archive cannot understand the data",
    0x0110: "processing failed",
    0x0122: "the archive does not support this SOP class",
    0x0124: "not authorised",
}


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its content, not its name; with or without its preamble."""
    return attempt(lambda: file_format(path)) == "DICOM"


def read_dataset(source: Path | bytes, *, pixels: bool = True) -> Any:
    """Return a DICOM object, also one without preamble and file meta information.

    Raises:
        ImageError: it is none, or damaged.
        MissingExtraError: the extra `dicom` is not installed.
    """
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # the program itself reports what is wrong
    name = source if isinstance(source, Path) else "The object"

    def read() -> Any:
        _check_inflation(source, name)
        file: Any = source if isinstance(source, Path) else io.BytesIO(source)
        dataset = pydicom.dcmread(
            file,
            defer_size=4096 if pixels and isinstance(source, Path) else None,
            stop_before_pixels=not pixels,
            force=True,
        )
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            uid = pydicom.uid
            syntax = uid.ExplicitVRBigEndian if not little else uid.ExplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else syntax
        return dataset

    return _decoded(read, f"{name} cannot be read as DICOM", cure="Export it again.")


def _check_inflation(source: Path | bytes, name: Path | str) -> None:
    """Refuse a deflated object that unpacks to more than any image has: its parser would unpack all of it at once."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        head = file.read(_META_BYTES)
        found = re.search(rb"1\.2\.840\.10008\.1\.2\.1\.99\0?", head)
        if found is None or head[128:132] != b"DICM":
            return
        file.seek(_PREAMBLE + 16 + int.from_bytes(head[140:144], "little"))
        unpacking, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while packed := file.read(1 << 16):
            while packed:
                size += len(unpacking.decompress(packed, 1 << 20))
                if size > _MOST_INFLATED:
                    raise ImageError(f"{name} unpacks to more than {_MOST_INFLATED >> 20} MiB. Export it again.")
                packed = unpacking.unconsumed_tail


@dataclass(frozen=True)
class _Facts:
    whole_slide: bool
    size: tuple[int, int]
    stated: Stated
    profile: Profile | None


def _facts(head: Any, path: Path) -> _Facts:
    """Return what the header states, once it is known to be that of a microscope image."""
    whole_slide = _kind(head, path) == _WHOLE_SLIDE
    _check(head, path, whole_slide=whole_slide)
    size = _size(head, path, whole_slide=whole_slide)
    if whole_slide:
        _check_volume(head, path)
        _check_frames(head, path, size)
    return _Facts(whole_slide, size, believed(_claims(head, *size)), _profile(head, path))


def _kind(head: Any, path: Path) -> str:
    kind = str(head.get("SOPClassUID", ""))
    if kind not in MICROSCOPE_CLASSES:
        from pydicom.uid import UID

        shown = UID(kind).name if kind else "an unknown kind of object"
        raise ImageError(f"is {shown}. Known: {', '.join(MICROSCOPE_CLASSES.values())}.", path=path)
    return kind


def _check(head: Any, path: Path, *, whole_slide: bool) -> None:
    if "Rows" not in head or "PixelData" not in head:
        raise ImageError("is a DICOM object without pixels. Export the image, not only its header.", path=path)
    missing = [
        name for name in ("Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation") if name not in head
    ]
    if missing:
        raise ImageError(
            f"lacks {', '.join(missing)}, without which its pixels cannot be read. Export it again.", path=path
        )
    if head.get("SamplesPerPixel", 1) != 3 and head.PhotometricInterpretation != "PALETTE COLOR":
        raise ImageError(_GREY, path=path)
    _check_values(head, path)
    frames = _decoded(lambda: int(head.get("NumberOfFrames", 1) or 1), f"{path} is damaged")
    if frames > 1 and not whole_slide:
        raise ImageError(f"contains several pictures ({frames} frames). Export one frame per object.", path=path)


def _check_values(head: Any, path: Path) -> None:
    """Refuse values that no decoder here brings to red, green and blue."""
    colours, bits = str(head.PhotometricInterpretation), _decoded(lambda: int(head.BitsAllocated), f"{path} is damaged")
    if colours not in _COLOURS or (colours.startswith("YBR") and bits > 8):
        raise ImageError(
            f"has a photometric interpretation that is not supported ({colours}, {bits} bits). Export it as RGB.",
            path=path,
        )
    if head.get("PixelRepresentation", 0) == 1:
        raise ImageError("has signed values, which are invalid for colours. Export it again.", path=path)
    if bits not in (8, 16):
        raise ImageError(f"has {bits} bits per value, which is not supported. Export it with 8 or 16.", path=path)
    stored, high = _decoded(lambda: (int(head.BitsStored), _high_bit(head)), f"{path} is damaged")
    if not 1 <= stored <= bits or not stored - 1 <= high < bits:
        raise ImageError(
            f"states {stored} of {bits} bits, up to bit {high}, which is invalid. Export it again.", path=path
        )
    syntax = head.file_meta.TransferSyntaxUID
    if attempt(lambda: bool(syntax.is_transfer_syntax)) is not True:
        raise ImageError(f"has an unknown transfer syntax ({str(syntax)[:64]!r}). Export it again.", path=path)


def _high_bit(head: Any) -> int:
    high = head.get("HighBit")
    return int(head.BitsStored) - 1 if high is None else int(high)


def _size(head: Any, path: Path, *, whole_slide: bool) -> tuple[int, int]:
    names = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows") if whole_slide else ("Columns", "Rows")
    width, height = _decoded(lambda: tuple(int(head[name].value) for name in names), f"{path} states no size")
    if width < 1 or height < 1:
        raise ImageError(f"has {width}x{height} pixels. Export it again.", path=path)
    if not whole_slide and width * height > MAX_PIXELS:
        raise ImageError(
            f"has {width}x{height} pixels, more than the {MAX_PIXELS // 10**6} million allowed.", path=path
        )
    return width, height


def _check_volume(head: Any, path: Path) -> None:
    """Refuse pictures of a slide's label, which names the patient, and of its glass."""
    flavour = attempt(lambda: str(head.ImageType[2]).upper())
    if flavour in ("LABEL", "OVERVIEW"):
        raise ImageError(f"shows the {flavour.lower()} of a slide, not cells. Leave it out.", path=path)


def _check_frames(head: Any, path: Path, size: tuple[int, int]) -> None:
    """Refuse a slide whose frames cannot cover its size: a damaged number would be counted up to for minutes."""
    across, down = -(-size[0] // max(1, int(head.Columns))), -(-size[1] // max(1, int(head.Rows)))
    planes = max(1, int(head.get("TotalPixelMatrixFocalPlanes", 1) or 1))
    paths = max(1, int(head.get("NumberOfOpticalPaths", 1) or 1))
    frames = int(head.get("NumberOfFrames", 1) or 1)
    tiles = across * down * planes * paths
    full = str(head.get("DimensionOrganizationType", "")) == "TILED_FULL"  # a sparse one may have few frames
    if max(frames, tiles) > _MOST_FRAMES or (full and tiles > 4 * frames + 100):
        raise ImageError(
            f"is damaged: {frames:,} frames cannot make {size[0]:,}x{size[1]:,} pixels. Export it again.", path=path
        )


def _opened(path: Path, head: Any, *, whole_slide: bool) -> Any:
    highdicom = require("highdicom", feature="DICOM", extra="dicom")
    logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)  # the program itself reports what is wrong
    big = not head.file_meta.TransferSyntaxUID.is_little_endian
    if not whole_slide and (big or head.PhotometricInterpretation == "PALETTE COLOR"):
        return None  # highdicom reads neither; pydicom does

    def open_it() -> Any:
        if whole_slide and _has_preamble(path):
            return highdicom.imread(path, lazy_frame_retrieval=True)
        return highdicom.Image.from_dataset(head, copy=False)

    return _decoded(open_it, f"{path} has no pixels that can be read", cure="Export it again.")


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _claims(head: Any, width: int, height: int) -> Iterator[Claim]:
    """Yield what a DICOM object states about its scale, all of it in millimetres."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        measures = attempt(lambda name=name: head[name][0].PixelMeasuresSequence[0].PixelSpacing)  # type: ignore[misc]
        if not isinstance(measures, Exception) and measures:
            yield _spacing("PixelSpacing", measures)
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if name in head and head[name].value:
            yield _spacing(name, head[name].value)
    across = number_of(str(head.get("ImagedVolumeWidth", "")))
    if across is not None:
        down = number_of(str(head.get("ImagedVolumeHeight", "")))
        x, y = across * MM_UM / width, down * MM_UM / height if down else None
        yield Claim("ImagedVolumeWidth", f"{across:g} mm", x, y)


def _spacing(name: str, value: Any) -> Claim:
    """Return rows' and columns' spacing, which DICOM states in this order."""
    both = [number_of(str(one)) for one in (value if not isinstance(value, str | float | int) else [value])]
    y, x = (both[0], both[-1]) if both else (None, None)
    return Claim(name, f"{value} mm".replace("'", ""), x * MM_UM if x is not None else None, y * MM_UM if y else None)


def _profile(head: Any, path: Path) -> Profile | None:
    found = attempt(lambda: head.OpticalPathSequence[0].ICCProfile)
    if isinstance(found, Exception):
        found = head.get("ICCProfile")
    if isinstance(found, bytes) and found:
        return Profile(found)
    label = attempt(lambda: head.OpticalPathSequence[0].ColorSpace)
    label = head.get("ColorSpace", "") if isinstance(label, Exception) else label
    return profile_of_label(str(label or ""), name=str(path))


def _decoded(work: Callable[[], T], what: str, *, cure: str = "Copy it again.") -> T:
    """Return what a library decodes; whatever it raises is reported as an error of the file."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # highdicom prints what it raises
        warnings.simplefilter("ignore")
        done = attempt(work)
    if isinstance(done, LeukoscopeError):
        raise done
    if isinstance(done, Exception) and (packed := re.search(r"Unable to decompress '([^']*)'", str(done))):
        raise ImageError(
            f"is compressed as {packed[1]}, for which no decoder is installed. Export it uncompressed.",
            path=what.partition(" is damaged")[0],
        )
    if isinstance(done, Exception):
        raise ImageError(f"{what} ({_line(done)}). {cure}") from None
    return done


def _line(raised: Exception) -> str:
    return f"{type(raised).__name__}: {(str(raised).splitlines() or [''])[0][:120]}".strip(" :")


@dataclass(frozen=True)
class Archive:
    """The DICOMweb service of an archive."""

    url: str
    """Base URL, such as http://localhost:8042/dicom-web."""
    user: str = ""
    password: str = ""
    token: str = ""
    """Bearer token; used instead of user and password."""

    def client(self) -> Any:
        """Return a client of dicomweb-client.

        Raises:
            MissingExtraError: the extra `hospital` is not installed.
        """
        api = require("dicomweb_client.api", feature="DICOMweb", extra="hospital")
        session = _web_session()
        if self.user and not self.token:
            session.auth = (self.user, self.password)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        client = api.DICOMwebClient(self.url, session=session, headers=headers)
        client.set_http_retry_params(retry=False)
        return client


def fetch(archive: Archive, folder: Path, *, study: str, series: str = "", report: Report) -> list[Path]:
    """Fetch all images of a study, or of one of its series, as FOLDER/<SOP instance UID>.dcm.

    A file that is there already is not fetched again, so a stopped call continues when it is repeated.

    Raises:
        DataError: the archive cannot be reached, refuses, or has no such images.
    """
    client = archive.client()
    with _connection_errors(archive):
        found = client.search_for_instances(study, series or None)
    if not found:
        raise DataError(f"{archive.url} has no images of study {study}{' in that series' if series else ''}.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for instance in track(found, "Fetching", total=len(found)):
        uid = _first(instance, _INSTANCE)
        if not _UID.fullmatch(uid):  # it becomes a file's name
            raise DataError(f"{archive.url} names an image {uid!r}, which is not a UID. Ask who runs the archive.")
        path = folder / f"{uid}.dcm"
        if not path.exists():
            with _connection_errors(archive):
                data = client.retrieve_instance(study, _first(instance, _SERIES), uid)
            with atomic_write(path) as beside:
                data.save_as(beside, enforce_file_format=True)
        paths.append(path)
    report(f"Fetched {len(paths)} images of study {study} to {folder}.")
    return paths


def store(archive: Archive, files: Sequence[Path], *, report: Report) -> int:
    """Store DICOM files one by one and return how many were new; files that the archive already has are not sent again.

    Raises:
        DataError: a file is not DICOM, or the archive cannot be reached or refuses one; what was stored before stays
            stored, and the same call sends the rest.
    """
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    client = archive.client()
    stored = 0
    for path in track(files, "Storing", total=len(files)):
        try:
            data = pydicom.dcmread(path)
            study, uid = str(data.StudyInstanceUID), str(data.SOPInstanceUID)
        except (OSError, AttributeError, pydicom.errors.InvalidDicomError) as wrong:
            raise DataError(f"{path} is not a DICOM file that can be stored ({wrong}).") from None
        with _connection_errors(archive, done=stored):
            if client.search_for_instances(study, search_filters={"SOPInstanceUID": uid}):
                continue
            answer = client.store_instances([data])
        _check_stored(answer, path, archive)
        stored += 1
    report(f"Stored {stored} of {len(files)} files in {archive.url}; {len(files) - stored} were already there.")
    return stored


def _web_session() -> Any:
    """Return a session that waits for no answer without end, and carries nothing to where a redirect leads."""
    requests = require("requests", feature="DICOMweb", extra="hospital")

    class Bounded(requests.adapters.HTTPAdapter):  # type: ignore[misc, name-defined]
        def send(self, request: Any, **more: Any) -> Any:
            return super().send(request, **(more | {"timeout": more.get("timeout") or _TIMEOUT_S}))

    session = requests.Session()
    session.max_redirects = 0
    for scheme in ("http://", "https://"):
        session.mount(scheme, Bounded())
    return session


@contextlib.contextmanager
def _connection_errors(archive: Archive, *, done: int | None = None) -> Iterator[None]:
    """Turn the errors of the connection into one sentence."""
    requests = require("requests", feature="DICOMweb", extra="hospital")
    kept = "" if done is None else f" {done} files were stored; the same command sends the rest."
    try:
        yield
    except requests.HTTPError as refused:
        status = refused.response.status_code if refused.response is not None else "no status"
        text = refused.response.text[:200] if refused.response is not None else ""
        raise DataError(f"{archive.url} refused (HTTP {status}): {text.strip() or 'no reason given'}.{kept}") from None
    except (requests.RequestException, OSError) as failed:
        raise UnreachableError(
            f"{archive.url} cannot be reached ({why_unreachable(failed)}). Check the address.{kept}"
        ) from None


def _check_stored(answer: Any, path: Path, archive: Archive) -> None:
    """Raise DataError where the archive answers that the instance was not stored."""
    failed = getattr(answer, "FailedSOPSequence", [])
    if failed:
        code = int(getattr(failed[0], "FailureReason", 0))
        raise DataError(f"{archive.url} did not store {path}: {_REASONS.get(code, f'reason {code:#06x}')}.")


def _first(instance: Mapping[str, Any], tag: str) -> str:
    return str(instance[tag]["Value"][0])
