"""What one space's latents say: statistics, information, rank, spectra, probes, consistency, semantic likeness."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reals.evaluation.bootstrap import Estimate
from reals.latents.align import CONFIG_NAME as HEADS_NAME
from reals.latents.align import AlignHeads
from reals.latents.analysis.augmentations import AUGMENTATIONS
from reals.latents.analysis.consistency import position_share, semantic_consistency
from reals.latents.analysis.information import dead_channels, kl_per_channel, signal_share
from reals.latents.analysis.probes import flat, knn_accuracy, linear_probe, pooled
from reals.latents.analysis.rank import cells, covariance_rank
from reals.latents.analysis.similarity import linear_cka
from reals.latents.analysis.spectrum import radial_spectrum, spectral_slope, white_noise_share
from reals.models.autoencoder import AutoencoderKL, decode, load_autoencoder, posterior
from reals.models.semantic import Features
from reals.recipes.analysis_panel import Panel
from reals.recipes.spaces import Space
from reals.runtime import interrupt
from reals.runtime.pixels import to_pixels, to_uint8
from reals.runtime.progress import progress
from reals.runtime.seed import derive_seed

# Beyond this many vectors the eigenvalues of their Gram matrix would take minutes.
_RANK_VECTORS = 2_000


@dataclass
class Findings:
    """What is measured of one space."""

    measured: dict[str, Estimate] = field(default_factory=dict)
    """Named numbers; one without replicates has no interval."""
    curves: dict[str, Any] = field(default_factory=dict)
    """Lists to be drawn."""
    not_measured: dict[str, str] = field(default_factory=dict)
    """Names of what could not be measured, with the reason."""


class Subject:
    """One space at work: its autoencoder, and the posterior of the panel's photos. Latents are raw throughout."""

    def __init__(self, space: Space, panel: Panel):
        self.space, self.panel, self.device = space, panel, panel.device
        self.autoencoder: AutoencoderKL = load_autoencoder(space.path)
        torch.nn.Module.to(self.autoencoder, self.device)
        torch.nn.Module.requires_grad_(self.autoencoder, False)
        self.means, self.log_variances = self.posteriors(panel.images)

    @property
    def samples(self) -> np.ndarray:
        """One posterior sample of each photo, the same noise in every space of the same shape."""
        generator = np.random.default_rng(derive_seed(self.panel.config.seed, "posterior samples"))
        noise = generator.standard_normal(self.means.shape, dtype=np.float32)
        return self.means + np.exp(0.5 * self.log_variances) * noise

    def posteriors(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return posterior means and log-variances of images, float32."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        with progress("Encode", len(images), "images") as bar, torch.inference_mode():
            for start in range(0, len(images), self.panel.at_once):
                interrupt.stop_if_requested("while encoding")
                pixels = to_pixels(images[start : start + self.panel.at_once]).to(self.device)
                mean, log_variance = posterior(self.autoencoder, pixels)
                found.append((mean.cpu().numpy(), log_variance.cpu().numpy()))
                bar.advance(len(pixels))
        means, log_variances = zip(*found, strict=True)
        return np.concatenate(means), np.concatenate(log_variances)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the posterior mean of pixels, on the CPU."""
        with torch.inference_mode():
            return posterior(self.autoencoder, pixels.to(self.device))[0].float().cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of raw latents, on the CPU."""
        with torch.inference_mode():
            return decode(self.autoencoder, latents.to(self.device)).float().cpu()

    def decode_all(self, latents: np.ndarray, description: str) -> np.ndarray:
        """Return the images of raw latents as bytes."""
        parts = []
        with progress(description, len(latents), "images") as bar:
            for start in range(0, len(latents), self.panel.at_once):
                interrupt.stop_if_requested("while decoding")
                parts.append(to_uint8(self.decode(torch.from_numpy(latents[start : start + self.panel.at_once]))))
                bar.advance(len(parts[-1]))
        return np.concatenate(parts)


def measure_latents(subject: Subject, findings: Findings) -> None:
    """Measure everything that needs no decoder."""
    for measure in (_statistics, _information, _ranks, _spectra, _probes, _consistency, _semantics):
        interrupt.stop_if_requested("while measuring latents")
        measure(subject, findings)


def _statistics(subject: Subject, findings: Findings) -> None:
    """Table 10 of the paper: of posterior samples, all elements together."""
    panel, rows = subject.panel, subject.samples.reshape(len(subject.means), -1).astype(np.float64)
    first, second = panel.mean(rows.mean(1)), panel.mean(np.square(rows).mean(1))
    spread = second.replicates - np.square(first.replicates)
    findings.measured |= {
        "latents/mean": first,
        "latents/std": Estimate(float(np.sqrt(second.value - first.value**2)), np.sqrt(spread)),
        "latents/min": panel.exact(rows.min()),
        "latents/max": panel.exact(rows.max()),
        "latents/position_share": panel.exact(position_share(subject.means)),
    }


def _information(subject: Subject, findings: Findings) -> None:
    kl = kl_per_channel(subject.means, subject.log_variances)
    dead = dead_channels(subject.means, subject.log_variances)
    findings.measured |= {
        "latents/kl": subject.panel.mean(kl.sum(1)),
        "latents/dead_channels": subject.panel.exact(int(dead.sum())),
        "latents/dead_share": subject.panel.exact(float(dead.mean())),
    }
    findings.curves["channels"] = {
        "kl": [subject.panel.mean(channel).to_dict() for channel in kl.T],
        "signal_share": signal_share(subject.means, subject.log_variances).tolist(),
        "dead": dead.tolist(),
    }


def _ranks(subject: Subject, findings: Findings) -> None:
    """Ranks of posterior means: the noise of samples would fill every direction."""
    vectors = {
        "cells": cells(subject.means),
        "pooled": pooled(subject.means),
        "flat": flat(subject.means)[:_RANK_VECTORS],
    }
    for name, values in vectors.items():
        rank = covariance_rank(values)
        findings.measured |= {
            f"rank/{name}": subject.panel.exact(rank.effective),
            f"rank/{name}_participation": subject.panel.exact(rank.participation),
            f"rank/{name}_share": subject.panel.exact(rank.effective / rank.ceiling),
        }


def _spectra(subject: Subject, findings: Findings) -> None:
    """Of samples, which a generator has to make, with and without the template, which is easily learnt; of means."""
    rows, columns = subject.means.shape[2:]
    curves: dict[str, Any] = {"white_noise_share": white_noise_share(rows, columns)}
    kinds = {
        "": ("samples", subject.samples),
        "_centred": ("centred", subject.samples - subject.means.mean(0)),
        "_of_means": ("means", subject.means),
    }
    for suffix, (curve, latents) in kinds.items():
        spectrum = radial_spectrum(latents)
        findings.measured[f"spectrum/high_share{suffix}"] = subject.panel.mean(spectrum.high_share)
        if (spectrum.frequencies <= 0.5 + 1e-9).sum() > 1:
            findings.measured[f"spectrum/slope{suffix}"] = subject.panel.exact(spectral_slope(spectrum))
        curves["frequencies"] = spectrum.frequencies.tolist()
        curves[curve] = spectrum.power.mean(0).tolist()
    findings.curves["spectrum"] = curves


def _probes(subject: Subject, findings: Findings) -> None:
    panel = subject.panel
    if not panel.store.labelled:
        reason = "the photos have no classes"
        findings.not_measured |= {"latents/knn_accuracy": reason, "latents/linear_probe_accuracy": reason}
        return
    train, _ = subject.posteriors(panel.store.load(panel.probe_rows))
    seen, unseen = panel.store.labels[panel.probe_rows], panel.labels
    views: dict[str, Callable[[np.ndarray], np.ndarray]] = {"": flat, "_pooled": pooled}
    for suffix, view in views.items():
        fitted, judged = view(train), view(subject.means)
        interrupt.stop_if_requested("while fitting probes")
        findings.measured |= {
            f"latents/knn_accuracy{suffix}": panel.mean(knn_accuracy(fitted, seen, judged, unseen)),
            f"latents/linear_probe_accuracy{suffix}": panel.mean(linear_probe(fitted, seen, judged, unseen)),
        }


def _consistency(subject: Subject, findings: Findings) -> None:
    panel = subject.panel
    images = panel.images[: panel.config.consistency_images]
    for name, augmentation in AUGMENTATIONS.items():
        seed = derive_seed(panel.config.seed, "semantic consistency", name)
        result = semantic_consistency(
            subject.encode, images, augmentation, seed=seed, batch_size=min(64, panel.at_once)
        )
        for part in ("raw", "raw_between", "centred", "centred_between"):
            findings.measured[f"semantic_consistency/{name}/{part}"] = panel.mean(getattr(result, part))


def _semantics(subject: Subject, findings: Findings) -> None:
    """Likeness of latents to the encoder's features: CKA for every space, predicted features where there are heads."""
    panel, rows_columns = subject.panel, subject.means.shape[2:]
    view = panel.encoder_view((rows_columns[0], rows_columns[1]))
    latents = subject.means[: len(view.patch)]
    chosen = latents.reshape(*latents.shape[:2], -1)[:, :, view.cells].transpose(0, 2, 1)
    likeness = {
        "patch": (chosen, view.patch),
        # Features, too, differ between the border and the centre of any image.
        "patch_centred": (chosen - chosen.mean(0), view.patch - view.patch.mean(0)),
    }
    for name, (ours, theirs) in likeness.items():
        value = linear_cka(ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1]))
        findings.measured[f"semantic/cka_{name}"] = panel.exact(value)
    findings.measured["semantic/cka_pooled"] = panel.exact(linear_cka(pooled(latents), view.pooled))
    _predictions(subject, findings, latents)


