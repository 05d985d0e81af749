"""The model card that goes with an autoencoder to the hub: only what its directory knows, nothing assumed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.apps.origin import Alignment, Origin, alignment_of, read_origin, run_of
from reals.latents.align import CONFIG_NAME as HEADS_NAME
from reals.latents.normalise import LatentNormalisation
from reals.latents.statistics import STATISTICS_NAME, LatentStatistics, read_statistics
from reals.models.autoencoder import AutoencoderKL, downsampling, latent_channels
from reals.runtime.errors import UserError
from reals.runtime.io import read_json

METRICS_NAME = "metrics.json"

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.\-]*")
_TAGS = ("autoencoder", "vae", "latent-diffusion", "representation-alignment", "reals")
# Of a run's measurements, those that concern the autoencoder rather than how well a generator was trained.
_SHOWN = ("reconstruction/", "reconstructions/", "semantic_consistency/centred", "latents/knn", "latents/linear")


@dataclass(frozen=True, eq=False)
class CardFacts:
    """What a card may say."""

    channels: int
    factor: int
    dtype: str
    normalisation: LatentNormalisation
    statistics: LatentStatistics | None
    alignment: Alignment | None
    heads: bool
    origin: Origin | None
    measured: dict[str, str]
    protocol: list[str]


def gather_facts(directory: Path, autoencoder: AutoencoderKL, dtype: str) -> CardFacts:
    """Return what an autoencoder's directory, and the run that it may lie in, say about it.

    Raises:
        UserError: one of the files beside the weights is malformed.
    """
    measured, protocol = _measurements(directory)
    return CardFacts(
        channels=latent_channels(autoencoder),
        factor=downsampling(autoencoder),
        dtype=dtype,
        normalisation=LatentNormalisation.of(autoencoder),
        statistics=read_statistics(directory) if (directory / STATISTICS_NAME).exists() else None,
        alignment=alignment_of(directory),
        heads=(directory / HEADS_NAME).exists(),
        origin=read_origin(directory),
        measured=measured,
        protocol=protocol,
    )


def check_license(name: str | None) -> None:
    """Check that a licence is written as the hub writes them.

    Raises:
        UserError: it is not.
    """
    if name is not None and not _LICENSE.fullmatch(name):
        raise UserError(f"--license {name}: write the hub's identifier, such as apache-2.0 or cc-by-nc-4.0")


def model_card(facts: CardFacts, repository: str, license_name: str | None) -> str:
    """Return the text of ``README.md``: front matter, what it is, a snippet that uses it rightly, measurements."""
    front = ["---", *([f"license: {license_name}"] if license_name else []), "library_name: diffusers", "tags:"]
    sections = [
        "\n".join([*front, *(f"- {tag}" for tag in _TAGS), "---"]),
        f"# {repository.split('/')[-1]}",
        _what(facts),
        "## Use\n\n" + _use(facts, repository),
        "## Normalisation\n\n" + _normalisation(facts),
        *([f"## Latent statistics\n\n{_statistics(facts.statistics)}"] if facts.statistics else []),
        *(["## Alignment heads\n\n" + _HEADS] if facts.heads else []),
        *(["## Measured\n\n" + _table(facts)] if facts.measured else []),
    ]
    return "\n\n".join(sections) + "\n"


_HEADS = (
    "`align_heads.safetensors` holds the heads that turn the latents that `encode` gives (before any shift and scale) "
    "into features of the semantic encoder; with `reals`: `AlignHeads.load(directory).predict(latents)`."
)


def _what(facts: CardFacts) -> str:
    lines = [
        f"An image autoencoder with a Gaussian posterior (diffusers' `AutoencoderKL`, {facts.dtype} weights): "
        f"{facts.factor}x{facts.factor} pixels become one latent cell of {facts.channels} channels."
    ]
    if facts.alignment is None:
        lines.append("Nothing beside it says that its latents were aligned with a semantic encoder.")
    elif facts.alignment.weight == 0.0:
        lines.append("It was trained without alignment (λ_a = 0).")
    else:
        encoder, weight = facts.alignment.encoder, facts.alignment.weight
        lines.append(
            "Its latents were trained to predict the features of a frozen semantic encoder "
            "([ReaLS](https://arxiv.org/abs/2502.00359)): "
            f"{encoder or 'which one is not recorded'}, λ_a = {'not recorded' if weight is None else f'{weight:g}'}."
        )
    if facts.origin is not None:
        lines.append(f"Made from `{facts.origin.source}` (weights: {facts.origin.weights}).")
    return "\n".join(lines)


def _use(facts: CardFacts, repository: str) -> str:
    plain = (facts.normalisation.shift, facts.normalisation.scale) == (0.0, 1.0)
    encoded = "autoencoder.encode(pixels).latent_dist.sample()"
    lines = [
        "import torch",
        "from diffusers import AutoencoderKL",
        f'autoencoder = AutoencoderKL.from_pretrained("{repository}", torch_dtype=torch.float32).eval()',
        *(
            []
            if plain
            else ["shift, scale = autoencoder.config.shift_factor or 0.0, autoencoder.config.scaling_factor"]
        ),
        "with torch.no_grad():  # pixels: [images, 3, height, width] in [-1, 1]",
        f"    latents = {encoded if plain else f'({encoded} - shift) * scale'}",
        f"    images = autoencoder.decode({'latents' if plain else 'latents / scale + shift'}).sample",
    ]
    return "\n".join(["```python", *lines, "```"])


def _normalisation(facts: CardFacts) -> str:
    shift, scale, origin = facts.normalisation.shift, facts.normalisation.scale, facts.origin
    folded = origin is not None and origin.normalisation == "folded"
    lines = []
    if folded and origin is not None:
        lines.append(
            "Folded: the 1x1 convolutions after the encoder and before the decoder contain the map "
            f"`z -> (z - {origin.map.shift!r}) * {origin.map.scale!r}`; do not apply it again. The log-variance is of "
            "the mapped latents, and its clamp to [-30, 20] acts on their scale."
        )
        if (shift, scale) == (0.0, 1.0):
            lines.append("What `encode` gives is what a generator should see, and what `decode` takes.")
    if (shift, scale) != (0.0, 1.0):
        lines.append(
            f"A generator should see `z_n = (z - shift) * scale` with `shift_factor` {shift!r} and `scaling_factor` "
            f"{scale!r} of `config.json`, and `decode` takes `z_n / scale + shift`. diffusers' Flux and SD3 pipelines "
            "apply both numbers; pipelines that only divide by `scaling_factor` decode with an offset."
            if shift
            else f"Latents are multiplied by `scaling_factor` {scale!r} of `config.json`; there is no shift."
        )
    elif not folded:
        lines.append("None: shift is 0 and scale 1, and latents have whatever scale the encoder gives them.")
    return "\n".join(lines)


def _statistics(statistics: LatentStatistics) -> str:
    images = "a number of images that is not recorded" if statistics.count is None else f"{statistics.count:,} images"
    return (
        f"Of posterior samples as `encode` gives them, over {images} (`{STATISTICS_NAME}`):\n\n"
        "| mean | std | min | max |\n|---|---|---|---|\n"
        f"| {statistics.mean:.6g} | {statistics.std:.6g} | {statistics.min:.6g} | {statistics.max:.6g} |"
    )


def _table(facts: CardFacts) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts.measured.items()]
    return "\n".join(["| | |", "|---|---|", *rows, "", *facts.protocol])


def _measurements(directory: Path) -> tuple[dict[str, str], list[str]]:
    """Return measured values and the protocol's lines, from a ``metrics.json`` beside the weights or of the run."""
    run = run_of(directory)
    for path in (directory / METRICS_NAME, *([run / METRICS_NAME] if run else [])):
        if not path.exists():
            continue
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("arms"), dict):
            return _of_run(content, directory.expanduser().resolve().parent.name)
        if isinstance(content, dict) and isinstance(content.get("metrics"), dict):
            return _of_evaluation(content)
        raise UserError(f"{path}: is neither a run's metrics nor the result of reals evaluate; move it away")
    return {}, []


