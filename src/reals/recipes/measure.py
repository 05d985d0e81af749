"""What one arm's autoencoder and generator are worth: every measurement with its bootstrap replicates."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from reals.apps.grid import image_grid, save_png
from reals.data.store import ImageStore
from reals.evaluation.bootstrap import Estimate, mean_estimate
from reals.evaluation.classifier import PhotoClassifier, class_agreement
from reals.evaluation.frechet import ResampledGaussians, frechet_estimate
from reals.evaluation.image_sets import open_images
from reals.evaluation.networks import FeatureNetwork, extract
from reals.evaluation.precision_recall import precision_recall
from reals.evaluation.reconstruction import psnr, ssim
from reals.latents.analysis.augmentations import AllAugmentations
from reals.latents.analysis.consistency import position_share, semantic_consistency
from reals.latents.analysis.probes import flat, knn_accuracy, linear_probe, pooled
from reals.latents.codec import LatentCodec
from reals.models.autoencoder import posterior
from reals.recipes.schema import Recipe
from reals.recipes.workspace import ArmDirectory, RunDirectory
from reals.runtime import interrupt
from reals.runtime.io import read_json, write_json
from reals.runtime.memory import images_at_once
from reals.runtime.pixels import to_pixels, to_uint8
from reals.runtime.progress import progress
from reals.runtime.seed import derive_seed

Measurements = dict[str, Estimate]
"""Named measurements; one without replicates (an extreme, say) has no interval."""

_BATCH = 250
_SHOWN = 32


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """One set of images as a network sees it."""

    features: np.ndarray
    gaussians: ResampledGaussians


class Judges:
    """What all arms are judged by: the same photos, networks and reference features, computed once."""

    def __init__(self, recipe: Recipe, store: ImageStore, networks: tuple[FeatureNetwork, ...]):
        self.recipe = recipe
        self.store = store
        self.networks = networks
        self.replicates = recipe.evaluation.replicates
        self.held_out = self._choose(store.held_out, recipe.evaluation.held_out_images, "held-out")
        self.probe_rows = self._choose(store.train, recipe.evaluation.probe_images, "probe")
        self.reference_rows = self._choose(store.train, recipe.evaluation.reference_images, "reference")

    def _choose(self, rows: np.ndarray, count: int, purpose: str) -> np.ndarray:
        """Return a random subset: photos in class folders are sorted by class, so the first ones will not do."""
        generator = np.random.default_rng(derive_seed(self.recipe.seed, "subset", purpose))
        return generator.permutation(rows)[:count]

    @cached_property
    def reference_hash(self) -> str:
        """SHA-256 of the reference images' bytes, in order."""
        return hashlib.sha256(self.store.load(self.reference_rows).tobytes()).hexdigest()

    @cached_property
    def held_out_images(self) -> np.ndarray:
        """The held-out photos, uint8 NHWC."""
        return self.store.load(self.held_out)

    @cached_property
    def reference(self) -> dict[str, FeatureSet]:
        """The reference photos' features, by network."""
        images = self.store.load(self.reference_rows)
        return {network.name: self.features(network, images, role="reference") for network in self.networks}

    @cached_property
    def real(self) -> Measurements:
        """Held-out photos against the reference: what a perfect generator would score with as many samples."""
        return self.distances("real", {n.name: self.features(n, self.held_out_images) for n in self.networks})

    def features(self, network: FeatureNetwork, images: np.ndarray, role: str = "samples") -> FeatureSet:
        """Look at images through a network and resample what it sees."""
        features = extract(network, images)
        return FeatureSet(features, ResampledGaussians.fit(features, role=role, replicates=self.replicates))

    def distances(self, prefix: str, sets: dict[str, FeatureSet]) -> Measurements:
        """Measure Fréchet distance, precision and recall of a set against the reference, in every network."""
        measured: Measurements = {}
        for name, candidate in sets.items():
            reference = self.reference[name]
            manifold = precision_recall(reference.features, candidate.features)
            measured[f"{prefix}/fd/{name}"] = frechet_estimate(reference.gaussians, candidate.gaussians)
            measured[f"{prefix}/precision/{name}"] = self.mean(
                manifold.sample_inside, more={"reference": manifold.reference_influence}
            )
            measured[f"{prefix}/recall/{name}"] = self.mean(
                manifold.reference_inside, role="reference", more={"samples": manifold.sample_influence}
            )
        return measured

    def mean(self, values: np.ndarray, role: str = "samples", more: Mapping[str, np.ndarray] | None = None) -> Estimate:
        """Estimate the mean of per-item values; ``more`` as in :func:`reals.evaluation.bootstrap.mean_estimate`."""
        return mean_estimate(values, replicates=self.replicates, role=role, more=more)


