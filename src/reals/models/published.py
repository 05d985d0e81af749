"""Transformers as SiT, DiT and REPA publish them: read from their files, in our names and our convention of time.

SiT and DiT have the names and shapes of :class:`Transformer`. REPA's networks have them too but run in the other
direction; they are converted exactly (:mod:`reals.models.repa_weights`), so whoever samples need not know.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from reals.models.embeddings import position_embedding
from reals.models.published_shapes import empty_network
from reals.models.repa_weights import PROJECTORS, rename_legacy, reverse_time
from reals.models.transformer import Transformer, TransformerConfig
from reals.runtime.errors import UserError
from reals.runtime.io import load_tensors, load_training_state

Family = Literal["SiT", "DiT", "REPA"]
"""The code that trained a transformer."""

PathName = Literal["Linear", "GVP", "VP"]
"""An interpolant, by its name in SiT."""

Prediction = Literal["velocity", "score", "noise"]
"""What a network predicts, by its name in SiT."""

_PREFIXES = ("module.", "_orig_mod.")
# "ema" first: the published numbers are the moving average's.
_COPIES = ("ema", "model", "state_dict")
_REPA_PATHS = {"linear": "Linear", "cosine": "GVP"}


@dataclass(frozen=True, kw_only=True)
class FlowTraining:
    """Trained on an interpolant with t in [0, 1] from noise to data, as SiT and REPA are."""

    path: PathName = "Linear"
    """The interpolant between noise and data."""
    prediction: Prediction = "velocity"
    """What the network's output stands for."""


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    """Trained to predict noise at integer times from data (0) to noise, as DiT is: linear betas, 1e-4 to 0.02."""

    timesteps: int = 1000
    """How many times there are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedTransformer:
    """A transformer's weights and what must be known to use them."""

    config: TransformerConfig
    latent_channels: int
    grid: int
    """Side of the latent in positions."""
    num_classes: int
    """Without the null class, which is the table's last row."""
    weights: Mapping[str, Tensor]
    """A whole state dict of :class:`Transformer`, float32, time from noise (0) to data (1) for flows."""
    family: Family
    """Whose file it was."""
    training: FlowTraining | DiffusionTraining
    """What it was trained for, on which sampling depends."""
    projectors: Mapping[str, Tensor] = field(default_factory=dict)
    """REPA's projectors, from tokens to features: ``0.0.weight`` is the first layer of the first. Else empty."""
    encoder_depth: int | None = None
    """The block, counted from 1, after which REPA's projectors read, if the file tells."""
    averaged: bool = False
    """Whether the weights are known to be a moving average (a plain file does not say)."""
    notes: tuple[str, ...] = ()
    """What the reader chose or assumed, one sentence each, for the user to see."""

    def build(self) -> Transformer:
        """Return the network with its weights, on the CPU, in evaluation mode."""
        network = self.config.build(self.latent_channels, self.grid, self.num_classes)
        network.load_state_dict(self.weights)
        return network.eval()


