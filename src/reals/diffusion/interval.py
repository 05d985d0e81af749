"""Between which times a network is trained, and its field integrated: [0, 1] less a margin where something is infinite.

The rules are SiT's (``Transport.check_interval``). The velocity of the linear and of the circular path is finite
everywhere and needs no margin. Elsewhere one is kept from the data, and from the noise if the path's α vanishes there,
which conversions of scores and of noise divide by.
"""

import torch

from reals.diffusion.interpolant import Interpolant
from reals.diffusion.prediction import Prediction, VelocityPrediction

_MARGIN = 1e-3
_MARGIN_OF_TRAINING_ON_STEEP_PATHS = 1e-5


def training_interval(
    interpolant: Interpolant, prediction: Prediction, margin: float | None = None
) -> tuple[float, float]:
    """Return the first and the last time to train at.

    Args:
        interpolant: the path.
        prediction: what the network predicts.
        margin: distance to keep from the ends, or None for SiT's: 1e-5 if σ' is infinite at the data (VP), 1e-3 for
            scores and noise on other paths, 0 for velocities on them.

    Raises:
        ValueError: the margin leaves nothing, or is 0 where something is infinite.
    """
    usual = _MARGIN_OF_TRAINING_ON_STEEP_PATHS if _steep(interpolant) else _MARGIN
    return _interval(interpolant, prediction, margin, usual, "train_margin")


def sampling_interval(
    interpolant: Interpolant, prediction: Prediction, margin: float | None = None
) -> tuple[float, float]:
    """Return the first and the last time at which the field may be evaluated when samples are made.

    Args:
        interpolant: the path.
        prediction: what the network predicts.
        margin: distance to keep from the ends, or None for SiT's: 0 for velocities on paths of finite slope, else 1e-3.

    Raises:
        ValueError: the margin leaves nothing, or is 0 where something is infinite.
    """
    return _interval(interpolant, prediction, margin, _MARGIN, "sample_margin")


def _interval(
    interpolant: Interpolant, prediction: Prediction, margin: float | None, usual: float, name: str
) -> tuple[float, float]:
    needed = _steep(interpolant) or not isinstance(prediction, VelocityPrediction)
    if margin is None:
        margin = usual if needed else 0.0
    if not 0.0 <= margin < 0.5:
        raise ValueError(f"{name} is {margin}; it must lie from 0 to less than 0.5")
    if needed and margin == 0.0:
        raise ValueError(
            f"{name} is 0, but a {type(prediction).__name__} on the path {type(interpolant).__name__} is infinite at "
            f"an end; use {usual:g}"
        )
    beginning = torch.zeros(1, dtype=torch.float64, device="cpu")
    return (margin if interpolant.alpha(beginning).item() == 0.0 else 0.0), 1.0 - margin


def _steep(interpolant: Interpolant) -> bool:
    """Return whether the velocity itself is infinite at the data."""
    return not interpolant.sigma_derivative(torch.ones(1, dtype=torch.float64, device="cpu")).isfinite().all()
