"""Recognises alignment heads among the tensors of another trainer's checkpoint, by their shapes and names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from reals.latents.align import AlignConfig, AlignHeads
from reals.latents.features import FeatureStatistics

_ROLES = {
    "patch": {"patch", "patches", "local", "spatial", "dense"},
    "pooled": {"cls", "class", "pool", "pooled", "global"},
}
_LAYER = re.compile(r"(?P<place>(?:.*\.)?)(?P<layer>(?:fc|linear)?\d+)\.(?P<kind>weight|bias)")


@dataclass(frozen=True, eq=False)
class ForeignHead:
    """Linear layers in a row, from the latent's channels to features."""

    place: str
    """What their names begin with."""
    weights: Sequence[Float[Tensor, "_ _"]]
    """First layer first."""
    biases: Sequence[Float[Tensor, " _"]]
    """Likewise."""

    @property
    def hidden(self) -> int | None:
        """Width of the hidden layers, or None where it is the feature's, as :class:`AlignConfig` has it."""
        width = len(self.biases[0])
        return None if width == len(self.biases[-1]) else width


def recognise_heads(tensors: Mapping[str, Tensor], latent_channels: int) -> tuple[AlignHeads | None, tuple[str, ...]]:
    """Return alignment heads made from a checkpoint's tensors, and the names of the layers they are made from.

    A head is a row of linear layers that starts at ``latent_channels`` and whose name has a word for patches or one
    for the whole image. GELU lies between layers, as the paper says: no tensor shows it. The heads predict features
    as they are, not standardised. Without exactly one row for a role, or where both have different depths, nothing is
    guessed and ``(None, ())`` returned.
    """
    heads: dict[str, ForeignHead] = {}
    for head in _rows(tensors, latent_channels):
        words = set(re.split(r"[._\d]+", head.place.lower()))
        roles = [role for role, known in _ROLES.items() if words & known]
        if len(roles) != 1 or roles[0] in heads:
            return None, ()
        heads[roles[0]] = head
    shapes = {(len(head.weights), head.hidden) for head in heads.values()}
    if len(shapes) != 1:
        return None, ()
    ((depth, hidden),) = shapes
    config = AlignConfig(
        patch=float("patch" in heads), pooled=float("pooled" in heads), depth=depth, hidden=hidden, standardise=False
    )
    return _build(config, heads, latent_channels), tuple(head.place.rstrip(".") for head in heads.values())


def _build(config: AlignConfig, heads: Mapping[str, ForeignHead], latent_channels: int) -> AlignHeads:
    sizes = {role: len(heads[role].biases[-1]) if role in heads else 0 for role in _ROLES}
    patch, pooled = (torch.zeros(sizes[role]) for role in _ROLES)
    built = config.build(latent_channels, FeatureStatistics(patch, patch + 1, pooled, pooled + 1))
    loaded = dict(built.state_dict())
    for role, head in heads.items():
        for i, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
            loaded |= {f"{role}_head.{2 * i}.weight": weight.float(), f"{role}_head.{2 * i}.bias": bias.float()}
    built.load_state_dict(loaded)
    return built.eval()


def _rows(tensors: Mapping[str, Tensor], latent_channels: int) -> list[ForeignHead]:
    """Return every row of linear layers whose widths fit and that starts at the latent."""
    places: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match:
            places.setdefault(match["place"], {}).setdefault(match["layer"], {})[match["kind"]] = tensor
    rows = []
    for place, layers in places.items():
        ordered = [layers[name] for name in sorted(layers, key=_number)]
        if not all(set(layer) == {"weight", "bias"} and layer["weight"].dim() == 2 for layer in ordered):
            continue
        weights, biases = ([layer[kind] for layer in ordered] for kind in ("weight", "bias"))
        chained = all(before.shape[0] == after.shape[1] for before, after in pairwise(weights))
        if weights[0].shape[1] == latent_channels and chained and _activated(list(layers)):
            rows.append(ForeignHead(place, weights, biases))
    return rows


def _activated(names: list[str]) -> bool:
    """Return whether something without weights can lie between layers: in a numbered sequence it takes a number."""
    numbers = sorted(map(_number, names))
    return not names[0].isdigit() or all(after - before == 2 for before, after in pairwise(numbers))


def _number(layer: str) -> int:
    return int(re.sub(r"\D", "", layer))
