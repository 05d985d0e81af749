"""Our transformer and diffusers' DiT: the same outputs where they can be, and a measured difference where not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reals.models.diffusers_transformer import load_diffusers, save_diffusers
from reals.models.published import DiffusionTraining, FlowTraining, PublishedTransformer
from reals.models.transformer import Transformer, TransformerConfig
from reals.runtime.errors import UserError
from reals.runtime.io import load_tensors, save_state, save_tensors

TINY = TransformerConfig(depth=2, width=32, heads=2, patch_size=2)
DIT = replace(TINY, learn_sigma=True, variance=True)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def randomised(config: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    network = config.build(4, 8, 5)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def published(config: TransformerConfig, **changes: Any) -> PublishedTransformer:
    diffusion = config.variance
    plain = {
        "config": config,
        "latent_channels": 4,
        "grid": 8,
        "num_classes": 5,
        "weights": randomised(config).state_dict(),
        "family": "DiT" if diffusion else "SiT",
        "training": DiffusionTraining() if diffusion else FlowTraining(path="GVP"),
    }
    return PublishedTransformer(**{**plain, **changes})


def inputs(times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(len(times), 4, 8, 8), times, torch.arange(len(times)) % 6


UNIT_TIMES = torch.linspace(0, 1, 24)
INTEGER_TIMES = torch.arange(0, 1000, 41)


def theirs(directory: Path) -> Any:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    network: Any = DiTTransformer2DModel
    loaded, info = network.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return loaded.eval()


@torch.no_grad()
def relative_difference(ours: Transformer, network: Any, times: Tensor) -> float:
    x, t, y = inputs(times)
    expected = ours(x, t, y)
    return ((network(x, t, y).sample - expected).abs().max() / expected.abs().max()).item()


def settings_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def test_diffusers_own_network_is_read_exactly(tmp_path: Path) -> None:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    torch.manual_seed(0)
    original: Any = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=5,
        norm_eps=1e-6,
    )
    first = original.transformer_blocks[0].norm1.emb
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for block in original.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    original.eval().save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    found = load_diffusers(tmp_path)
    assert found.config == replace(DIT, frequency_shift=1)
    assert found.training == DiffusionTraining()
    assert relative_difference(found.build(), original, INTEGER_TIMES) < 1e-5
    # Their class too reads what we write.
    save_diffusers(tmp_path / "again", found)
    again = load_tensors(tmp_path / "again" / WEIGHTS)
    assert all(torch.equal(again[name], tensor) for name, tensor in original.state_dict().items())
    assert relative_difference(found.build(), theirs(tmp_path / "again"), INTEGER_TIMES) < 1e-5


@pytest.mark.parametrize("config", [TINY, replace(TINY, learn_sigma=True)])
def test_flows_compute_the_same_in_diffusers_and_back(tmp_path: Path, config: TransformerConfig) -> None:
    transformer = published(config)
    save_diffusers(tmp_path, transformer)
    network = theirs(tmp_path)
    x, t, y = inputs(UNIT_TIMES)
    expected = transformer.build()(x, t, y)
    with torch.no_grad():
        found = network(x, t, y).sample[:, :4]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    back = load_diffusers(tmp_path)
    assert back.config == replace(config, frequency_shift=1)
    assert back.training == FlowTraining(path="GVP")
    assert back.family == "SiT"
    assert (back.build()(x, t, y) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_dit_differs_by_its_frequencies_and_the_fit_halves_it(tmp_path: Path) -> None:
    transformer = published(DIT)
    ours = transformer.build()
    save_diffusers(tmp_path / "copied", transformer, copied=True)
    save_diffusers(tmp_path / "fitted", transformer)
    copied = relative_difference(ours, theirs(tmp_path / "copied"), INTEGER_TIMES)
    fitted = relative_difference(ours, theirs(tmp_path / "fitted"), INTEGER_TIMES)
    assert 0.05 < fitted < 0.7 * copied
    # Nothing but the frequencies differs: with ours, diffusers' network is DiT's.
    network = theirs(tmp_path / "copied")
    for block in network.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    assert relative_difference(ours, network, INTEGER_TIMES) < 1e-5


def test_copies_come_back_bit_by_bit(tmp_path: Path) -> None:
    transformer = published(DIT)
    save_diffusers(tmp_path, transformer, copied=True)
    back = load_diffusers(tmp_path, copied=True)
    assert back.config == DIT
    assert list(back.weights) == list(transformer.weights)
    for name, tensor in transformer.weights.items():
        assert torch.equal(back.weights[name], tensor), name


def test_older_directories(tmp_path: Path) -> None:
    transformer = published(DIT)
    save_diffusers(tmp_path, transformer, copied=True)
    tensors = load_tensors(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    save_state(tmp_path / "diffusion_pytorch_model.bin", tensors | {"pos_embed.pos_embed": torch.zeros(1, 16, 32)})
    settings = settings_of(tmp_path) | {"_class_name": "Transformer2DModel", "norm_eps": 1e-5, "dropout": 0.0}
    del settings["_reals_training"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    back = load_diffusers(tmp_path, copied=True)
    assert torch.equal(back.build()(*inputs(INTEGER_TIMES)), transformer.build()(*inputs(INTEGER_TIMES)))
    assert load_diffusers(tmp_path, training=FlowTraining()).family == "SiT"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "SanaTransformer2DModel"}, "not the settings of a DiTTransformer2DModel"),
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu'; SiT and DiT have 'gelu-approximate'"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine is True"),
        ({"norm_eps": 1e-3}, "norm_eps is 0.001"),
        ({"out_channels": 5}, "out_channels is 5; SiT and DiT give 4 or 8"),
        ({"num_layers": None}, "num_layers is None"),
        ({"patch_size": 3}, "does not divide the 8x8 latent"),
        ({"attention_head_dim": 9}, "width is 18"),
        ({"num_embeds_ada_norm": 7}, "is [6, 32] instead of [8, 32]"),
        ({"num_layers": 3}, "no whole transformer: it has no tensor 'transformer_blocks.2."),
        ({"num_layers": 1}, "for which SiT and DiT have no place"),
        ({"_reals_training": {"training": {"type": "Other"}}}, "unknown type 'Other'"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_diffusers(tmp_path, published(DIT))
    (tmp_path / "config.json").write_text(json.dumps(settings_of(tmp_path) | changes))
    with pytest.raises(UserError) as caught:
        load_diffusers(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_blocks_that_embed_differently_are_refused(tmp_path: Path) -> None:
    save_diffusers(tmp_path, published(DIT))
    tensors = load_tensors(tmp_path / WEIGHTS)
    tensors["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"][2, 3] += 1e-3
    save_tensors(tmp_path / WEIGHTS, tensors)
    with pytest.raises(UserError, match=r"blocks 0 and 1 have different 'class_embedder.embedding_table.weight'"):
        load_diffusers(tmp_path)


def test_absent_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_diffusers(tmp_path)
    save_diffusers(tmp_path, published(DIT))
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_diffusers(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"diffusion_pytorch_model.bin: no such file"):
        load_diffusers(tmp_path)
    save_state(tmp_path / "diffusion_pytorch_model.bin", {"pos_embed.proj.weight": 3})
    with pytest.raises(UserError, match="is a int where a tensor should be"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(TINY, qk_norm=True), "no normalisation of queries and keys"),
        (replace(TINY, mlp_ratio=2.0), "perceptrons of 4 times the width, not 2.0"),
    ],
)
def test_networks_that_diffusers_lacks_are_refused(tmp_path: Path, config: TransformerConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        save_diffusers(tmp_path / "out", published(config))
    assert not (tmp_path / "out").exists()


def test_another_position_embedding_is_refused(tmp_path: Path) -> None:
    weights = randomised(TINY).state_dict()
    weights["pos_embed"] = weights["pos_embed"] + 0.01
    with pytest.raises(UserError, match="computes its position embedding"):
        save_diffusers(tmp_path / "out", published(TINY, weights=weights))
