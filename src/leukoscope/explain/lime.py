"""LIME: hide random sets of patches, and fit the plainest model of how that moves the log-odds.

Source: Ribeiro, Singh & Guestrin, "Why Should I Trust You?", 2016, doi 10.1145/2939672.2939778.
"""

import numpy as np
from sklearn.linear_model import Ridge

from ..data.images import RGB
from .fading import without
from .heat import BATCH, Heat, Predict, log_odds
from .superpixels import superpixels

_WIDTH = 0.25  # of the kernel on the cosine distance to the whole cell, as in the authors' program
_RIDGE = 1.0  # as there


def lime(
    predict: Predict, crop: RGB, *, target: int, rng: np.random.Generator, samples: int = 300, count: int = 30
) -> Heat:
    """Return how much each patch, by being there, adds to the log-odds of `target`; zero outside the cell.

    samples: how many sets of patches are hidden; count: how many patches.
    """
    patches = superpixels(crop, count=count)
    number = int(patches.max()) + 1
    if not number:
        return np.zeros(patches.shape, dtype=np.float32)
    there = rng.integers(0, 2, (samples, number)).astype(bool)
    there[0] = True
    hidden = np.column_stack([~there, np.zeros(samples, dtype=bool)])  # the last column answers for outside, patch -1
    said = [
        log_odds(predict, without(crop, hidden[start : start + BATCH][:, patches]), target=target)
        for start in range(0, samples, BATCH)
    ]
    distance = 1 - np.sqrt(there.mean(axis=1))  # cosine distance between a set and the whole
    fitted = Ridge(alpha=_RIDGE).fit(there, np.concatenate(said), sample_weight=np.exp(-((distance / _WIDTH) ** 2)))
    return np.append(fitted.coef_, 0.0)[patches].astype(np.float32)