def read_published(
    path: Path, *, family: Family | None = None, heads: int | None = None, grid: int | None = None
) -> PublishedTransformer:
    """Read a transformer from ``.pt``, ``.pth`` or ``.safetensors``: a plain state dict or a training checkpoint.

    Nothing in the file is executed. Of a checkpoint's copies the moving average is taken. Sizes follow from shapes.

    Args:
        path: the file.
        family: whose file it is, where neither its settings, tensors nor name tell: SiT and DiT look the same.
        heads: attention heads of a size that was never published.
        grid: side of the latent, where the file has no position embedding.

    Raises:
        UserError: the file is missing, damaged or no such transformer, or an argument is needed or contradicts it.
    """
    state = load_tensors(path) if path.suffix == ".safetensors" else load_training_state(path)
    settings = _settings(state)
    copy, tensors = _choose_copy(path, state)
    tensors = rename_legacy(tensors)
    projectors = {name.removeprefix(PROJECTORS): t for name, t in tensors.items() if name.startswith(PROJECTORS)}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(PROJECTORS)}
    try:
        empty_network(weights, heads, grid, variance=False)
        family = family or _family(path, settings, projectors)
        network = empty_network(weights, heads, grid, variance=family == "DiT")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    notes = [f"read the {'moving average' if copy == 'ema' else 'weights'} at '{copy}'"] if copy else []
    if "pos_embed" not in weights:
        side = network.grid // network.config.patch_size
        weights["pos_embed"] = position_embedding(network.config.width, side, side)
        notes.append(f"the file has no position embedding; computed it for {network.grid}x{network.grid} latents")
    training, assumed = _training(path, family, settings)
    if family == "REPA":
        weights = reverse_time(weights)
        notes.append("turned REPA's time and sign into SiT's")
    depth = settings.get("encoder_depth")
    return PublishedTransformer(
        config=network.config,
        latent_channels=network.latent_channels,
        grid=network.grid,
        num_classes=network.num_classes,
        weights={name: weights[name] for name in network.state_dict()},
        family=family,
        training=training,
        projectors={name: tensor.float().contiguous() for name, tensor in projectors.items()},
        encoder_depth=depth if projectors and isinstance(depth, int) else None,
        averaged=copy == "ema",
        notes=(*notes, *assumed),
    )


def _settings(state: Mapping[Any, Any]) -> Mapping[str, Any]:
    settings = state.get("args")
    if isinstance(settings, Namespace):
        return vars(settings)
    return settings if isinstance(settings, Mapping) else {}


def _choose_copy(path: Path, state: Mapping[Any, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return the key of the chosen copy, empty for a plain state dict, and its tensors without wrappers' prefixes."""
    copy = next((key for key in _COPIES if isinstance(state.get(key), Mapping)), "")
    tensors: dict[str, Tensor] = {}
    for name, tensor in (state[copy] if copy else state).items():
        if not isinstance(tensor, Tensor):
            raise UserError(
                f"{path}: '{name}' is a {type(tensor).__name__} where a tensor should be; give the state dict of a "
                "SiT, DiT or REPA transformer, or a checkpoint of their training with 'ema' or 'model'"
            )
        tensors[_without_prefixes(str(name))] = tensor
    return copy, tensors


def _without_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _family(path: Path, settings: Mapping[str, Any], projectors: Mapping[str, Tensor]) -> Family:
    """Return whose file it is: by its projectors, by the settings of its training, else by its name."""
    if projectors or "proj_coeff" in settings:
        return "REPA"
    if "path_type" in settings:
        return "SiT"
    for text in (str(settings.get("model", "")), path.name):
        words = {word.lower() for word in re.findall(r"[A-Za-z]+", text)}
        found: list[Family] = [family for family in get_args(Family) if family.lower() in words]
        if len(found) == 1:
            return found[0]
        if "repa" in words:
            return "REPA"
    raise UserError(
        "SiT, DiT and REPA transformers can have the same tensors, and neither the file's name nor its settings say "
        "whose this is; give family"
    )


def _training(
    path: Path, family: Family, settings: Mapping[str, Any]
) -> tuple[FlowTraining | DiffusionTraining, tuple[str, ...]]:
    if family == "DiT":
        return DiffusionTraining(), ()
    if "path_type" not in settings:
        return FlowTraining(), ("assumed the linear path and velocity prediction, as in the published weights",)
    name, prediction = settings["path_type"], settings.get("prediction")
    if family == "REPA":
        name, prediction = _REPA_PATHS.get(name, name), "velocity"
    path_name = next((known for known in get_args(PathName) if known == name), None)
    predicted = next((known for known in get_args(Prediction) if known == prediction), None)
    if path_name is None or predicted is None:
        raise UserError(f"{path}: was trained for {prediction!r} on the path {name!r}, which SiT does not have")
    return FlowTraining(path=path_name, prediction=predicted), ()
