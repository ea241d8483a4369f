"""Fixtures that several packages share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Shared machines are slow at times: a law is broken by a counterexample, never by a clock.
settings.register_profile("leukoscope", deadline=None)
settings.load_profile("leukoscope")

SHARED = Path(os.environ.get("LEUKOSCOPE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and tables; tests that need it are skipped, and say so, where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data not found at {SHARED}/data (set LEUKOSCOPE_SHARED)")
    return SHARED / "data"


# Needs TensorFlow, which no test does: it wrote the golden numbers once.
collect_ignore = ["golden/make_keras_golden.py"]
