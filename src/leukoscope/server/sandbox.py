"""Processes that decode uploaded files, each with a limit on its memory and time; one that breaks is replaced.

Every picture is read by the one reader of pixels and written again as PNG, so no name, date, place, thumbnail, comment,
palette entry or trailing byte goes into the store. A DICOM header is kept apart, for results alone.

A picture is tried in a small process first. One that needs more than `light_bytes` gets a second try in the one large
process, so whatever is sent at once, all decoding together takes `light * light_bytes + heavy_bytes` at most.

Slides have processes of their own: one that takes them in, and some that draw tiles and keep what they draw from open.

A request is a line of JSON and so many bytes behind it, on standard input; so is its answer, on standard output.
"""

import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from PIL import Image

from ..config import Prepare
from ..errors import ImageError, LeukoscopeError, MissingExtraError, Refusal, attempt, require
from ..images.read import RGB, format_of, read_picture, read_size, tiff_readable
from ..images.scale import stated_scale
from ..progress import bound_memory
from . import slides, store
from .slides import SlideFacts
from .store import CellRegion, PictureStore, png

MIB = 1 << 20
_PIPE = subprocess.PIPE
_NICE = 5  # people who read go first
_SMALL_PIXELS = 4_000_000  # of a stored picture that may be drawn where the request is answered
_BOUNDED = ("slide_tile", "cut")  # what reads a few tiles whatever the size of the picture
_MEMORY, _UNUSABLE, _REFUSED = "memory", "unusable", "refused"
SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")
_CERTAIN_PIXELS, _CERTAIN_BYTES = 6_000_000, 32 << 20  # what fits a small process whatever its depth
_NAME = "This image"


class TooHeavyError(LeukoscopeError):
    """A process ran out of its memory or time, or broke."""


@dataclass(frozen=True)
class DecodedImage:
    """A picture as it goes into the store."""

    picture: bytes
    """PNG, pixels only."""
    kind: str
    width: int
    height: int
    um_per_px: float | None = None
    identity: bytes = b""
    """Header of a DICOM source."""
    notes: Sequence[str] = ()
    """What was done to the values of the file, and what was rejected of its scale."""


