"""From our transformer to diffusers' ``DiTTransformer2DModel`` and back, one directory each.

The two compute the same but for the angular frequencies of the time (decision 22). Imports therefore take diffusers'
frequencies with them and give diffusers' outputs; exports fit the layer after the sinusoid, exactly for flows, whose
times lie in [0, 1], and as well as it can be for DiT's integer times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reals.models.embeddings import position_embedding
from reals.models.frequencies import refit_time_layer
from reals.models.published import DiffusionTraining, FlowTraining, PublishedTransformer
from reals.models.published_shapes import compare_tensors
from reals.models.transformer import Transformer, TransformerConfig
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_directory, load_state, load_tensors, read_json, save_tensors, write_json

_KINDS = ("DiTTransformer2DModel", "Transformer2DModel")
"""Today's name of the class and the one that older directories, DiT's on the hub among them, give."""

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_CONFIG = "config.json"
_SUBFOLDER = "transformer"
_TIME = "t_embedder.mlp.0.weight"
_TRAINING = "_reals_training"
"""In config.json; diffusers passes over names that begin with an underscore."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    training: FlowTraining | DiffusionTraining


_ONCE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.embedding_table.weight": "class_embedder.embedding_table.weight",
}
_IN_BLOCKS = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_PROJECTIONS = ("attn1.to_q", "attn1.to_k", "attn1.to_v")

_REQUIRED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
"""Settings with which diffusers' network is SiT's and DiT's."""

_NUMBERS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "sample_size",
    "patch_size",
    "num_embeds_ada_norm",
)
_LARGEST_EPSILON = 1e-5

_POSITION_TOLERANCE = 1e-4
"""Moving averages of the fixed embedding drift by rounding; DiT's own is float32."""


def save_diffusers(directory: Path, transformer: PublishedTransformer, *, copied: bool = False) -> None:
    """Write a directory that ``DiTTransformer2DModel.from_pretrained`` loads; it appears whole or not at all.

    A flow's network gives the same outputs there for times in [0, 1]. A DiT's differs by what its frequencies differ.

    Args:
        directory: the place; an existing directory is replaced.
        transformer: the network.
        copied: leave the layer after the sinusoid as it is, as in the hub's ``facebook/DiT-XL-2-256``: outputs in
            diffusers differ more, but :func:`load_diffusers` with ``copied`` gives the same bits back.

    Raises:
        UserError: diffusers has no network that computes the same.
    """
    config, weights = transformer.config, dict(transformer.weights)
    _check_export(transformer)
    if not copied:
        integer_times = isinstance(transformer.training, DiffusionTraining)
        weights[_TIME] = refit_time_layer(weights[_TIME], of=config.frequency_shift, to=1, integer_times=integer_times)
    settings = _REQUIRED | {
        "_class_name": _KINDS[0],
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": transformer.latent_channels,
        "out_channels": transformer.latent_channels * (2 if config.learn_sigma else 1),
        "num_layers": config.depth,
        "sample_size": transformer.grid,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": transformer.num_classes,
        "norm_eps": 1e-6,
        _TRAINING: to_dict(_Record(training=transformer.training)),
    }
    with atomic_directory(directory) as temporary:
        save_tensors(temporary / _WEIGHTS[0], to_diffusers(weights, config.depth), {"format": "pt"})
        write_json(temporary / _CONFIG, settings)


