"""What kinds of metrics ``reals evaluate`` has: which direction is better, and what two values must share to compare.

A metric is named ``KIND``, or ``KIND/NETWORK`` in the features of another network than FID's.
"""

from collections.abc import Mapping
from dataclasses import dataclass


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


_LOWER, _HIGHER = MetricKind(higher_is_better=False), MetricKind(higher_is_better=True)
_FRECHET = MetricKind(higher_is_better=False, gaussian=True)
_OF_GENERATED = {kind: _FRECHET for kind in ("fid", "sfid", "fd", "fid_infinity", "fd_infinity")}

KINDS: Mapping[str, MetricKind] = {
    "inception_score": MetricKind(higher_is_better=True, reference=False),
    **_OF_GENERATED,
    **{f"r{kind}": _FRECHET for kind in _OF_GENERATED},
    "precision": MetricKind(higher_is_better=True, rounded=True),
    "recall": MetricKind(higher_is_better=True, rounded=True),
    "kid": _LOWER,
    "kd": _LOWER,
    "cmmd": _LOWER,
    "density": _HIGHER,
    "coverage": _HIGHER,
    "copied": _LOWER,
    "psnr": MetricKind(higher_is_better=True, network=False),
    "ssim": MetricKind(higher_is_better=True, network=False),
    "lpips": MetricKind(higher_is_better=False, network=False),
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