@dataclass
class Sandbox:
    """The processes of one room; each starts when it is first needed."""

    light: int = 2
    """Small processes."""
    light_bytes: int = 320 * MIB
    heavy_bytes: int = 2048 * MIB
    seconds: float = 60
    """Of one picture."""
    wait_seconds: float = 120
    """How long a picture waits for its turn before it is refused."""
    _light: "_Pool" = field(init=False)
    _heavy: "_Pool" = field(init=False)
    _tiles: "_Pool" = field(init=False)
    _slides: "_Pool" = field(init=False)

    def __post_init__(self) -> None:
        self._light = _Pool(self.light, self.light_bytes)
        self._tiles = _Pool(self.light, self.light_bytes)
        self._slides = _Pool(1, self.light_bytes)
        self._heavy = _Pool(1, self.heavy_bytes)

    def take(self, read: Callable[[], bytes], **how: Any) -> DecodedImage:
        """Decode a file; `read` brings its bytes when it is its turn, so that what waits takes no memory.

        Raises:
            ImageError: it is not an image, is damaged, or needs more than allowed, or an extra that is not installed.
            Refusal: too much is being decoded just now.
        """
        facts, parts = self._ask({"task": "take", "how": how}, read)
        return DecodedImage(parts[0], identity=parts[1], **facts)

    def draw(self, what: str, path: Path, **how: Any) -> bytes:
        """Draw a stored picture with a function of `store`; a large one in a process.

        Raises:
            Refusal: it is damaged or missing, or too much is being drawn just now.
        """
        prepare = how.pop("prepare", None)
        if _pixels(path) <= _SMALL_PIXELS:
            return _draw(what, path, how, prepare)
        sent = None if prepare is None else prepare.model_dump(mode="json")
        try:
            return self._ask({"task": what, "path": str(path), "how": how, "prepare": sent}, bytes)[1][0]
        except ImageError as unusable:
            raise Refusal(422, "damaged", f"This picture cannot be drawn: it {unusable}") from None

    def draw_cell(self, pictures: PictureStore, region: CellRegion, *, side: int) -> bytes:
        """Return a cell as JPEG of at most `side` pixels, drawn once: in its field, or as it came where it has none.

        Raises:
            Refusal: as `draw`.
        """
        digest, box, tiled = region
        path = pictures.path(digest)

        def draw() -> bytes:
            if box is None:
                return self.draw("thumbnail", path, side=side)
            if tiled:
                return self.cut(self.pyramid(pictures, digest), box=box, side=side)
            return self.draw("region", path, side=side, box=box, beyond=True)

        return pictures.drawn(digest, region.name(side), draw)

    def pyramid(self, pictures: PictureStore, digest: str) -> Path:
        """Return the pyramid of a picture that is not a slide, made when it is first drawn."""
        return pictures.made(digest, "pyramid", partial(self.draw, "pyramid", pictures.path(digest)))

    def slide(self, source: Path, target: Path, *, most_pixels: int, seconds: float) -> SlideFacts | None:
        """Take a slide in; None for what is not a slide. Other uploads wait meanwhile; tiles are still drawn.

        Raises:
            ImageError: it cannot be looked at piece by piece, or is damaged.
        """
        how = {"source": str(source), "target": str(target), "most_pixels": most_pixels}
        try:
            with self._slides.turn(seconds) as process:
                facts, _ = process.ask({"task": "slide", "how": how, "last": True}, b"", seconds=seconds)
        except TooHeavyError:
            raise ImageError(f"needs more than {seconds:.0f} seconds or {self.light_bytes // MIB} MiB.") from None
        return SlideFacts(**facts) if facts else None

    def tile(self, path: Path, *, level: int, column: int, row: int) -> bytes:
        """Return a tile of a pyramid as JPEG.

        Raises:
            Refusal: there is no such tile, it is damaged, or too much is being drawn just now.
        """
        return self._of_slide("slide_tile", path, level=level, column=column, row=row)

    def cut(self, path: Path, *, box: Sequence[int], side: int) -> bytes:
        """Return a box (left, top, width, height) of a pyramid as JPEG of at most `side` pixels."""
        return self._of_slide("cut", path, box=list(box), side=side)

    def area(self, path: Path, box: Sequence[int]) -> bytes:
        """Return a box (left, top, width, height) of a slide in full resolution, as PNG."""
        return self._of_slide("area", path, box=list(box))

    def _of_slide(self, task: str, path: Path, **how: Any) -> bytes:
        request = {"task": task, "path": str(path), "how": how}
        try:
            with contextlib.suppress(TooHeavyError), self._tiles.turn(self.wait_seconds) as process:
                return process.ask(request | {"last": False}, b"", seconds=self.seconds)[1][0]
            with self._heavy.turn(self.wait_seconds) as process:
                return process.ask(request | {"last": True}, b"", seconds=self.seconds)[1][0]
        except (ImageError, TooHeavyError) as unusable:
            raise Refusal(422, "damaged", f"This place of the slide cannot be drawn: {unusable}") from None

    def _ask(self, request: dict[str, Any], read: Callable[[], bytes]) -> tuple[dict[str, Any], list[bytes]]:
        with contextlib.suppress(TooHeavyError), self._light.turn(self.wait_seconds) as process:
            return process.ask(request | {"last": False}, read(), seconds=self.seconds)
        try:
            with self._heavy.turn(self.wait_seconds) as process:
                return process.ask(request | {"last": True}, read(), seconds=self.seconds)
        except TooHeavyError:
            most = f"{self.heavy_bytes // MIB:,} MiB or {self.seconds:.0f} seconds"
            raise ImageError(f"needs more than the {most} that one picture may take. Crop it.") from None

    def close(self) -> None:
        """End all processes."""
        self._light.close()
        self._tiles.close()
        self._slides.close()
        self._heavy.close()


class _Pool:
    """Some processes, each with one picture at a time."""

    def __init__(self, size: int, memory: int) -> None:
        self._free: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._all = [_Process(memory) for _ in range(size)]
        for each in self._all:
            self._free.put(each)

    @contextmanager
    def turn(self, seconds: float) -> Iterator["_Process"]:
        try:
            process = self._free.get(timeout=seconds)
        except queue.Empty:
            refusal = Refusal(503, "busy", "Too many pictures are being read just now. Send this again in a moment.")
            refusal.headers = {"Retry-After": "10"}
            raise refusal from None
        try:
            yield process
        finally:
            self._free.put(process)

    def close(self) -> None:
        for each in self._all:
            each.close()


