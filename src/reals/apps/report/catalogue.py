"""What each metric is called, belongs to and means, in words for someone who has not read the paper."""

from dataclasses import dataclass
from typing import Literal

from reals.apps.report.formatting import Kind

Theme = Literal["samples", "reconstruction", "latents", "real", "other"]

THEMES: dict[Theme, tuple[str, str]] = {
    "samples": ("Generated images", "what the diffusion model makes from noise in each latent space"),
    "reconstruction": ("Reconstruction", "what the autoencoder loses before any generation"),
    "latents": ("Latent space", "what the diffusion model has to learn"),
    "real": ("Real photos", "held-out photos measured like samples: the noise floor"),
    "other": ("Other", "metrics that this page has no words for"),
}


@dataclass(frozen=True)
class Metric:
    """A metric's place and words; ``better`` serves where no comparison says which direction is good."""

    name: str
    theme: Theme
    label: str
    meaning: str
    kind: Kind = "plain"
    better: Literal["higher", "lower"] | None = None
    network: str | None = None
    guidance: float | None = None


_Words = tuple[str, str, Kind, Literal["higher", "lower"] | None]

_OF_SAMPLES: dict[str, _Words] = {
    "fd": ("Fréchet distance", "distance of feature statistics to real photos; 0 is identical", "distance", "lower"),
    "precision": ("Precision", "share of generated images that lie among real photos: fidelity", "share", "higher"),
    "recall": ("Recall", "share of real photos that lie among generated images: variety", "share", "higher"),
    "fd_to_reconstructions": (
        "Distance to own reconstructions",
        "the generator’s part alone: this arm’s own reconstructions are the target, so decoder loss does not count",
        "distance",
        "lower",
    ),
    "class_agreement": (
        "Class agreement",
        "share of samples that the classifier assigns to the class they were asked to be",
        "share",
        "higher",
    ),
}

_OF_RECONSTRUCTIONS: dict[str, _Words] = {
    "fd": ("Fréchet distance", "of reconstructed photos to real ones: the floor for samples", "distance", "lower"),
    "precision": ("Precision", "share of reconstructions that lie among real photos", "share", "higher"),
    "recall": ("Recall", "share of real photos that lie among reconstructions", "share", "higher"),
}

_OF_REAL: dict[str, _Words] = {
    "fd": ("Fréchet distance", "of held-out real photos: about as low as a distance can get here", "distance", "lower"),
    "precision": ("Precision", "share of held-out photos that lie among the reference photos", "share", "higher"),
    "recall": ("Recall", "share of the reference photos that lie among held-out ones", "share", "higher"),
}

_WORDS: dict[str, tuple[Theme, _Words]] = {
    "reconstruction/psnr": ("reconstruction", ("PSNR", "pixel fidelity of reconstructions", "decibel", "higher")),
    "reconstruction/ssim": (
        "reconstruction",
        ("SSIM", "structural similarity of reconstructions; 1 is identical", "plain", "higher"),
    ),
    "latents/linear_probe_accuracy": (
        "latents",
        ("Linear probe", "classes a linear classifier reads from the whole latent", "share", "higher"),
    ),
    "latents/linear_probe_accuracy_pooled": (
        "latents",
        ("Linear probe, pooled", "the same from the latent averaged over positions", "share", "higher"),
    ),
    "latents/knn_accuracy": (
        "latents",
        ("Nearest neighbours", "share of photos whose nearest latents share their class", "share", "higher"),
    ),
    "latents/knn_accuracy_pooled": (
        "latents",
        ("Nearest neighbours, pooled", "the same from the latent averaged over positions", "share", "higher"),
    ),
    "latents/position_share": (
        "latents",
        ("Position share", "latent variance that is the same in every image: a template, not content", "share", None),
    ),
    "latents/kl": ("latents", ("KL divergence", "nats per image: information beyond the prior", "plain", None)),
    "latents/mean": ("latents", ("Mean", "of raw latents, before normalisation", "plain", None)),
    "latents/std": ("latents", ("Standard deviation", "of raw latents, before normalisation", "plain", None)),
    "latents/min": ("latents", ("Minimum", "of raw latents", "plain", None)),
    "latents/max": ("latents", ("Maximum", "of raw latents", "plain", None)),
    "semantic_consistency/raw": (
        "latents",
        ("Semantic Consistency", "cosine similarity of two augmentations of one image", "plain", None),
    ),
    "semantic_consistency/raw_between": (
        "latents",
        (
            "Semantic Consistency, different images",
            "what to hold Semantic Consistency against",
            "plain",
            None,
        ),
    ),
    "semantic_consistency/centred": (
        "latents",
        ("Semantic Consistency, centred", "the same without what every image has at a position", "plain", None),
    ),
    "semantic_consistency/centred_between": (
        "latents",
        (
            "Semantic Consistency, centred, different images",
            "what to hold the centred one against",
            "plain",
            None,
        ),
    ),
}


def describe(name: str) -> Metric:
    """Return the words for a metric's flat name; an unknown one keeps its name in the theme ``other``."""
    if name in _WORDS:
        theme, words = _WORDS[name]
        return Metric(name, theme, *words)
    match name.split("/"):
        case ["samples", scale, measure, network] if measure in _OF_SAMPLES and guidance_scale(scale) is not None:
            return Metric(name, "samples", *_OF_SAMPLES[measure], network=network, guidance=guidance_scale(scale))
        case ["reconstructions", measure, network] if measure in _OF_RECONSTRUCTIONS:
            return Metric(name, "reconstruction", *_OF_RECONSTRUCTIONS[measure], network=network)
        case ["real", measure, network] if measure in _OF_REAL:
            return Metric(name, "real", *_OF_REAL[measure], network=network)
    return Metric(name, "other", name, "not known to this version of reals")


def guidance_scale(text: str) -> float | None:
    """Return 3.0 for ``"guidance-3"``, or None if the text is nothing of that kind."""
    try:
        return float(text.removeprefix("guidance-")) if text.startswith("guidance-") else None
    except ValueError:
        return None


def guidance_words(scale: float) -> str:
    """Return ``without guidance`` for scale 1 and ``with guidance 3`` for scale 3."""
    return "without guidance" if scale == 1 else f"with guidance {scale:g}"


def sort_key(metric: Metric) -> tuple[int, float, int, str, str]:
    """Order metrics by theme, guidance scale, place in this catalogue, network."""
    themes, known = list(THEMES), [*_WORDS, *_OF_SAMPLES]
    # A name with a network is "family/measure/network": its place is that of the measure.
    measure = metric.name if metric.network is None else metric.name.split("/")[-2]
    place = known.index(measure) if measure in known else len(known)
    return themes.index(metric.theme), metric.guidance or 0.0, place, metric.network or "", metric.name
