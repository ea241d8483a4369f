"""The networks of a bundle as an ensemble: prepared crops in; probabilities, maps and embeddings out.

A bundle from elsewhere is first tried in a process of its own: what ONNX Runtime does with a graph cannot be foreseen
from its bytes, and a few kilobytes may ask for terabytes, run for hours, or crash it. That process has bounded memory
(not on Windows and macOS) and time. A bundle that passed is noted under its seal in the user's cache, so each is tried
once.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..bundle.graph import check_graph
from ..bundle.manifest import SHIPPED, Bundle, Member, open_bundle
from ..config import Prepare
from ..errors import BundleError, LeukoscopeError, attempt
from ..images.crop import VIEWS, View, turn, turn_back
from ..progress import bound_memory, processors

Floats = NDArray[np.floating]
Arrays = NDArray[np.float32]
Crops = NDArray[np.uint8]  # (batch, size, size, 3)
Task = tuple[onnxruntime.InferenceSession, Crops, list[View]]

OUTPUTS = ("probabilities", "map", "embedding")
CLASSES_KEY = "leukoscope.classes"  # in the graph's metadata
_VIEWS_AT_ONCE = 2  # a tenth faster an image than one, and small enough that five members fill two processors evenly
_CELLS_AT_ONCE = 4  # of one member with one view: a third faster a cell than one; eight are hardly faster
_SMALLEST = 1e-9
_TRIAL_SECONDS = 60.0  # for one crop
_ROUNDING = 1e-3  # half precision of probabilities
_UNTRUE = "Do not trust this bundle; repeat leukoscope export."
_QUIET = 4  # ONNX Runtime's level for fatal errors: our own errors describe the problem


@dataclass(frozen=True)
class Outputs:
    """The answers of a bundle to a batch."""

    probabilities: Floats
    """(batch, classes) float64, calibrated."""
    maps: NDArray[np.float32]
    """(batch, classes, h, w): evidence for each class at each place, centred over the classes. Members with smaller
    maps are enlarged to the first one's."""
    embedding: NDArray[np.float32]
    """(batch, channels) of the first member, of the crop as it is."""


class Ensemble:
    """The sessions of a bundle, each on one thread; every look of a member at a crop is a task for some threads.

    There are as many threads as OMP_NUM_THREADS, or else as processors: so a cell that comes alone has all of them,
    and callers that bring several cells at once share them.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Load the graphs of a bundle.

        Raises:
            BundleError: a graph keeps data outside the bundle, cannot be loaded, or does not fit bundle.json.
        """
        self.manifest = bundle.manifest
        self.preparations: list[Prepare] = list(dict.fromkeys(member.prepare for member in bundle.manifest.members))
        """Distinct preparations; `run` takes crops of each."""
        self._sessions = [_open_session(bundle, member) for member in bundle.manifest.members]
        self._threads = ThreadPoolExecutor(processors(), "leukoscope-look")

    def run(self, crops: list[Crops]) -> Outputs:
        """Return the mean outputs of the members for the same cells, prepared in each of `preparations`."""
        views, members = VIEWS[self.manifest.views], self.manifest.members
        batches = self._run_all(list(self._tasks(crops, views)))
        outputs = [
            _outputs_of(batches[place :: len(members)], member, views=len(views))
            for place, member in enumerate(members)
        ]
        plane = outputs[0].maps.shape[2:]
        return Outputs(
            np.stack([each.probabilities for each in outputs]).mean(axis=0),
            np.stack([_enlarge(each.maps, plane) for each in outputs]).mean(axis=0),
            outputs[0].embedding,
        )

    def _run_all(self, tasks: list[Task]) -> list[list[Arrays]]:
        if len(tasks) == 1:  # another thread would not help
            return [_run_session(*tasks[0])]
        return list(self._threads.map(lambda task: _run_session(*task), tasks))

    def _tasks(self, crops: list[Crops], views: list[View]) -> Iterator[Task]:
        """Yield batches of views for each member in turn; each crop is turned once for all members."""
        pairs = [(number, view) for number in range(len(crops[0])) for view in views]
        at_once = _CELLS_AT_ONCE if len(self._sessions) == len(views) == 1 else _VIEWS_AT_ONCE
        for start in range(0, len(pairs), at_once):
            part = pairs[start : start + at_once]
            turned = [np.stack([turn(each[number], view, axes=(0, 1)) for number, view in part]) for each in crops]
            for session, member in zip(self._sessions, self.manifest.members, strict=True):
                yield session, turned[self.preparations.index(member.prepare)], [view for _, view in part]

    def embed(self, crops: Crops) -> NDArray[np.float32]:
        """Return the embedding (batch, channels) of the first member, of crops in its own preparation."""
        _, _, embedding = self._sessions[0].run(OUTPUTS, {"crops": np.ascontiguousarray(crops)})
        return np.asarray(embedding)