class _Process:
    """One process; it is started when it is needed, and started again after it broke."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any], content: bytes, *, seconds: float) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and return its answer.

        Raises:
            TooHeavyError: it needs more memory or time, or broke the process.
            ImageError: the picture cannot be used.
            Refusal: as what draws raises it.
        """
        running = self._started()
        timer = threading.Timer(seconds, running.kill)
        timer.start()
        try:
            assert running.stdin
            assert running.stdout
            _send(running.stdin, request, [content])
            answer, parts = _receive(running.stdout)
        except (OSError, ValueError):
            self.close()
            raise TooHeavyError("The process that decodes ended.") from None
        except BaseException:  # half an answer would be taken for the next one's
            self.close()
            raise
        finally:
            timer.cancel()
        return _unwrapped(answer), parts

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._running is None or self._running.poll() is not None:
            self.close()
            command = [sys.executable, "-m", __name__, str(self._memory)]
            quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
            self._running = subprocess.Popen(
                command, stdin=_PIPE, stdout=_PIPE, stderr=subprocess.DEVNULL, env=os.environ | quiet
            )
        return self._running

    def close(self) -> None:
        """End the process, if there is one."""
        running, self._running = self._running, None
        if running is None:
            return
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout):
            with contextlib.suppress(OSError):  # what was not sent is lost with the process
                pipe.close()  # type: ignore[union-attr]


def _unwrapped(answer: dict[str, Any]) -> dict[str, Any]:
    kind, text = answer.get("error", ""), answer.get("message", "")
    if kind == _MEMORY:
        raise TooHeavyError("It needs more memory.")
    if kind == _REFUSED:
        raise Refusal(answer["status"], answer["code"], text)
    if kind:
        raise ImageError(text)
    facts: dict[str, Any] = answer["facts"]
    return facts


def _send(pipe: IO[bytes], head: dict[str, Any], parts: list[bytes]) -> None:
    pipe.write(json.dumps(head | {"bytes": [len(part) for part in parts]}).encode() + b"\n")
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    head: dict[str, Any] = json.loads(pipe.readline())
    parts = [pipe.read(size) for size in head["bytes"]]
    if [len(part) for part in parts] != head["bytes"]:
        raise ValueError("the other end has closed")
    return head, parts