def load_diffusers(
    directory: Path, *, training: FlowTraining | DiffusionTraining | None = None, copied: bool = False
) -> PublishedTransformer:
    """Load the directory of a ``DiTTransformer2DModel``, or of a ``DiTPipeline`` that holds one.

    Outputs are diffusers', to float32's accuracy. Its normalisation before the perceptrons may have an epsilon of up to
    1e-5, the default of diffusers; ours is SiT's and DiT's 1e-6.

    Args:
        directory: with config.json and the weights, as safetensors or a ``.bin`` of nothing but tensors.
        training: what it was trained for; None takes what an export of ours says, else DiT's diffusion.
        copied: the weights are a copy of SiT's or DiT's own, as ``facebook/DiT-XL-2-256`` on the hub, and are to be
            used with the frequencies that they were trained with, not with those that diffusers gives them.

    Raises:
        UserError: no such network is there, SiT and DiT have no network that computes the same, the weights are
            damaged, or blocks embed time or class differently.
    """
    if not (directory / _CONFIG).exists() and (directory / _SUBFOLDER / _CONFIG).exists():
        directory = directory / _SUBFOLDER
    where = directory / _CONFIG
    settings = read_json(where)
    if not isinstance(settings, dict) or settings.get("_class_name") not in _KINDS:
        raise UserError(f"{where}: not the settings of a {_KINDS[0]}; give the directory that holds one")
    training = training or _recorded_training(where, settings)
    try:
        network = _empty_network(settings, isinstance(training, DiffusionTraining), copied)
    except (UserError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    path = directory / _WEIGHTS[0]
    tensors = load_tensors(path) if path.exists() else load_state(path := directory / _WEIGHTS[1])
    try:
        weights = _under_our_names(tensors, network)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return PublishedTransformer(
        config=network.config,
        latent_channels=network.latent_channels,
        grid=network.grid,
        num_classes=network.num_classes,
        weights=weights,
        family="DiT" if isinstance(training, DiffusionTraining) else "SiT",
        training=training,
    )


def to_diffusers(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return our weights under diffusers' names; its every block has embedders of its own, which become copies."""
    renamed: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        for ours, theirs in _ONCE.items():
            renamed[f"{theirs}.{part}"] = weights[f"{ours}.{part}"]
        for block in range(depth):
            for ours, theirs in _IN_BLOCKS.items():
                renamed[f"transformer_blocks.{block}.{theirs}.{part}"] = weights[f"blocks.{block}.{ours}.{part}"]
            projections = weights[f"blocks.{block}.attn.qkv.{part}"].chunk(3)
            for theirs, tensor in zip(_PROJECTIONS, projections, strict=True):
                renamed[f"transformer_blocks.{block}.{theirs}.{part}"] = tensor.clone()
    for block in range(depth):
        for ours, theirs in _EMBEDDERS.items():
            # safetensors refuses tensors that share their memory.
            renamed[f"transformer_blocks.{block}.norm1.emb.{theirs}"] = weights[ours].clone()
    return renamed


def from_diffusers(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return diffusers' weights under our names, without ``pos_embed``, which diffusers computes.

    Raises:
        UserError: two blocks embed the time or the class differently.
    """
    renamed: dict[str, Tensor] = {}
    for ours, theirs in _EMBEDDERS.items():
        renamed[ours] = first = weights[f"transformer_blocks.0.norm1.emb.{theirs}"]
        for block in range(1, depth):
            if not torch.equal(weights[f"transformer_blocks.{block}.norm1.emb.{theirs}"], first):
                raise UserError(
                    f"blocks 0 and {block} have different '{theirs}'; SiT and DiT embed time and class once, so only "
                    "networks whose blocks agree are read"
                )
    for part in ("weight", "bias"):
        for ours, theirs in _ONCE.items():
            renamed[f"{ours}.{part}"] = weights[f"{theirs}.{part}"]
        for block in range(depth):
            place = f"transformer_blocks.{block}"
            for ours, theirs in _IN_BLOCKS.items():
                renamed[f"blocks.{block}.{ours}.{part}"] = weights[f"{place}.{theirs}.{part}"]
            projections = [weights[f"{place}.{theirs}.{part}"] for theirs in _PROJECTIONS]
            renamed[f"blocks.{block}.attn.qkv.{part}"] = torch.cat(projections)
    return renamed


def _recorded_training(where: Path, settings: Mapping[str, Any]) -> FlowTraining | DiffusionTraining:
    if _TRAINING not in settings:
        return DiffusionTraining()
    return from_dict(_Record, settings[_TRAINING], f"{where}: {_TRAINING}").training


def _empty_network(settings: Mapping[str, Any], diffusion: bool, copied: bool) -> Transformer:
    """Return the network that the settings describe, without memory (on the meta device)."""
    for name, wanted in _REQUIRED.items():
        if settings.get(name, wanted) != wanted:
            raise UserError(f"{name} is {settings[name]!r}; SiT and DiT have {wanted!r}")
    epsilon = settings.get("norm_eps", _LARGEST_EPSILON)
    if not isinstance(epsilon, float) or epsilon > _LARGEST_EPSILON:
        raise UserError(f"norm_eps is {epsilon}; SiT and DiT have 1e-6")
    numbers = {name: settings.get(name) for name in _NUMBERS}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise UserError(f"{name} is {number!r}; it must be a whole number of at least 1")
    heads, head_width, channels, depth, grid, patch_size, classes = (int(number or 0) for number in numbers.values())
    outputs = settings.get("out_channels") or channels
    if outputs not in (channels, 2 * channels):
        raise UserError(f"out_channels is {outputs}; SiT and DiT give {channels} or {2 * channels}")
    config = TransformerConfig(
        depth=depth,
        width=heads * head_width,
        heads=heads,
        patch_size=patch_size,
        learn_sigma=outputs == 2 * channels,
        variance=outputs == 2 * channels and diffusion,
        frequency_shift=0 if copied else 1,
    )
    with torch.device("meta"):
        return config.build(channels, grid, classes)


def _under_our_names(tensors: Mapping[Any, Any], network: Transformer) -> dict[str, Tensor]:
    config = network.config
    # Older versions of diffusers saved the position embedding, which they computed all the same.
    stored = {str(name): tensor for name, tensor in tensors.items() if name != "pos_embed.pos_embed"}
    for name, tensor in stored.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"'{name}' is a {type(tensor).__name__} where a tensor should be")
    compare_tensors(stored, to_diffusers(network.state_dict(), config.depth))
    side = network.grid // config.patch_size
    weights = from_diffusers(stored, config.depth)
    weights["pos_embed"] = position_embedding(config.width, side, side)
    return {name: weights[name].float().contiguous() for name in network.state_dict()}


def _check_export(transformer: PublishedTransformer) -> None:
    config = transformer.config
    if config.qk_norm:
        raise UserError("diffusers' DiT has no normalisation of queries and keys; the transformer cannot be exported")
    if config.mlp_ratio != 4.0:
        raise UserError(f"diffusers' DiT has perceptrons of 4 times the width, not {config.mlp_ratio}")
    side = transformer.grid // config.patch_size
    computed = position_embedding(config.width, side, side)
    if (transformer.weights["pos_embed"].cpu() - computed).abs().max() > _POSITION_TOLERANCE:
        raise UserError("diffusers' DiT computes its position embedding, and the transformer's is another one")
