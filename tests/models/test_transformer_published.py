"""The transformer against the published SiT and DiT: names, shapes, sizes, initialisation, outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reals.models.embeddings import position_embedding, time_frequencies
from reals.models.transformer import (
    SIT_B,
    SIT_L,
    SIT_S,
    SIT_XL,
    SIZES,
    NamedTransformer,
    Transformer,
    TransformerConfig,
)


def on_meta(config: TransformerConfig, grid: int = 32) -> Transformer:
    with torch.device("meta"):
        return config.build(4, grid, 1000)


@pytest.fixture
def tiny_sit(golden: Path) -> tuple[Transformer, dict[str, np.ndarray]]:
    published = json.loads((golden / "models/tiny_config.json").read_text())
    values = dict(np.load(golden / "models/sit_tiny_sigma.npz", allow_pickle=False))
    network = TransformerConfig(
        depth=published["depth"],
        width=published["hidden_size"],
        heads=published["num_heads"],
        patch_size=published["patch_size"],
        learn_sigma=True,
    ).build(published["in_channels"], published["input_size"], published["num_classes"])
    weights = {key.removeprefix("sd/"): torch.from_numpy(v) for key, v in values.items() if key.startswith("sd/")}
    network.load_state_dict(weights, strict=True)
    return network.eval(), values


@pytest.mark.golden
def test_published_weights_give_the_published_output(tiny_sit: tuple[Transformer, dict[str, np.ndarray]]) -> None:
    network, values = tiny_sit
    with torch.inference_mode():
        out = network(*(torch.from_numpy(values[name]) for name in ("x", "t", "y")))
    assert np.abs(out.numpy() - values["out"]).max() < 2e-5
    assert np.abs(values["out"]).max() > 0.1


@pytest.mark.golden
def test_time_sinusoid_is_sits(tiny_sit: tuple[Transformer, dict[str, np.ndarray]]) -> None:
    _, values = tiny_sit
    assert np.abs(time_frequencies(torch.from_numpy(values["t"])).numpy() - values["t_freq_emb"]).max() < 1e-6


@pytest.mark.golden
def test_position_embedding_is_sits(golden: Path) -> None:
    expected = np.load(golden / "models/pos_embed_s2.npz", allow_pickle=False)["pos_embed"]
    assert np.abs(position_embedding(384, 16, 16).numpy() - expected).max() < 1e-6


@pytest.mark.golden
def test_guidance_of_the_published_output_is_the_published_guidance(
    tiny_sit: tuple[Transformer, dict[str, np.ndarray]],
) -> None:
    network, values = tiny_sit
    x, t, y = (torch.from_numpy(values[name]) for name in ("cfg_x", "cfg_t", "cfg_y"))
    half = len(x) // 2
    with torch.inference_mode():
        conditional, without = network(torch.cat([x[:half], x[:half]]), t, y).chunk(2)
    guided = without + float(values["cfg_scale"]) * (conditional - without)
    first_three = torch.cat([guided[:, :3], conditional[:, 3:]], dim=1)
    # The published function returns each half; the fourth channel of the second is the unconditional one.
    assert np.abs(guided.numpy() - values["cfg_out_all"][:half]).max() < 1e-4
    assert np.abs(first_three.numpy() - values["cfg_out_first3"][:half]).max() < 1e-4
    assert np.abs(without[:, 3:].numpy() - values["cfg_out_first3"][half:, 3:]).max() < 1e-4


@pytest.mark.golden
@pytest.mark.parametrize("name", ["sit_s2", "sit_b2", "dit_s2"])
def test_state_dict_has_the_published_names_shapes_and_order(golden: Path, name: str) -> None:
    published = json.loads((golden / f"models/{name}_sigma_keys.json").read_text())
    config = NamedTransformer(size="S" if "_s2" in name else "B", learn_sigma=True, variance=name == "dit_s2").config()
    network = on_meta(config)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert list(shapes) == list(published["state_dict"])
    assert shapes == published["state_dict"]
    assert len(shapes) == published["n_state_dict_entries"]
    assert sum(p.numel() for p in network.parameters()) == published["n_params_total"]
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == published["n_params_trainable"]


@pytest.mark.golden
def test_every_published_size_has_its_parameter_count(golden: Path) -> None:
    published = json.loads((golden / "models/param_counts.json").read_text())
    seen = set()
    for size in SIZES:
        for patch_size in (2, 4, 8):
            for learn_sigma in (False, True):
                network = on_meta(NamedTransformer(size=size, patch_size=patch_size, learn_sigma=learn_sigma).config())
                count = sum(p.numel() for p in network.parameters())
                for family in ("SiT", "DiT"):
                    name = f"{family}-{size}/{patch_size} learn_sigma={learn_sigma}"
                    assert count == published[name], name
                    seen.add(name)
        repa = f"REPA SiT-{size}/2 z=[768]"
        if repa in published:
            network = on_meta(NamedTransformer(size=size).config())
            count = sum(p.numel() for p in network.parameters())
            assert count == published[repa] - published[f"{repa} projectors"]
            seen |= {repa, f"{repa} projectors"}
    assert seen == set(published)


def test_functions_are_the_named_sizes() -> None:
    for function, numbers in zip((SIT_S, SIT_B, SIT_L, SIT_XL), SIZES.values(), strict=True):
        config = function(1)
        assert (config.depth, config.width, config.heads, config.patch_size) == (*numbers, 1)


def test_a_size_is_chosen_on_a_command_line() -> None:
    import tyro

    chosen = tyro.cli(NamedTransformer, args=["--size", "XL", "--patch-size", "4", "--learn-sigma"])
    assert chosen.config() == replace(SIT_XL(4), learn_sigma=True)


@pytest.mark.golden
def test_initialisation_has_the_published_statistics(golden: Path) -> None:
    published = json.loads((golden / "models/sit_s2_init_stats.json").read_text())
    torch.manual_seed(0)
    for name, tensor in replace(SIT_S(2), learn_sigma=True).build(4, 32, 1000).state_dict().items():
        expected = published[name]
        assert bool((tensor == 0).all()) == expected["zero"], name
        if not expected["zero"]:
            assert tensor.std().item() == pytest.approx(expected["std"], rel=0.02), name
            assert tensor.mean().item() == pytest.approx(expected["mean"], abs=0.002), name
            # The largest of many draws of a normal varies; of a uniform it is the bound.
            spread = 0.3 if name.startswith(("t_embedder", "y_embedder")) else 0.02
            assert tensor.abs().max().item() == pytest.approx(expected["absmax"], rel=spread), name


def test_builds_on_meta_without_memory() -> None:
    network = on_meta(SIT_XL(1))
    assert {p.device.type for p in network.parameters()} == {"meta"}
