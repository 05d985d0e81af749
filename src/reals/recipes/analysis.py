"""What latent spaces are worth before anyone trains a generator in them: measured side by side on the same photos."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reals.apps.report.latent_page import write_analysis_page
from reals.data.store import ImageStore
from reals.evaluation.bootstrap import Estimate
from reals.evaluation.classifier import RECORD_FILE, load_classifier
from reals.evaluation.inception import inception_features
from reals.evaluation.networks import FeatureNetwork, lite_features
from reals.evaluation.precision_recall import NEIGHBOURS as MANIFOLD_NEIGHBOURS
from reals.latents.align import CONFIG_NAME as HEADS_NAME
from reals.latents.align import WEIGHTS_NAME as HEADS_WEIGHTS
from reals.latents.analysis.diffusability import COMPONENTS, diffusability
from reals.latents.analysis.probes import NEIGHBOURS as PROBE_NEIGHBOURS
from reals.models.inception import INCEPTION_SHA256
from reals.models.lpips import Lpips
from reals.models.semantic import DinoV2, EfficientNetLite0, SemanticEncoder
from reals.recipes.analysis_config import AnalysisConfig
from reals.recipes.analysis_images import draw_attention, draw_map, draw_photos, measure_images
from reals.recipes.analysis_latents import Findings, Subject, measure_latents
from reals.recipes.analysis_panel import Panel
from reals.recipes.comparison import versions
from reals.recipes.data import decode_photos, open_photos
from reals.recipes.schema import DataConfig
from reals.recipes.spaces import Photos, Space, check_fit, find_photos, find_spaces
from reals.runtime import interrupt
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, refuse_file, remove_leftovers, sha256_file, write_json
from reals.runtime.progress import say

FORMAT = 1
PHOTOS = "photos.png"
_PARTS = "spaces"


def analyse(
    directories: Sequence[Path],
    out: Path | None,
    config: AnalysisConfig,
    *,
    data: str | None = None,
    image_size: int | None = None,
    encoder: str | None = None,
    lpips: Lpips | None = None,
    inception: str | None = None,
    device: torch.device,
) -> Path:
    """Measure the latent spaces in ``directories`` and write ``analysis.json`` and ``analysis.html``.

    Args:
        directories: runs, outputs of ``reals align``, or diffusers directories.
        out: where to write; None is ``DIR/analysis`` of the only directory.
        config: how much is measured.
        data: photos or prepared images; None takes those of the first directory that has some.
        image_size: side that photos are cropped to; None takes that of the first directory's images.
        encoder: location of a DINOv2 model; None is EfficientNet-Lite0.
        lpips: whose weights to measure LPIPS with; None leaves it out.
        inception: the published FID Inception weights, to measure rFID with; None leaves it out.
        device: where networks run.

    Returns:
        The directory that was written. Spaces that were measured there with the same inputs are not measured again.

    Raises:
        UserError: the directories, the photos or ``out`` will not do.
        Interrupted: a signal asked the process to stop; the spaces that are done stay done.
    """
    spaces = find_spaces(directories)
    photos = find_photos(directories, data, image_size)
    check_fit(spaces, photos)
    out = _output(directories, out)
    semantic = _encoder(encoder, device)
    store = _prepare(photos, out / "images")
    distance = None if lpips is None else lpips.build(device)
    judge = None if inception is None else inception_features(inception, INCEPTION_SHA256, device)
    panel = Panel(config, store, semantic, _networks(store, directories, device), device, distance, judge)
    _check_counts(panel)
    if out.is_dir():
        remove_leftovers(out)
    results = []
    for number, space in enumerate(spaces, start=1):
        say(f"{space.name}: latent space {number} of {len(spaces)}")
        results.append(_measure(space, panel, out))
    draw_photos(panel, out / PHOTOS)
    write_json(out / "analysis.json", _result(panel, photos, spaces, results))
    say(f"analysis: {out / 'analysis.json'}")
    say(f"page:     {write_analysis_page(out)}")
    return out


def _output(directories: Sequence[Path], out: Path | None) -> Path:
    if out is None:
        if len(directories) > 1:
            raise UserError("analyze: several directories are compared; say where to write with --out")
        out = directories[0] / "analysis"
    refuse_file(out)
    foreign = out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in (_PARTS, "images"))
    if foreign:
        raise UserError(f"{out}: is not empty and not an analysis of reals; give another --out")
    return out


def _encoder(location: str | None, device: torch.device) -> SemanticEncoder:
    return (EfficientNetLite0() if location is None else DinoV2(model=location)).build(device)


def _prepare(photos: Photos, directory: Path) -> ImageStore:
    if photos.store is not None:
        return photos.store
    config = DataConfig(image_size=photos.size)
    return decode_photos(open_photos(photos.location, config), directory, config)


def _networks(store: ImageStore, directories: Sequence[Path], device: torch.device) -> tuple[FeatureNetwork, ...]:
    """Return Lite0 and, where the photos are those of a run, the run's classifier, which no alignment has seen."""
    networks: list[FeatureNetwork] = [lite_features(store.size, device)]
    for directory in directories:
        images, classifier = directory / "images", directory / "classifier"
        same = ImageStore.complete(images) and ImageStore(images).fingerprint == store.fingerprint
        if same and (classifier / RECORD_FILE).exists():
            networks.append(load_classifier(classifier, device))
            break
    return tuple(networks)


