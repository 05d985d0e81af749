"""What each number of an analysis is called, belongs to and means."""

from dataclasses import dataclass
from typing import Literal

from reals.apps.report.formatting import Kind

Better = Literal["higher", "lower"] | None

GROUPS = {
    "semantics": ("Semantics", "what the latent says about the content of an image"),
    "shape": ("Shape", "how latents are distributed"),
    "equivariance": ("Equivariance", "whether the latent moves as the image does"),
    "decoder": ("Decoder", "what comes back from latents, and from between them"),
    "other": ("Other", "numbers that this page has no words for"),
}
"""The parts of the table, in order."""


@dataclass(frozen=True)
class Entry:
    """The words for one number."""

    group: str
    label: str
    meaning: str
    kind: Kind = "plain"
    better: Better = None


_VIEWS = {
    "crop": "two crops",
    "flip": "an image and its mirror image",
    "blur": "two blurred views",
    "grayscale": "an image and its grey copy",
    "all": "two views under all augmentations",
}

_WORDS: dict[str, tuple[str, str, str, Kind, Better]] = {
    "latents/linear_probe_accuracy": (
        "semantics",
        "Linear probe",
        "classes read from the whole latent",
        "share",
        "higher",
    ),
    "latents/linear_probe_accuracy_pooled": (
        "semantics",
        "Linear probe, pooled",
        "the same from the mean over positions",
        "share",
        "higher",
    ),
    "latents/knn_accuracy": ("semantics", "Nearest neighbours", "neighbours that share the class", "share", "higher"),
    "latents/knn_accuracy_pooled": (
        "semantics",
        "Nearest neighbours, pooled",
        "the same from the mean over positions",
        "share",
        "higher",
    ),
    "semantic/cka_patch": (
        "semantics",
        "CKA, cells",
        "likeness of cells to the encoder’s patch features",
        "plain",
        None,
    ),
    "semantic/cka_patch_centred": (
        "semantics",
        "CKA, cells, centred",
        "the same without what every image has at a position",
        "plain",
        "higher",
    ),
    "semantic/cka_pooled": (
        "semantics",
        "CKA, pooled",
        "likeness of images to the encoder’s features",
        "plain",
        "higher",
    ),
    "semantic/patch_cosine": (
        "semantics",
        "Predicted patch features",
        "cosine similarity with the true ones, by the alignment heads",
        "plain",
        None,
    ),
    "semantic/pooled_cosine": (
        "semantics",
        "Predicted image features",
        "cosine similarity with the true ones, by the alignment heads",
        "plain",
        None,
    ),
    "latents/mean": ("shape", "Mean", "of raw posterior samples", "plain", None),
    "latents/std": ("shape", "Standard deviation", "of raw posterior samples", "plain", None),
    "latents/min": ("shape", "Minimum", "depends on how many photos were seen", "plain", None),
    "latents/max": ("shape", "Maximum", "depends on how many photos were seen", "plain", None),
    "latents/kl": ("shape", "KL divergence", "nats per image: information beyond the prior", "plain", None),
    "latents/dead_channels": ("shape", "Dead channels", "channels that are nothing but noise", "plain", "lower"),
    "latents/dead_share": ("shape", "Share of dead channels", "of all channels", "share", "lower"),
    "latents/position_share": (
        "shape",
        "Position share",
        "variance that is the same in every image: a template, not content",
        "share",
        None,
    ),
    "rank/cells": ("shape", "Effective rank of cells", "directions that channel vectors use", "plain", None),
    "rank/pooled": ("shape", "Effective rank, pooled", "directions of the mean over positions", "plain", None),
    "rank/flat": ("shape", "Effective rank, whole latents", "directions of whole latents", "plain", None),
    "spectrum/high_share": (
        "shape",
        "High-frequency energy",
        "share in the upper half of frequencies, of samples; a smooth template lowers it",
        "share",
        None,
    ),
    "spectrum/high_share_centred": (
        "shape",
        "High-frequency energy, centred",
        "the same without the position template",
        "share",
        "lower",
    ),
    "spectrum/slope_centred": ("shape", "Spectral slope, centred", "without the position template", "plain", None),
    "spectrum/slope": ("shape", "Spectral slope", "of samples; 0 is white noise, photos have about −2", "plain", None),
    "spectrum/high_share_of_means": (
        "shape",
        "High-frequency energy, means",
        "the same of posterior means: content without noise",
        "share",
        None,
    ),
    "spectrum/slope_of_means": ("shape", "Spectral slope, means", "the same of posterior means", "plain", None),
    "reconstruction/psnr": ("decoder", "PSNR", "of reconstructions", "decibel", "higher"),
    "reconstruction/ssim": ("decoder", "SSIM", "of reconstructions; 1 is identical", "plain", "higher"),
    "reconstruction/rfid": (
        "decoder",
        "rFID",
        "of reconstructions against their photos; few photos raise it",
        "plain",
        "lower",
    ),
    "reconstruction/lpips": ("decoder", "LPIPS", "of reconstructions, on VGG16; 0 is identical", "plain", "lower"),
}

