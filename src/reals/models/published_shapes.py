"""The size of a published transformer, read from the names and shapes of its tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from reals.models.repa_weights import count_blocks
from reals.models.transformer import SIZES, Transformer, TransformerConfig
from reals.runtime.errors import UserError

_REQUIRED = {
    "x_embedder.proj.weight": 4,
    "t_embedder.mlp.0.weight": 2,
    "y_embedder.embedding_table.weight": 2,
    "blocks.0.mlp.fc1.weight": 2,
    "blocks.0.attn.qkv.weight": 2,
    "final_layer.linear.weight": 2,
}
"""Tensors that tell the size, with their axes."""


def empty_network(weights: Mapping[str, Tensor], heads: int | None, grid: int | None, variance: bool) -> Transformer:
    """Return a network without memory (on the meta device) that has the names and shapes of ``weights``.

    Args:
        weights: by the published names, without REPA's projectors.
        heads: attention heads of sizes that were never published; no shape depends on them.
        grid: side of the latent, which the position embedding knows otherwise.
        variance: whether a network that learns sigma returns it.

    Raises:
        UserError: the tensors are not a SiT's or DiT's; the message says what is missing or in the way.
    """
    for name, axes in _REQUIRED.items():
        if name not in weights:
            raise UserError(f"no SiT, DiT or REPA transformer: it has no tensor '{name}'")
        if weights[name].ndim != axes:
            raise UserError(
                f"'{name}' has {weights[name].ndim} axes instead of {axes}; the file is damaged or another's"
            )
    width, latent_channels, patch_size, _ = weights["x_embedder.proj.weight"].shape
    depth = count_blocks(weights)
    learn_sigma = _learns_sigma(len(weights["final_layer.linear.weight"]), patch_size**2 * latent_channels)
    try:
        config = TransformerConfig(
            depth=depth,
            width=width,
            heads=_heads(weights, depth, width, heads),
            patch_size=patch_size,
            mlp_ratio=_mlp_ratio(len(weights["blocks.0.mlp.fc1.weight"]), width),
            learn_sigma=learn_sigma,
            variance=learn_sigma and variance,
            qk_norm="blocks.0.attn.q_norm.weight" in weights,
        )
    except ValueError as error:
        raise UserError(f"its shapes are not a transformer's ({error})") from None
    classes = len(weights["y_embedder.embedding_table.weight"]) - 1
    if classes < 1:
        raise UserError("its label table has one row; a class and the null class need two")
    with torch.device("meta"):
        network = config.build(latent_channels, _grid(weights, patch_size, grid), classes)
    expected = network.state_dict()
    if "pos_embed" not in weights:
        del expected["pos_embed"]
    compare_tensors(weights, expected)
    return network


def _learns_sigma(outputs: int, patch: int) -> bool:
    if outputs not in (patch, 2 * patch):
        raise UserError(
            f"'final_layer.linear.weight' has {outputs} rows; the patch embedding wants {patch}, or {2 * patch} with a "
            "learned sigma"
        )
    return outputs == 2 * patch


def _mlp_ratio(hidden: int, width: int) -> float:
    ratio = hidden / width
    # The network truncates the product, which may lie just below the whole number it came from.
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _heads(weights: Mapping[str, Tensor], depth: int, width: int, heads: int | None) -> int:
    if "blocks.0.attn.q_norm.weight" in weights:
        found = width // max(len(weights["blocks.0.attn.q_norm.weight"]), 1)
    else:
        published = {(depth, width): heads for depth, width, heads in SIZES.values()}
        found = published.get((depth, width), heads)
    if found is None:
        sizes = ", ".join(f"{name} {depth} x {width}" for name, (depth, width, _) in SIZES.items())
        raise UserError(
            f"has {depth} blocks of width {width}, no published size ({sizes}), and no tensor tells its number of "
            "attention heads; give heads"
        )
    if heads is not None and heads != found:
        raise UserError(f"heads is {heads}, but this size has {found}; leave it out")
    return found


def _grid(weights: Mapping[str, Tensor], patch_size: int, grid: int | None) -> int:
    if "pos_embed" not in weights:
        if grid is None:
            raise UserError(
                "has no 'pos_embed', which tells the side of its latents; give grid (32 for 256x256 images)"
            )
        return grid
    shape = weights["pos_embed"].shape
    tokens = shape[1] if len(shape) == 3 else 0
    side = math.isqrt(tokens)
    if tokens < 1 or side**2 != tokens:
        raise UserError(f"'pos_embed' has the shape {list(shape)}, which is no square of tokens; the file is another's")
    if grid is not None and grid != side * patch_size:
        raise UserError(
            f"was trained on {side * patch_size}x{side * patch_size} latents, not {grid}x{grid}; its position "
            "embedding holds for no other grid"
        )
    return side * patch_size


def compare_tensors(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that ``weights`` have the names and shapes of ``expected`` and nothing else.

    Raises:
        UserError: a tensor is absent, left over, of another shape, or holds no floating-point numbers.
    """
    for name, tensor in expected.items():
        if name not in weights:
            raise UserError(f"no whole transformer: it has no tensor '{name}'")
        if weights[name].shape != tensor.shape:
            shapes = f"{list(weights[name].shape)} instead of {list(tensor.shape)}"
            raise UserError(f"'{name}' is {shapes}; the file is damaged or another's")
        if not weights[name].is_floating_point():
            raise UserError(f"'{name}' holds no floating-point numbers; the file is damaged or another's")
    if foreign := [name for name in weights if name not in expected]:
        raise UserError(
            f"has '{foreign[0]}', for which SiT and DiT have no place ({len(foreign)} such tensors); "
            "it is another network"
        )
