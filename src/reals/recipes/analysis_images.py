"""What one space's decoder says: reconstruction, midpoints between latents, equivariance; and the pictures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals.apps.attention import attention_picture, marked_picture, token_cells
from reals.apps.grid import save_png
from reals.evaluation.bootstrap import Estimate
from reals.evaluation.frechet import gaussian_statistics
from reals.evaluation.inception import pool_features
from reals.evaluation.measures import Gaussian, Settings, frechet_with_interval
from reals.evaluation.networks import extract
from reals.evaluation.paired import image_distances
from reals.evaluation.reconstruction import SSIM_WINDOW, psnr, ssim
from reals.latents.analysis.embedding import plane
from reals.latents.analysis.equivariance import TRANSFORMS, Transform, equivariance_error
from reals.latents.analysis.interpolation import midpoints, nearest_partners, random_partners
from reals.latents.analysis.probes import flat
from reals.latents.analysis.similarity import cell_similarity
from reals.recipes.analysis_latents import Findings, Subject
from reals.recipes.analysis_panel import Panel
from reals.runtime import interrupt
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress

# Measures that need weights which may be absent. A number that stands in for one of them keeps its own name.
_NO_LPIPS = {"lpips": "needs VGG16's weights; give them with --lpips"}
_NO_RFID = {"rfid": "needs the FID Inception network's weights; give them with --inception"}


def measure_images(subject: Subject, findings: Findings) -> None:
    """Measure everything that needs the decoder."""
    panel = subject.panel
    findings.not_measured |= (_NO_RFID if panel.inception is None else {}) | (_NO_LPIPS if panel.lpips is None else {})
    rebuilt = subject.decode_all(subject.means, "Reconstruct")
    measure_reconstruction(subject, findings, rebuilt)
    measure_rfid(subject, findings, rebuilt)
    distances = panel.distances(rebuilt)
    findings.measured |= panel.real
    findings.measured |= {f"reconstructions/fd/{name}": estimate for name, estimate in distances.items()}
    _interpolation(subject, findings, distances)
    with progress("Equivariance", len(TRANSFORMS), "transforms") as bar:
        for name, transform in TRANSFORMS.items():
            _equivariance(subject, findings, name, transform)
            bar.advance()


def measure_reconstruction(subject: Subject, findings: Findings, rebuilt: np.ndarray) -> None:
    """Compare reconstructions, uint8, with their photos, pixel by pixel and, where there are weights, by LPIPS."""
    images = subject.panel.images
    measures: dict[str, Callable[[Tensor, Tensor], np.ndarray]] = {"psnr": psnr}
    if min(images.shape[1:3]) >= SSIM_WINDOW:
        measures["ssim"] = ssim
    else:
        findings.not_measured["reconstruction/ssim"] = f"its window is {SSIM_WINDOW} pixels, wider than the photos"
    if (lpips := subject.panel.lpips) is not None:
        measures["lpips"] = partial(image_distances, lpips)
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for start in range(0, len(images), subject.panel.at_once):
        some = slice(start, start + subject.panel.at_once)
        pixels, shown = (to_pixels(array[some]).to(subject.panel.device) for array in (images, rebuilt))
        for name, measure in measures.items():
            found[name].append(measure(pixels, shown))
    for name, parts in found.items():
        findings.measured[f"reconstruction/{name}"] = subject.panel.mean(np.concatenate(parts))


def measure_rfid(subject: Subject, findings: Findings, rebuilt: np.ndarray) -> None:
    """Measure the FID of reconstructions, uint8, against their own photos, if there are weights for it."""
    panel = subject.panel
    if panel.inception is None:
        return
    photos, seen = (
        Gaussian(gaussian_statistics(features), features)
        for features in (panel.inception_features, pool_features(extract(panel.inception, rebuilt)))
    )
    settings = Settings(replicates=panel.config.replicates, paired=True)
    findings.measured["reconstruction/rfid"] = frechet_with_interval(photos, seen, settings)


def _interpolation(subject: Subject, findings: Findings, floor: dict[str, Estimate]) -> None:
    """Distances of decoded midpoints to photos, and how far they lie above those of the reconstructions."""
    partners = {
        "": nearest_partners(subject.means),
        "_random": random_partners(len(subject.means), subject.panel.config.seed),
    }
    for suffix, chosen in partners.items():
        between = subject.decode_all(midpoints(subject.means, chosen), "Decode midpoints")
        for network, distance in subject.panel.distances(between).items():
            excess = Estimate(distance.value - floor[network].value, distance.replicates - floor[network].replicates)
            findings.measured[f"interpolation_fd{suffix}/{network}"] = distance
            findings.measured[f"interpolation_excess{suffix}/{network}"] = excess


def _equivariance(subject: Subject, findings: Findings, name: str, transform: Transform) -> None:
    panel = subject.panel
    rows, columns = subject.means.shape[2:]
    if not (transform.fits(rows) and transform.fits(columns)):
        findings.not_measured[f"equivariance/{name}"] = f"a grid of {rows} x {columns} cells cannot be shrunk so"
        return
    count = min(len(panel.images), panel.config.equivariance_images)
    encoded, transformed, moved, again = [], [], [], []
    for start in range(0, count, panel.at_once):
        interrupt.stop_if_requested("while measuring equivariance")
        block = slice(start, min(start + panel.at_once, count))
        pixels, latents = to_pixels(panel.images[block]), torch.from_numpy(subject.means[block])
        changed = transform(pixels)
        encoded.append(subject.encode(changed))
        transformed.append(transform(latents))
        moved.append(psnr(changed, subject.decode(transformed[-1])))
        again.append(psnr(changed, subject.decode(encoded[-1])))
    errors = equivariance_error(torch.cat(encoded), torch.cat(transformed))
    findings.measured |= {
        f"equivariance/{name}": panel.mean(errors.raw.numpy()),
        f"equivariance_centred/{name}": panel.mean(errors.centred.numpy()),
        f"equivariance_psnr/{name}": panel.mean(np.concatenate(moved)),
        f"equivariance_reencoded_psnr/{name}": panel.mean(np.concatenate(again)),
    }


def draw_map(subject: Subject, findings: Findings) -> None:
    """Add the t-SNE coordinates of the panel's map photos, in the panel's order."""
    panel = subject.panel
    if len(panel.map_rows) < 4:
        findings.not_measured["map"] = "needs at least four labelled held-out photos"
        return
    latents, _ = subject.posteriors(panel.store.load(panel.map_rows))
    points = plane(flat(latents), panel.config.seed)
    findings.curves["map"] = [[round(float(x), 3), round(float(y), 3)] for x, y in points]


def draw_attention(subject: Subject, path: Path) -> None:
    """Draw which cells of a latent resemble a chosen one, without what all latents share at a position."""
    panel = subject.panel
    images = panel.images[: panel.config.attention_images]
    centred = subject.means - subject.means.mean(0)
    rows, columns = subject.means.shape[2:]
    maps = [cell_similarity(centred[: len(images)], *cell) for cell in token_cells(rows, columns)]
    save_png(path, attention_picture(images, maps))


def draw_photos(panel: Panel, path: Path) -> None:
    """Draw the photos of the attention maps with the chosen places marked."""
    save_png(path, marked_picture(panel.images[: panel.config.attention_images]))
