"""leukoscope tells leukemia blasts from normal blood-cell precursors in microscope images. Research use only."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.predictor import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is asked for, so that importing the package does nothing."""
    if name == "load":
        from .inference.predictor import load

        return load
    raise AttributeError(f"module 'leukoscope' has no attribute '{name}'")