def _check_counts(panel: Panel) -> None:
    store = panel.store
    least = {
        "train on": (len(store.train), PROBE_NEIGHBOURS if store.labelled else MANIFOLD_NEIGHBOURS + 1),
        "hold out": (len(store.held_out), MANIFOLD_NEIGHBOURS + 1),
    }
    for purpose, (found, needed) in least.items():
        if found < needed:
            raise UserError(f"{store.directory}: {found} photos to {purpose}; an analysis needs at least {needed}")
    if store.labelled and len(np.unique(store.labels[panel.probe_rows])) < 2:
        raise UserError(f"{store.directory}: the photos to train on are of one class; give several, or a flat folder")
    for network in panel.networks:
        fewest = min(len(panel.rows), len(panel.reference_rows))
        if fewest <= network.dimension:
            say(
                f"{store.directory}: {fewest} photos for the {network.dimension} features of {network.name}: its "
                "distances are mostly bias, fit for comparing spaces at equal counts only"
            )


def _measure(space: Space, panel: Panel, out: Path) -> dict[str, Any]:
    """Return what is measured of a space, from a file where that was done before."""
    heads = space.path / HEADS_NAME
    identity = [
        panel.identity,
        space.fingerprint,
        *([sha256_file(space.path / HEADS_WEIGHTS)] if heads.exists() else []),
    ]
    key = hashlib.sha256(" ".join(identity).encode()).hexdigest()[:16]
    part, picture = out / _PARTS / f"{key}.json", out / _PARTS / f"{key}.png"
    if not part.exists():
        subject, findings = Subject(space, panel), Findings()
        measure_latents(subject, findings)
        measure_images(subject, findings)
        interrupt.stop_if_requested("before drawing")
        draw_map(subject, findings)
        draw_attention(subject, picture)
        write_json(part, _plain(findings) | {"grid": list(subject.means.shape[2:]), "picture": f"{_PARTS}/{key}.png"})
    return read_json(part)


def _plain(findings: Findings) -> dict[str, Any]:
    """Return findings as JSON: a value, and the ends of its 95 % interval where it has one."""

    def written(estimate: Estimate) -> dict[str, float]:
        return {"value": estimate.value} if np.isnan(estimate.replicates).any() else estimate.to_dict()

    return {
        "measured": {name: written(estimate) for name, estimate in findings.measured.items()},
        "curves": findings.curves,
        "not_measured": findings.not_measured,
    }


def _result(
    panel: Panel, photos: Photos, spaces: Sequence[Space], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "spaces": [
            {
                "name": space.name,
                "directory": str(space.path),
                "fingerprint": space.fingerprint,
                "channels": space.channels,
                "downsampling": space.downsampling,
                "settings": space.settings,
                **found,
            }
            for space, found in zip(spaces, results, strict=True)
        ],
        "diffusability": _score({space.name: found for space, found in zip(spaces, results, strict=True)}),
        "map": _map(panel),
        "photos": PHOTOS,
        "protocol": {"data": photos.source, **panel.protocol(), "versions": versions()},
    }


def values_of(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of one space of ``analysis.json`` without their intervals."""
    return {name: entry["value"] for name, entry in found["measured"].items()}


def _score(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    ranked = diffusability({name: values_of(found) for name, found in results.items()})
    if ranked is None:
        return None
    return {
        "what": "mean share of the other spaces that a space beats; a promise to be checked, not a measurement",
        "score": ranked.score,
        "points": ranked.points,
        "components": [
            {"name": part.name, "better": part.better, "because": part.because}
            for part in COMPONENTS
            if part.name in ranked.points
        ],
        "left_out": list(ranked.left_out),
    }


def _map(panel: Panel) -> dict[str, Any] | None:
    if len(panel.map_rows) == 0:
        return None
    names = panel.store.class_names
    return {"labels": [names[label] for label in panel.store.labels[panel.map_rows].tolist()]}