_TRANSFORMS = {
    "half": "half the size",
    "three_quarters": "three quarters of the size",
    "turned_90": "turned by 90°",
    "turned_180": "turned by 180°",
    "turned_270": "turned by 270°",
    "mirrored": "mirrored",
}

_RANKS = {
    "participation": "participation ratio: weighs the largest directions more",
    "share": "as a share of the possible",
}


def describe(name: str) -> Entry:
    """Return the words for a number of ``analysis.json``."""
    if name in _WORDS:
        return Entry(*_WORDS[name])
    match name.split("/"):
        case ["semantic_consistency", view, part] if view in _VIEWS:
            return _consistency(view, part)
        case ["rank", which] if which.rpartition("_")[2] in _RANKS:
            base, _, suffix = which.rpartition("_")
            kind: Kind = "share" if suffix == "share" else "plain"
            return Entry("shape", f"{_WORDS[f'rank/{base}'][1]}, {suffix}", _RANKS[suffix], kind)
        case ["equivariance", change] if change in _TRANSFORMS:
            meaning = "0 moves with the image, 1.4 is unrelated; a smooth template lowers it"
            return Entry("equivariance", f"Error, {_TRANSFORMS[change]}", meaning)
        case ["equivariance_centred", change] if change in _TRANSFORMS:
            label = f"Error, centred, {_TRANSFORMS[change]}"
            return Entry("equivariance", label, "the same without the position template", "plain", "lower")
        case ["equivariance_psnr", change] if change in _TRANSFORMS:
            label = f"PSNR, {_TRANSFORMS[change]}"
            return Entry(
                "equivariance", label, "changed latent, decoded, against the changed image", "decibel", "higher"
            )
        case ["equivariance_reencoded_psnr", change] if change in _TRANSFORMS:
            label = f"PSNR re-encoded, {_TRANSFORMS[change]}"
            return Entry("equivariance", label, "what the line above could reach at best", "decibel")
        case [family, network] if family in _DISTANCES:
            label, meaning, better = _DISTANCES[family]
            return Entry("decoder", f"{label} · {network}", meaning, "distance", better)
        case [family, "fd", network] if family in _DISTANCES:
            label, meaning, better = _DISTANCES[family]
            return Entry("decoder", f"{label} · {network}", meaning, "distance", better)
    return Entry("other", name, "not known to this version of reals")


_DISTANCES: dict[str, tuple[str, str, Better]] = {
    "real": ("Distance of held-out photos", "what perfect images would score", None),
    "reconstructions": ("Distance of reconstructions", "Fréchet distance to photos", "lower"),
    "interpolation_fd": (
        "Distance of midpoints",
        "decoded midpoints of each latent and its nearest neighbour; not iFID",
        "lower",
    ),
    "interpolation_excess": ("… above reconstructions", "what mixing adds to the loss of the decoder", None),
    "interpolation_fd_random": ("Distance of random midpoints", "the same with a random partner", None),
    "interpolation_excess_random": ("… above reconstructions", "the same with a random partner", None),
}


def _consistency(view: str, part: str) -> Entry:
    label = f"Semantic Consistency, {view}"
    if part == "raw":
        return Entry("semantics", label, f"cosine similarity of the latents of {_VIEWS[view]}")
    if part == "centred":
        return Entry("semantics", f"{label}, centred", "the same without the position template", "plain", "higher")
    of = "centred, " if part.startswith("centred") else ""
    return Entry("semantics", f"{label}, {of}different images", "what to hold the line above against")