def _of_run(content: dict[str, Any], arm: str) -> tuple[dict[str, str], list[str]]:
    arms = content["arms"]
    values = arms.get(arm, next(iter(arms.values())) if len(arms) == 1 else {})
    measured = {name: f"{value:.6g}" for name, value in values.items() if value is not None and name.startswith(_SHOWN)}
    protocol = content.get("protocol", {})
    networks = protocol.get("feature_networks", {})
    count, size = protocol.get("reconstructions", {}).get("count"), protocol.get("data", {}).get("image_size")
    lines = [
        f"On {'an unrecorded number of' if count is None else count} held-out images of {size or 'unrecorded'} pixels; "
        "reconstructions decode the posterior mean. One training run, no interval over seeds.",
        *(f"`{name}` has seen the features that alignment used." for name in networks if _seen(networks[name])),
        "`fd` is a Fréchet distance in the named network's features and not comparable with published FIDs; "
        "only `fid`, `rfid` and `sfid` are those.",
    ]
    return measured, lines if measured else []


def _seen(network: Any) -> bool:
    return isinstance(network, dict) and bool(network.get("seen_by_alignment"))


def _of_evaluation(content: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    measured = {
        name: f"{entry['value']:.6g} ({entry['low']:.6g} to {entry['high']:.6g})"
        for name, entry in content["metrics"].items()
    }
    protocol = content.get("protocol", {})
    sets = [
        f"{role}: {protocol[role].get('images')} images of {protocol[role].get('size')}"
        for role in ("reference", "samples")
        if isinstance(protocol.get(role), dict)
    ]
    # Where the images lay concerns the uploader only.
    return measured, [f"`reals evaluate`, 95 % bootstrap intervals; {'; '.join(sets)}.", *content.get("warnings", [])]