def measure_arm(judges: Judges, run: RunDirectory, arm: ArmDirectory, device: torch.device) -> Measurements:
    """Measure an arm, or read its measurements if they are there."""
    if arm.estimates.exists():
        return read_estimates(arm.estimates)
    codec = LatentCodec.from_directory(arm.autoencoder, device)
    measured, reconstructions = _measure_reconstruction(judges, codec)
    _draw(run.originals, judges.held_out_images)
    _draw(arm.reconstructions, reconstructions)
    measured |= _measure_latents(judges, codec)
    measured |= _measure_consistency(judges, codec)
    rebuilt = {n.name: judges.features(n, reconstructions, role="reconstructions") for n in judges.networks}
    measured |= judges.real
    measured |= judges.distances("reconstructions", rebuilt)
    for scale in judges.recipe.sampling.scales(labelled=judges.store.labelled):
        measured |= _measure_samples(judges, arm.samples(scale), f"samples/guidance-{scale:g}", rebuilt)
    write_estimates(arm.estimates, measured)
    return measured


def _measure_reconstruction(judges: Judges, codec: LatentCodec) -> tuple[Measurements, np.ndarray]:
    """Decode the posterior means of the held-out photos and compare."""
    images = judges.held_out_images
    quality: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": []}
    rebuilt = np.empty_like(images)
    at_once = images_at_once(images.shape[1], _BATCH)
    with progress("Reconstruct held-out photos", len(images), "images") as bar:
        for start in range(0, len(images), at_once):
            interrupt.stop_if_requested("while measuring reconstruction")
            pixels = to_pixels(images[start : start + at_once]).to(codec.device)
            with torch.inference_mode():
                mean, _ = posterior(codec.autoencoder, pixels)
                decoded = codec.decode(codec.normalisation.normalise(mean)).float().cpu()
            rebuilt[start : start + len(decoded)] = to_uint8(decoded)
            shown = to_pixels(rebuilt[start : start + len(decoded)]).to(codec.device)
            quality["psnr"].append(psnr(pixels, shown))
            quality["ssim"].append(ssim(pixels, shown))
            bar.advance(len(decoded))
    measured = {f"reconstruction/{name}": judges.mean(np.concatenate(parts)) for name, parts in quality.items()}
    return measured, rebuilt


