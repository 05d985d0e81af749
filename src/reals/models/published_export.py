"""The way back: a transformer in the layouts that SiT's, DiT's and REPA's own code reads."""

from pathlib import Path

import torch
from torch import Tensor

from reals.models.frequencies import refit_time_layer
from reals.models.published import DiffusionTraining, Family, FlowTraining, PublishedTransformer
from reals.models.repa_weights import PROJECTORS, reverse_time
from reals.runtime.errors import UserError
from reals.runtime.io import save_state, save_tensors


def published_state(transformer: PublishedTransformer, family: Family) -> dict[str, Tensor]:
    """Return the state dict that the code of ``family`` loads, projectors included for REPA.

    Raises:
        UserError: the family's code has no network that computes the same.
    """
    _check(transformer, family)
    weights = dict(transformer.weights)
    if transformer.config.frequency_shift:
        name = "t_embedder.mlp.0.weight"
        weights[name] = refit_time_layer(
            weights[name], of=transformer.config.frequency_shift, to=0, integer_times=False
        )
    if family != "REPA":
        return weights
    if transformer.config.learn_sigma:
        weights = _without_sigma(transformer, weights)
    projectors = {PROJECTORS + name: tensor for name, tensor in transformer.projectors.items()}
    return reverse_time(weights) | projectors


def write_published(path: Path, transformer: PublishedTransformer, family: Family) -> None:
    """Write a file that the code of ``family`` loads, atomically.

    A ``.pt`` or ``.pth`` is a plain state dict for SiT and DiT, and has it under ``ema`` for REPA, whose
    ``generate.py`` looks there (and wants projectors, of whatever values); ``.safetensors`` is always plain.

    Raises:
        UserError: another suffix, or as :func:`published_state`.
    """
    state = published_state(transformer, family)
    if path.suffix == ".safetensors":
        save_tensors(path, state)
    elif path.suffix in (".pt", ".pth"):
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_state(path, {"ema": whole} if family == "REPA" else whole)
    else:
        raise UserError(f"{path}: has the suffix '{path.suffix}'; give .safetensors, .pt or .pth")


def _check(transformer: PublishedTransformer, family: Family) -> None:
    config, training = transformer.config, transformer.training
    if isinstance(training, DiffusionTraining) != (family == "DiT"):
        wanted = "DiT" if isinstance(training, DiffusionTraining) else "SiT or REPA"
        raise UserError(f"the transformer was not trained as {family}'s code samples; export it for {wanted}")
    if isinstance(training, FlowTraining) and family == "REPA" and not _repa_samples(training):
        raise UserError(
            f"REPA samples velocities on the Linear and GVP paths, not {training.prediction} on {training.path}; "
            "export for SiT"
        )
    if config.qk_norm and family != "REPA":
        raise UserError(f"{family}'s code has no normalisation of queries and keys; export for REPA")
    if config.frequency_shift and family == "DiT":
        raise UserError(
            "the transformer uses diffusers' time frequencies, which no weights of DiT's code can imitate on integer "
            "times; export it for diffusers"
        )


def _repa_samples(training: FlowTraining) -> bool:
    return training.path in ("Linear", "GVP") and training.prediction == "velocity"


def _without_sigma(transformer: PublishedTransformer, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the half of the output that SiT computes and drops; REPA has none."""
    kept = dict(weights)
    patch, channels = transformer.config.patch_size, transformer.latent_channels
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        rows = weights[name].reshape(patch**2, 2 * channels, -1)[:, :channels]
        kept[name] = torch.reshape(rows, (patch**2 * channels, *weights[name].shape[1:])).contiguous()
    return kept