def temper(probabilities: Floats, temperature: float) -> Floats:
    """Divide the logits of probabilities (cells, classes) by the temperature.

    The same as evaluation.predictions.temper, in NumPy only, since SciPy takes longer to import than an image to
    predict.

    >>> temper(np.array([[0.1, 0.9]]), 2.0).round(2).tolist()
    [[0.25, 0.75]]
    """
    logits = np.log(np.clip(np.asarray(probabilities, dtype=np.float64), _SMALLEST, 1)) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _run_session(session: onnxruntime.InferenceSession, crops: Crops, views: Sequence[View]) -> list[Arrays]:
    """Return probabilities, maps turned back, and embeddings of crops in these views."""
    probabilities, maps, embedding = session.run(OUTPUTS, {"crops": crops})
    upright = [turn_back(each, view, axes=(1, 2)) for each, view in zip(maps, views, strict=True)]
    return [probabilities, np.stack(upright), embedding]


def _outputs_of(batches: Sequence[list[Arrays]], member: Member, *, views: int) -> Outputs:
    """Average the outputs of one member over the views; the embedding is that of the first view."""
    probabilities, maps, embedding = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    check_answer(probabilities, where=member.graph)
    chances = probabilities.reshape(-1, views, probabilities.shape[1]).mean(axis=1, dtype=np.float64)
    return Outputs(
        temper(chances, member.temperature), maps.reshape(-1, views, *maps.shape[1:]).mean(axis=1), embedding[::views]
    )


