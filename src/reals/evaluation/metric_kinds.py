"""What kinds of metrics ``reals evaluate`` has: which direction is better, and what two values must share to compare.

A metric is named ``KIND``, or ``KIND/NETWORK`` in the features of another network than FID's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class MetricKind:
    """What decides a metric's value besides the samples."""

    higher_is_better: bool
    gaussian: bool = False
    """Compares Gaussians, so that FID's network takes statistics stored in a file for those of its images."""
    reference: bool = True
    """Compares with a reference."""
    network: bool = True
    """Sees images through a network's features."""
    rounded: bool = False
    """Compares distances that ADM rounds to float16."""
    lowest: float = -inf
    """No true value is below; estimates without bias may be, and have no such bound."""
    highest: float = inf
    """No true value is above."""


_FRECHET = MetricKind(higher_is_better=False, gaussian=True, lowest=0.0)
_EXTRAPOLATED = MetricKind(higher_is_better=False, gaussian=True)
_KERNEL = MetricKind(higher_is_better=False)
_ROUNDED_SHARE = MetricKind(higher_is_better=True, rounded=True, lowest=0.0, highest=1.0)
_OF_GENERATED = {
    **dict.fromkeys(("fid", "sfid", "fd"), _FRECHET),
    **dict.fromkeys(("fid_infinity", "fd_infinity"), _EXTRAPOLATED),
}

KINDS: Mapping[str, MetricKind] = {
    "inception_score": MetricKind(higher_is_better=True, reference=False, lowest=1.0),
    **_OF_GENERATED,
    **{f"r{name}": kind for name, kind in _OF_GENERATED.items()},
    "precision": _ROUNDED_SHARE,
    "recall": _ROUNDED_SHARE,
    "kid": _KERNEL,
    "kd": _KERNEL,
    "cmmd": _KERNEL,
    "density": MetricKind(higher_is_better=True, lowest=0.0),
    "coverage": MetricKind(higher_is_better=True, lowest=0.0, highest=1.0),
    "copied": MetricKind(higher_is_better=False, lowest=0.0, highest=1.0),
    "psnr": MetricKind(higher_is_better=True, network=False),
    "ssim": MetricKind(higher_is_better=True, network=False, highest=1.0),
    "lpips": MetricKind(higher_is_better=False, network=False, lowest=0.0),
}


def split_name(metric: str) -> tuple[MetricKind, str, str]:
    """Return a metric's kind, its kind's name and the network's, which is empty for FID's.

    Raises:
        KeyError: there is no such kind.
    """
    name, _, network = metric.partition("/")
    return KINDS[name], name, network


def of_reconstructions(metric: str) -> str:
    """Return what a metric is called where samples are reconstructions: ``rfid`` instead of ``fid``."""
    name = metric.partition("/")[0]
    return f"r{metric}" if name in _OF_GENERATED else metric