def _predictions(subject: Subject, findings: Findings, latents: np.ndarray) -> None:
    panel = subject.panel
    view = panel.encoder_view((latents.shape[2], latents.shape[3]))
    names = ("semantic/patch_cosine", "semantic/pooled_cosine")
    if not (subject.space.path / HEADS_NAME).exists():
        findings.not_measured |= dict.fromkeys(names, "no alignment heads lie beside the autoencoder")
        return
    heads = AlignHeads.load(subject.space.path)
    if (len(heads.patch_mean), len(heads.pooled_mean)) != (view.patch.shape[-1], view.pooled.shape[-1]):
        reason = f"its alignment heads predict another encoder's features than {panel.encoder.name}'s"
        findings.not_measured |= dict.fromkeys(names, reason)
        return
    true = heads.standardise(Features(torch.from_numpy(view.patch)[:, :, None], torch.from_numpy(view.pooled)))
    raw = torch.from_numpy(latents)
    with torch.inference_mode():
        if heads.patch_head is not None:
            predicted = heads.patch(raw).flatten(1, 2)[:, torch.from_numpy(view.cells)]
            cosine = functional.cosine_similarity(predicted, true.patch[:, :, 0], dim=-1).mean(1)
            findings.measured[names[0]] = panel.mean(cosine.numpy())
        if heads.pooled_head is not None:
            cosine = functional.cosine_similarity(heads.pooled(raw), true.pooled, dim=-1)
            findings.measured[names[1]] = panel.mean(cosine.numpy())
