"""A finished run becomes a bundle: PyTorch's side of it."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from ..artifacts import provenance, read_json, record_stage
from ..config import Experiment
from ..errors import CallError, DataError
from ..evaluation.calibration import Calibration, fit_thresholds
from ..evaluation.evaluate import Evidence, gather
from ..inference.bundle import Bundle, Manifest, Member, SubjectFigures, write_bundle
