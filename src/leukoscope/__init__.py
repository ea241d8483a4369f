"""leukoscope distinguishes leukemia blasts from normal blood-cell precursors in microscope images. Research use only.

What is listed in `__all__` is documented, typed and stable; everything else is private. Importing the package does
nothing: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors as errors
    from . import survival as survival
    from .api import adapt as adapt
    from .api import compare as compare
    from .api import explain as explain
    from .api import export as export
    from .api import find_cells as find_cells
    from .api import predict as predict
    from .api import run as run
    from .inference.opinions import Opinion as Opinion
    from .inference.opinions import Opinions as Opinions
    from .inference.predictor import Predictor as Predictor
    from .inference.predictor import load as load

    __version__: str

__all__ = [
    "Opinion",
    "Opinions",
    "Predictor",
    "__version__",
    "adapt",
    "compare",
    "errors",
    "explain",
    "export",
    "find_cells",
    "load",
    "predict",
    "run",
    "survival",
]

_MODULES = ("errors", "survival")
_ELSEWHERE = {
    "Opinion": ".inference.opinions",
    "Opinions": ".inference.opinions",
    "Predictor": ".inference.predictor",
    "load": ".inference.predictor",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'leukoscope' has no attribute '{name}'")
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("leukoscope")
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    else:
        value = getattr(import_module(_ELSEWHERE.get(name, ".api"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
