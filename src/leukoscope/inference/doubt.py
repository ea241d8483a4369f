"""When a bundle refuses a picture, and when it does not decide: quality, gate and conformal rule as one."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..data.images import RGB
from .bundle import Bundle
from .ensemble import Floats

if TYPE_CHECKING:
    from .quality import Quality


class Doubt:
    """The rules that a bundle brings along; a rule that it does not bring never doubts."""

    def __init__(self, bundle: Bundle) -> None:
        self._classes = bundle.manifest.classes
        self._limits = bundle.manifest.quality
        self._conformal = bundle.manifest.conformal
        self._gate = None
        if bundle.manifest.gate:
            from .gate import FILE, read_gate

            self._gate = read_gate(bundle.manifest.gate, bundle.read(FILE))

    def of_picture(self, image: RGB) -> "Quality | None":
        """Return the quality of a source image; None where the bundle has no limits for it."""
        if not self._limits:
            return None
        from .quality import judge, measure  # SciPy: only for bundles that need it

        return judge(measure(image), self._limits)

    def of_cell(self, embedding: NDArray[np.float32]) -> str:
        """Return why a cell with this embedding (channels,) is too unlike the training cells, or ''."""
        if self._gate is None:
            return ""
        from .gate import why_far

        return why_far(float(self._gate.distances(embedding[None])[0]))

    def of_decision(self, probabilities: Floats, *, called: int) -> str:
        """Return why a cell with these probabilities (classes,) must not be called this class, or ''.

        The conformal rule must find this class plausible and no other: then its promise holds at every operating
        point, since an operating point can only add doubt.
        """
        if not self._conformal:
            return ""
        from .conformal import plausible_classes, why_unsure

        plausible = plausible_classes(probabilities[None], self._conformal)[0]
        if plausible.sum() != 1:
            return why_unsure(plausible, self._classes)
        only = int(plausible.argmax())
        if only != called:
            return (
                f"Only {self._classes[only]} is plausible, but this operating point calls it {self._classes[called]}."
            )
        return ""