def _enlarge(maps: NDArray[np.float32], plane: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize maps (batch, classes, h, w) to another plane by nearest neighbours."""
    if maps.shape[2:] == plane:
        return maps
    rows, columns = ((np.arange(new) * old) // new for new, old in zip(plane, maps.shape[2:], strict=True))
    return maps[:, :, rows[:, None], columns]


def _open_session(bundle: Bundle, member: Member) -> onnxruntime.InferenceSession:
    session = open_graph(bundle, member.graph)
    _check_graph(bundle, member, session)
    try_out(session, bundle.path / member.graph, size=member.prepare.size, outputs=OUTPUTS)
    return session


def open_graph(bundle: Bundle, name: str, *, batch: int = 0) -> onnxruntime.InferenceSession:
    """Return a graph of a bundle on one thread.

    batch: the fixed number of crops in a batch; 0 where it varies. Where it is known, what a graph
    computes about shapes is computed once: a quarter of the time of the network of cell types.

    Raises:
        BundleError: it may not end, keeps data elsewhere, or cannot be loaded.
    """
    onnx, where = bundle.read(name), bundle.path / name
    check_graph(onnx, where)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    if batch:
        options.add_free_dimension_override_by_name("batch", batch)
    options.add_session_config_entry("session.load_model_format", "ONNX")  # what was checked, whatever it looks like
    # ONNX Runtime has no common error below Exception.
    session = attempt(lambda: onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"]))
    if isinstance(session, Exception):
        raise BundleError(
            f"{where} cannot be loaded by ONNX Runtime {onnxruntime.__version__} ({_first_line(session)}). "
            "Make the bundle again with leukoscope export, or update onnxruntime."
        ) from None
    return session


def _first_line(failed: Exception) -> str:
    return (str(failed).strip() or type(failed).__name__).splitlines()[0]


def try_out(
    session: onnxruntime.InferenceSession, where: Path, *, size: int, outputs: Sequence[str], batch: int = 2
) -> None:
    """Ask a network about black crops: it must answer in time, and with probabilities.

    batch: how many; two by default, as the size of an answer may depend on their number.

    Raises:
        BundleError: it does not.
    """
    running = onnxruntime.RunOptions()
    timer = threading.Timer(_TRIAL_SECONDS, setattr, (running, "terminate", True))
    timer.start()
    crops = np.zeros((batch, size, size, 3), np.uint8)
    try:
        answer = attempt(lambda: session.run(outputs, {"crops": crops}, running))
    finally:
        timer.cancel()
    if isinstance(answer, Exception):
        raise BundleError(f"{where} gives no answer ({_first_line(answer)}). {_UNTRUE}") from None
    probabilities, *rest = answer
    check_answer(probabilities, where=str(where))
    if not all(np.isfinite(each).all() for each in rest):
        raise BundleError(f"{where} gives maps or embeddings with NaN or Infinity. {_UNTRUE}")


def check_answer(probabilities: Arrays, *, where: str) -> None:
    """Make sure that an answer (cells, classes) holds probabilities.

    Raises:
        BundleError: it does not.
    """
    if probabilities.ndim != 2 or not probabilities.size:
        raise BundleError(f"{where} gives probabilities of the shape {probabilities.shape}. {_UNTRUE}")
    low, high, sums = probabilities.min(), probabilities.max(), probabilities.sum(axis=1)
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING and np.abs(sums - 1).max() < _ROUNDING):  # also false for NaN
        raise BundleError(f"{where} gives probabilities from {low:.3g} to {high:.3g}, outside 0 to 1. {_UNTRUE}")


def _check_graph(bundle: Bundle, member: Member, session: onnxruntime.InferenceSession) -> None:
    where, size = bundle.path / member.graph, member.prepare.size
    inputs, outputs = session.get_inputs(), {each.name: each.shape for each in session.get_outputs()}
    if [(each.name, each.type, each.shape[1:]) for each in inputs] != [("crops", "tensor(uint8)", [size, size, 3])]:
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise BundleError(
            f"{where} takes {found}, but bundle.json prepares uint8 crops of {size} px. "
            "Make the bundle again with leukoscope export."
        )
    classes = ", ".join(bundle.manifest.classes)
    made_for = session.get_modelmeta().custom_metadata_map.get(CLASSES_KEY, "nothing").replace("\n", ", ")
    if set(outputs) != set(OUTPUTS) or outputs["probabilities"][1] != len(bundle.manifest.classes):
        raise BundleError(f"{where} does not give probabilities, map and embedding for the classes {classes}.")
    if made_for != classes:
        raise BundleError(
            f"{where} was made for the classes {made_for}, but bundle.json lists {classes}. "
            "Make the bundle again with leukoscope export."
        )


_MIB = 1 << 20
_MEMORY = 4096 * _MIB  # more than the process has when it begins; the shipped bundle takes a tenth of it
_SECONDS = 180.0
_PASSED: set[str] = set()
_REFUSED = 3  # exit status


def try_bundle(bundle: Bundle) -> None:
    """Check that a bundle can be loaded and run within limits of memory and time; the shipped one is not checked.

    Raises:
        BundleError: it cannot; the message gives the reason, or that the process that tried it crashed.
    """
    seal = bundle.manifest.seal
    note = _cache() / f"{seal}-{metadata.version('onnxruntime')}"
    if bundle.path == SHIPPED or seal in _PASSED or note.exists():
        return
    command = [sys.executable, "-m", __name__, str(bundle.path.resolve()), str(_MEMORY)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, encoding="utf-8")
    except subprocess.TimeoutExpired:
        raise BundleError(_broke(bundle, f"took more than {_SECONDS:.0f} seconds")) from None
    if tried.returncode == _REFUSED:
        raise BundleError(tried.stdout.strip().replace(str(bundle.path.resolve()), str(bundle.path)))
    if tried.returncode:
        raise BundleError(_broke(bundle, f"broke it, or needed more than {_MEMORY // _MIB:,} MiB"))
    _PASSED.add(seal)
    with contextlib.suppress(OSError):  # it is then tried again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _broke(bundle: Bundle, how: str) -> str:
    return (
        f"{bundle.path} was tested in a separate process and {how}, so it is not loaded. "
        "Do not trust this bundle; ask its author."
    )


def _cache() -> Path:
    set_ = os.environ.get("XDG_CACHE_HOME")
    return (Path(set_) if set_ else Path("~/.cache").expanduser()) / "leukoscope" / "bundles-tried"


def main() -> None:
    """Load the bundle that is named; print on standard output what is wrong with it."""
    from .predictor import Predictor

    bound_memory(int(sys.argv[2]))
    try:
        Predictor(open_bundle(Path(sys.argv[1])))
    except LeukoscopeError as refused:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write(str(refused))
        sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
