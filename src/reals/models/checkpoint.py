"""Finds an autoencoder among the tensors of a checkpoint that some trainer wrote, its moving average first."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reals.models.compvis import PARTS
from reals.runtime.errors import UserError

_ANCHORS = ("encoder.conv_in.weight", "decoder.conv_in.weight")
# latent-diffusion's own moving average removes the dots from its tensors' names.
_FLAT_ANCHOR = _ANCHORS[0].replace(".", "")
_AVERAGE_WORDS = {"ema", "average", "averaged", "shadow"}
_DEPTH = 4


@dataclass(frozen=True, eq=False)
class FoundAutoencoder:
    """One copy of an autoencoder in a checkpoint."""

    where: str
    """Where it lies: the keys that lead there, as ``"state_dict.ema"``; empty at the top."""
    averaged: bool
    """Whether it is a moving average."""
    tensors: Mapping[str, Tensor]
    """Its tensors, by names that begin with ``encoder.`` and so on."""
    others: Mapping[str, Tensor]
    """What lies with it and is no part of it: losses, encoders, alignment heads."""


def find_autoencoder(checkpoint: Mapping[str, Any], where: str | None = None) -> FoundAutoencoder:
    """Return the autoencoder in ``checkpoint``: the one at ``where`` if given, else the moving average if there is one.

    Raises:
        UserError: there is none, none there, or several between which the user must choose.
    """
    found = [candidate for path, group in _groups(checkpoint, ()) for candidate in _candidates(path, group)]
    if not found:
        raise UserError(
            "holds no autoencoder: no tensors end in encoder.conv_in.weight and decoder.conv_in.weight; "
            "give the checkpoint of stage 1"
        )
    names = ", ".join(f"'{candidate.where}'" for candidate in found)
    if where is not None:
        chosen = [candidate for candidate in found if candidate.where == where]
        if not chosen:
            raise UserError(f"holds no autoencoder at '{where}'; there is one at {names}")
        return chosen[0]
    best = [candidate for candidate in found if candidate.averaged] or found
    if len(best) > 1:
        raise UserError(f"holds several autoencoders, at {names}; choose one with --weights")
    return best[0]


def _groups(value: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every dictionary of named tensors in nested dictionaries, with the keys that lead to it."""
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if tensors:
        yield path, tensors
    if len(path) < _DEPTH:
        for key, item in value.items():
            if isinstance(item, Mapping):
                yield from _groups(item, (*path, str(key)))


def _candidates(path: tuple[str, ...], group: Mapping[str, Tensor]) -> Iterator[FoundAutoencoder]:
    prefixes = [
        name.removesuffix(_ANCHORS[0])
        for name in group
        if re.search(rf"(^|\.){re.escape(_ANCHORS[0])}$", name)
        and name.removesuffix(_ANCHORS[0]) + _ANCHORS[1] in group
    ]
    for prefix in prefixes:
        averaged = _is_average(path, prefix)
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in group.items()
            if name.startswith(tuple(prefix + part for part in PARTS))
        }
        others = {
            name: tensor
            for name, tensor in group.items()
            if _is_average(path, name) == averaged and not name.startswith(tuple(prefix + part for part in PARTS))
        }
        yield FoundAutoencoder(_label(path, prefix), averaged, tensors, others)
        yield from _without_dots(path, prefix, tensors, others, group)


def _without_dots(
    path: tuple[str, ...],
    prefix: str,
    tensors: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    group: Mapping[str, Tensor],
) -> Iterator[FoundAutoencoder]:
    """Yield the moving averages of the autoencoder at ``prefix`` whose names have lost their dots."""
    for name in group:
        start, _, flat = name.rpartition(".")
        # The average may have been taken of the whole module or of the autoencoder inside it.
        if not flat.endswith(_FLAT_ANCHOR) or not prefix.replace(".", "").endswith(flat.removesuffix(_FLAT_ANCHOR)):
            continue
        inside = f"{start}." + flat.removesuffix(_FLAT_ANCHOR)
        averages = {own: group.get(inside + own.replace(".", "")) for own in tensors}
        if any(tensor is None for tensor in averages.values()):
            continue
        whole = {own: tensor for own, tensor in averages.items() if tensor is not None}
        beside = {own: group.get(f"{start}." + own.replace(".", ""), tensor) for own, tensor in others.items()}
        yield FoundAutoencoder(_label(path, f"{start}."), _is_average(path, start), whole, beside)


def _is_average(path: tuple[str, ...], name: str) -> bool:
    return bool(_AVERAGE_WORDS & set(re.split(r"[._]", ".".join((*path, name)).lower())))


def _label(path: tuple[str, ...], prefix: str) -> str:
    return ".".join((*path, prefix)).rstrip(".")