def _posteriors(codec: LatentCodec, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return raw posterior means and log-variances of images, float32."""
    means, log_variances = [], []
    at_once = images_at_once(images.shape[1], _BATCH)
    with progress("Encode for measuring", len(images), "images") as bar, torch.inference_mode():
        for start in range(0, len(images), at_once):
            interrupt.stop_if_requested("while measuring latents")
            mean, log_variance = posterior(
                codec.autoencoder, to_pixels(images[start : start + at_once]).to(codec.device)
            )
            means.append(mean.float().cpu().numpy())
            log_variances.append(log_variance.float().cpu().numpy())
            bar.advance(len(mean))
    return np.concatenate(means), np.concatenate(log_variances)


def _measure_latents(judges: Judges, codec: LatentCodec) -> Measurements:
    """Measure the raw posterior's moments and KL, and what classifiers read from its mean."""
    means, log_variances = _posteriors(codec, judges.held_out_images)
    generator = np.random.default_rng(derive_seed(judges.recipe.seed, "latent statistics"))
    samples = means + np.exp(0.5 * log_variances) * generator.standard_normal(means.shape, dtype=np.float32)
    rows = samples.reshape(len(samples), -1).astype(np.float64)
    first, second = judges.mean(rows.mean(1)), judges.mean(np.square(rows).mean(1))
    kl = 0.5 * (np.square(means) + np.exp(log_variances) - 1.0 - log_variances).reshape(len(means), -1).sum(1)
    nothing = np.full(judges.replicates, np.nan)
    measured = {
        "latents/mean": first,
        "latents/std": Estimate(
            float(np.sqrt(second.value - first.value**2)), np.sqrt(second.replicates - np.square(first.replicates))
        ),
        "latents/min": Estimate(float(rows.min()), nothing),
        "latents/max": Estimate(float(rows.max()), nothing),
        "latents/kl": judges.mean(kl),
        "latents/position_share": Estimate(position_share(means), nothing),
    }
    if judges.store.labelled:
        fitted, _ = _posteriors(codec, judges.store.load(judges.probe_rows))
        measured |= _measure_probes(judges, fitted, means)
    return measured


def _measure_probes(judges: Judges, train: np.ndarray, test: np.ndarray) -> Measurements:
    train_labels, test_labels = judges.store.labels[judges.probe_rows], judges.store.labels[judges.held_out]
    views: dict[str, Callable[[np.ndarray], np.ndarray]] = {"": flat, "_pooled": pooled}
    measured: Measurements = {}
    for suffix, view in views.items():
        seen, unseen = view(train), view(test)
        measured[f"latents/knn_accuracy{suffix}"] = judges.mean(knn_accuracy(seen, train_labels, unseen, test_labels))
        measured[f"latents/linear_probe_accuracy{suffix}"] = judges.mean(
            linear_probe(seen, train_labels, unseen, test_labels)
        )
    return measured


def _measure_consistency(judges: Judges, codec: LatentCodec) -> Measurements:
    """Semantic Consistency under all augmentations together, raw and position-centred."""
    images = judges.held_out_images[: judges.recipe.evaluation.consistency_images]

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return posterior(codec.autoencoder, pixels.to(codec.device))[0].float().cpu()

    seed = derive_seed(judges.recipe.seed, "semantic consistency")
    at_once = images_at_once(images.shape[1], 64)
    result = semantic_consistency(encode, images, AllAugmentations(), seed=seed, batch_size=at_once)
    return {
        "semantic_consistency/raw": judges.mean(result.raw),
        "semantic_consistency/raw_between": judges.mean(result.raw_between),
        "semantic_consistency/centred": judges.mean(result.centred),
        "semantic_consistency/centred_between": judges.mean(result.centred_between),
    }


def _measure_samples(judges: Judges, path: Path, prefix: str, rebuilt: dict[str, FeatureSet]) -> Measurements:
    """Judge generated images against photos, and against what this arm's decoder makes of photos."""
    generated = open_images(str(path))
    images = np.concatenate(list(generated.blocks(_BATCH)))
    sets = {network.name: judges.features(network, images) for network in judges.networks}
    measured = judges.distances(prefix, sets)
    for network in judges.networks:
        measured[f"{prefix}/fd_to_reconstructions/{network.name}"] = frechet_estimate(
            rebuilt[network.name].gaussians, sets[network.name].gaussians
        )
        if isinstance(network, PhotoClassifier) and judges.store.labelled:
            with np.load(path, allow_pickle=False) as archive:
                agrees = class_agreement(network.classify(images), archive["arr_1"])
            measured[f"{prefix}/class_agreement/{network.name}"] = judges.mean(agrees)
    return measured


def _draw(path: Path, images: np.ndarray) -> None:
    save_png(path, image_grid(images[:_SHOWN], columns=8, scale=max(1, 64 // images.shape[1])))


def write_estimates(path: Path, measured: Measurements) -> None:
    """Write measurements with their replicates; a replicate that does not exist is null."""
    values = {
        name: {
            "value": estimate.value,
            "replicates": [None if np.isnan(r) else float(r) for r in estimate.replicates],
            **({"margin": list(estimate.margin)} if any(estimate.margin) else {}),
        }
        for name, estimate in measured.items()
    }
    write_json(path, values)


def read_estimates(path: Path) -> Measurements:
    """Read what :func:`write_estimates` wrote."""
    return {
        name: Estimate(
            entry["value"],
            np.array([np.nan if r is None else r for r in entry["replicates"]]),
            tuple(entry.get("margin", (0.0, 0.0))),
        )
        for name, entry in read_json(path).items()
    }
