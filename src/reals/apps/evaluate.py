"""``reals evaluate``: how far a set of samples is from a reference set, with intervals and the protocol used."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from reals import __version__
from reals.evaluation.bootstrap import LEVEL, REPLICATES, Estimate, mean_estimate
from reals.evaluation.frechet import ResampledGaussians, frechet_estimate
from reals.evaluation.image_sets import ImageSet, open_images
from reals.evaluation.networks import FeatureNetwork, extract, lite_features
from reals.evaluation.precision_recall import NEIGHBOURS, precision_recall
from reals.runtime.errors import UserError
from reals.runtime.io import write_json
from reals.runtime.progress import say

COMFORTABLE_COUNT = 10_000
"""Below this many images, Fréchet distances depend visibly on the number of images."""

NO_FID = (
    "fid, sfid and inception score need the weights of the 2015 FID Inception network, which this version does not "
    "read; fd/NETWORK is a Fréchet distance in another network's features and cannot be compared with published FIDs"
)

_BATCH_SIZE = 128


def evaluate(
    reference: str,
    samples: str,
    *,
    output: Path | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
    network: FeatureNetwork | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Compare samples with a reference; both are a folder, a zip of images, or a ``.npz`` in ADM's layout.

    Returns ``{"metrics": {name: {value, low, high}}, "warnings": [...], "protocol": {...}}`` and writes it as JSON to
    ``output`` if given. Metrics are ``fd/NETWORK`` (Fréchet distance), ``precision/NETWORK`` and ``recall/NETWORK``;
    intervals are 95 % bootstrap intervals over the images of both sets. ``network`` is EfficientNet-Lite0 unless given.

    Raises:
        UserError: a set cannot be read, is too small, mixes image sizes, or the two sets have different sizes.
        Interrupted: a signal asked the process to stop; nothing is written.
    """
    if replicates < 2:
        raise UserError(f"--replicates {replicates}: an interval needs at least 2")
    sets = {"reference": open_images(reference), "samples": open_images(samples)}
    _check(sets)
    first = sets["reference"]
    network = lite_features(min(first.height, first.width), device) if network is None else network
    features = {
        role: extract(network, images.blocks(_BATCH_SIZE), total=len(images), batch_size=_BATCH_SIZE)
        for role, images in sets.items()
    }
    warnings = _warnings(sets, network)
    for warning in warnings:
        say(f"warning: {warning}")
    gaussians = {
        role: ResampledGaussians.fit(values, role=role, replicates=replicates, seed=seed)
        for role, values in features.items()
    }
    manifolds = precision_recall(features["reference"], features["samples"])
    estimates = {
        f"fd/{network.name}": frechet_estimate(gaussians["reference"], gaussians["samples"]),
        f"precision/{network.name}": mean_estimate(
            manifolds.sample_inside, replicates=replicates, role="samples", seed=seed
        ),
        f"recall/{network.name}": mean_estimate(
            manifolds.reference_inside, replicates=replicates, role="reference", seed=seed
        ),
    }
    result = _result(estimates, warnings, _protocol(sets, network, seed, replicates))
    if output is not None:
        write_json(output, result)
    return result


def _check(sets: Mapping[str, ImageSet]) -> None:
    for images in sets.values():
        if len(images) <= NEIGHBOURS:
            raise UserError(f"{images.location}: holds {len(images)} images; give at least {NEIGHBOURS + 1}")
    reference, samples = sets["reference"], sets["samples"]
    if (reference.height, reference.width) != (samples.height, samples.width):
        raise UserError(
            f"{reference.location} has images of {reference.width}x{reference.height}, {samples.location} of "
            f"{samples.width}x{samples.height}; bring both to one size first"
        )


def _warnings(sets: Mapping[str, ImageSet], network: FeatureNetwork) -> list[str]:
    """Return one line for each reason to distrust the numbers; called after both sets have been read."""
    warnings = []
    for role, images in sets.items():
        if len(images) < network.dimension + 1:
            warnings.append(
                f"{role}: {len(images)} images leave the covariance of {network.dimension} features rank-deficient; "
                f"the Fréchet distance needs at least {network.dimension + 1} to mean anything"
            )
        elif len(images) < COMFORTABLE_COUNT:
            warnings.append(
                f"{role}: {len(images)} images, fewer than {COMFORTABLE_COUNT}; the Fréchet distance is biased "
                "upwards, compare it only with numbers of equally many images"
            )
    if sets["reference"].fingerprint() == sets["samples"].fingerprint():
        warnings.append("reference and samples hold the same images")
    return warnings


def _protocol(sets: Mapping[str, ImageSet], network: FeatureNetwork, seed: int, replicates: int) -> dict[str, Any]:
    """Return what somebody needs to know to reproduce the numbers or to refuse a comparison with others."""
    described = {
        role: {
            "location": images.location,
            "images": len(images),
            "size": f"{images.width}x{images.height}",
            "sha256": images.fingerprint(),
        }
        for role, images in sets.items()
    }
    return {
        **described,
        "network": {
            "name": network.name,
            "dimension": network.dimension,
            "sha256": network.fingerprint,
            "resize": network.resize,
        },
        "frechet": "means and covariances (divisor n - 1) in float64, symmetric eigenvalue form",
        "precision_recall": f"Kynkäänniemi et al. 2019, k = {NEIGHBOURS}, exact, all images of both sets",
        "intervals": {
            "level": LEVEL,
            "method": "bootstrap over the images of both sets, percentiles shifted to centre on the point estimate",
            "replicates": replicates,
            "seed": seed,
        },
        "not_reported": NO_FID,
        "versions": {
            "reals": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "pillow", "torch")},
        },
    }


def _result(estimates: Mapping[str, Estimate], warnings: list[str], protocol: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: estimate.to_dict() for name, estimate in estimates.items()}
    return {"metrics": metrics, "warnings": warnings, "protocol": protocol}


def render(result: Mapping[str, Any], width: int = 100) -> str:
    """Return an evaluation as a text table followed by what it was measured on."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "95 % interval")
    for name, numbers in result["metrics"].items():
        table.add_row(name, f"{numbers['value']:.4g}", f"{numbers['low']:.4g} – {numbers['high']:.4g}")
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
        for role in ("reference", "samples"):
            images = result["protocol"][role]
            console.print(
                f"{role}: {images['images']} images of {images['size']}, {images['location']}",
                soft_wrap=True,
                markup=False,
            )
        console.print(f"not reported: {result['protocol']['not_reported']}", soft_wrap=True, markup=False)
    return capture.get().rstrip("\n")