def _pixels(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except (OSError, ValueError, SyntaxError):
        return 0  # drawing raises the reason


def _draw(what: str, path: Path, how: dict[str, Any], prepare: Prepare | None) -> bytes:
    if what in ("crop_seen", "heat_in_place"):
        assert prepare is not None
        return (store.crop_seen if what == "crop_seen" else store.heat_in_place)(path, prepare, **how)
    if what == "tile":
        return slides.tile_of_picture(path, **how)
    if what == "pyramid":
        return slides.pyramid(path)
    return store.thumbnail(path, **how) if what == "thumbnail" else store.region(path, **how)


# --- what is done inside a process: decoding -------------------------------------------------------------------------


def take(content: bytes, *, suffix: str, kind: str, um_per_px: float | None, most_pixels: int) -> DecodedImage:
    """Return the pixels of a file, and what else of it is kept.

    Raises:
        ImageError: it is not an image, is damaged, or has more pixels than allowed.
        MissingExtraError: an extra that its format needs is not installed.
    """
    found = format_of(content[:4096])
    if found == "DICOM":
        return _dicom(content, um_per_px=um_per_px, most_pixels=most_pixels)
    if found == "TIFF" and tiff_readable():
        from ..fields.slides import TiffSlide, is_slide

        with _file(content, suffix if suffix in SUFFIXES else ".tif") as path:
            if is_slide(path):
                slide = TiffSlide(path)
                pixels = _whole(slide, most_pixels=most_pixels)
                return _taken(pixels, kind, um_per_px or slide.um_per_px, notes=slide.notes)
    picture = read_picture(content, name=_NAME, suffix=suffix, most_pixels=most_pixels)
    stated = stated_scale(io.BytesIO(content))
    return _taken(picture.pixels, kind, um_per_px or stated.um_per_px, notes=(*picture.notes, stated.note))


def is_small(content: bytes) -> bool:
    """Return whether the header of a file states a size so small that reading it cannot need much memory."""
    try:
        width, height = read_size(content)
    except ImageError:
        return format_of(content[:4096]) != "DICOM" and len(content) < _CERTAIN_BYTES
    return width * height <= _CERTAIN_PIXELS and len(content) < _CERTAIN_BYTES


def _dicom(content: bytes, *, um_per_px: float | None, most_pixels: int) -> DecodedImage:
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    from ..interop.dicom import DicomImage

    with _file(content, ".dcm") as path:
        image = DicomImage(path)
        pixels = _whole(image, most_pixels=most_pixels)
        header = io.BytesIO()
        pydicom.dcmwrite(header, image.identity())
        scale = um_per_px or image.um_per_px
        return _taken(pixels, "dicom", scale, header.getvalue(), notes=image.notes)


def _taken(
    pixels: RGB, kind: str, um_per_px: float | None, identity: bytes = b"", *, notes: Sequence[str] = ()
) -> DecodedImage:
    height, width = pixels.shape[:2]
    return DecodedImage(png(pixels), kind, width, height, um_per_px, identity, tuple(note for note in notes if note))


def header_of(content: bytes) -> Any:
    """Return the header of a DICOM source as it was stored."""
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    return pydicom.dcmread(io.BytesIO(content))


@contextmanager
def _file(content: bytes, suffix: str) -> Iterator[Path]:
    """Yield a temporary file, whose name is removed from messages of its readers."""
    with TemporaryDirectory(prefix="leukoscope-") as folder:
        path = Path(folder) / f"source{suffix}"
        path.write_bytes(content)
        try:
            yield path
        except ImageError as unusable:
            raise ImageError(unusable.reason) from None


def _whole(image: Any, *, most_pixels: int) -> RGB:
    width, height = image.size
    if width * height > most_pixels:
        raise ImageError(
            f"has {width:,}x{height:,} pixels, more than the {most_pixels / 1e6:.0f} million allowed for one picture. "
            "Send a slide by itself and not in a zip: a tiled pyramid in TIFF or SVS, or DICOM; or send fields of it."
        )
    pixels: RGB = image.read(0, 0, width, height)
    return pixels


def suffix_of(name: str) -> str:
    """Return the suffix of a user's file name in lower case, for choosing what to try first."""
    return Path(name.replace("\\", "/")).suffix.lower()


# --- the loop of a process -------------------------------------------------------------------------------------------


def main() -> None:
    """Answer requests until the other end closes."""
    memory, requests, answers = int(sys.argv[1]), sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    os.dup2(2, 1)  # what a library prints must not get into an answer
    Image.MAX_IMAGE_PIXELS = None  # sizes are checked against the room's own limit
    while True:
        try:
            request, parts = _receive(requests)
        except ValueError:
            return
        answer, given = _answered(request, parts, memory)
        del parts
        _send(answers, answer, given)
        if answer.get("error") == _MEMORY:
            return  # what is left of its memory is of no use


Answer = tuple[dict[str, Any], list[bytes]]


def _answered(request: dict[str, Any], parts: list[bytes], memory: int) -> Answer:
    answer = attempt(lambda: _done(request, parts, memory))
    if not isinstance(answer, Exception):
        return answer
    if isinstance(answer, Refusal):
        return {"error": _REFUSED, "status": answer.status, "code": answer.code, "message": str(answer)}, []
    # A file not known to be small may have exhausted memory; not every reader reports this.
    known_small = request["task"] in _BOUNDED or is_small(parts[0])
    if isinstance(answer, MemoryError) or not (request["last"] or known_small):
        return {"error": _MEMORY}, []
    known = isinstance(answer, ImageError | MissingExtraError)
    text = str(answer) if known else f"cannot be read ({type(answer).__name__}). Save it as PNG."
    return {"error": _UNUSABLE, "message": text}, []


def _done(request: dict[str, Any], parts: list[bytes], memory: int) -> Answer:
    bound_memory(memory)
    if request["task"] == "take":
        facts = asdict(take(parts[0], **request["how"]))
        return {"facts": facts}, [facts.pop("picture"), facts.pop("identity")]
    if request["task"] == "slide":
        how = request["how"]
        found = slides.take_slide(Path(how["source"]), Path(how["target"]), most_pixels=how["most_pixels"])
        return {"facts": asdict(found) if found else {}}, []
    if request["task"] == "slide_tile":
        return {"facts": {}}, [slides.tile(Path(request["path"]), **request["how"])]
    if request["task"] == "cut":
        return {"facts": {}}, [slides.cut(Path(request["path"]), **request["how"])]
    if request["task"] == "area":
        left, top, width, height = request["how"]["box"]
        pixels = slides.part(Path(request["path"]), left=left, top=top, width=width, height=height)
        return {"facts": {}}, [png(pixels)]
    prepare = Prepare.model_validate(request["prepare"]) if request["prepare"] else None
    return {"facts": {}}, [_draw(request["task"], Path(request["path"]), request["how"], prepare)]


if __name__ == "__main__":
    main()
