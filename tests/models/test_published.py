"""Published transformers: every layout of file in, the same numbers out, and back again."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from reals.models.published import (
    DiffusionTraining,
    Family,
    FlowTraining,
    PublishedTransformer,
    read_published,
)
from reals.models.published_export import published_state, write_published
from reals.models.repa_weights import reverse_time
from reals.models.transformer import NamedTransformer, Transformer, TransformerConfig
from reals.runtime.errors import UserError
from reals.runtime.io import save_state, save_tensors

TINY = TransformerConfig(depth=2, width=32, heads=2, patch_size=2)
SIGMA = replace(TINY, learn_sigma=True)
SIT_ARGS = {"model": "SiT-S/2", "path_type": "GVP", "prediction": "noise", "loss_weight": None}
REPA_ARGS = {"model": "SiT-XL/2", "path_type": "linear", "prediction": "v", "proj_coeff": 0.5, "encoder_depth": 1}


def randomised(config: TransformerConfig = TINY, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    network = config.build(4, 8, 5)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 4, 8, 8), torch.tensor([0.0, 0.04, 0.3, 0.5, 0.9, 1.0]), torch.arange(6)


def write(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_tensors(path, state)
    else:
        save_state(path, state)
    return path


def wrapped(network: Transformer, **changes: Any) -> PublishedTransformer:
    plain = {
        "config": network.config,
        "latent_channels": 4,
        "grid": 8,
        "num_classes": 5,
        "weights": network.state_dict(),
        "family": "SiT",
        "training": FlowTraining(),
    }
    return PublishedTransformer(**{**plain, **changes})


def projectors() -> dict[str, Tensor]:
    return {f"{layer}.{part}": torch.randn(3) for layer in ("0.0", "0.2", "0.4") for part in ("weight", "bias")}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("config", [TINY, SIGMA])
@pytest.mark.parametrize("family", ["SiT", "DiT"])
def test_plain_state_dicts(tmp_path: Path, suffix: str, config: TransformerConfig, family: Family) -> None:
    network = randomised(config)
    path = write(tmp_path / f"{family}-tiny-256x256{suffix}", network.state_dict())
    found = read_published(path, heads=2)
    assert found.family == family
    assert found.config == replace(config, variance=config.learn_sigma and family == "DiT")
    assert found.training == (DiffusionTraining() if family == "DiT" else FlowTraining())
    assert (found.latent_channels, found.grid, found.num_classes) == (4, 8, 5)
    assert not found.averaged
    assert not found.projectors
    assert list(found.weights) == list(network.state_dict())
    assert torch.equal(found.build()(*inputs())[:, :4], network(*inputs()))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_training_checkpoint_gives_its_moving_average(tmp_path: Path, prefix: str) -> None:
    network, average = randomised(), randomised(seed=1)
    state = {
        "model": {prefix + name: tensor for name, tensor in network.state_dict().items()},
        "ema": {prefix + name: tensor for name, tensor in average.state_dict().items()},
        "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "args": Namespace(**SIT_ARGS),
    }
    found = read_published(write(tmp_path / "0050000.pt", state), heads=2)
    assert found.averaged
    assert found.notes == ("read the moving average at 'ema'",)
    assert found.family == "SiT"
    assert found.training == FlowTraining(path="GVP", prediction="noise")
    assert torch.equal(found.build()(*inputs()), average(*inputs()))
    del state["ema"]
    found = read_published(write(tmp_path / "0050000.pt", state), heads=2)
    assert not found.averaged
    assert found.notes == ("read the weights at 'model'",)
    assert torch.equal(found.build()(*inputs()), network(*inputs()))


@pytest.mark.parametrize("settings", [Namespace(model="DiT-XL/2", image_size=256), {"model": "DiT-XL/2"}])
def test_settings_tell_the_family(tmp_path: Path, settings: object) -> None:
    path = write(tmp_path / "SiT.pt", {"ema": randomised(SIGMA).state_dict(), "args": settings})
    found = read_published(path, heads=2)
    assert found.family == "DiT"
    assert found.config.variance
    assert read_published(path, heads=2, family="SiT").config == SIGMA


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    network = randomised().half()
    found = read_published(write(tmp_path / "sit.safetensors", network.state_dict()), heads=2)
    assert {tensor.dtype for tensor in found.weights.values()} == {torch.float32}


def test_normalised_queries_tell_the_heads(tmp_path: Path) -> None:
    config = replace(TINY, heads=4, qk_norm=True)
    network = randomised(config)
    found = read_published(write(tmp_path / "sit.pt", network.state_dict()))
    assert found.config == config
    assert torch.equal(found.build()(*inputs()), network(*inputs()))


@pytest.mark.parametrize("hidden", [53, 77, 97, 128])
def test_perceptrons_of_any_width(tmp_path: Path, hidden: int) -> None:
    weights = randomised().state_dict()
    for block in range(2):
        weights[f"blocks.{block}.mlp.fc1.weight"] = torch.zeros(hidden, 32)
        weights[f"blocks.{block}.mlp.fc1.bias"] = torch.zeros(hidden)
        weights[f"blocks.{block}.mlp.fc2.weight"] = torch.zeros(32, hidden)
    assert len(read_published(write(tmp_path / "sit.pt", weights), heads=2).weights["blocks.0.mlp.fc1.bias"]) == hidden


@pytest.mark.parametrize("patch_size", [2, 8])
@pytest.mark.parametrize("size", ["S", "B", "L", "XL"])
def test_every_published_size_is_recognised(size: str, patch_size: int) -> None:
    from reals.models.published_shapes import empty_network

    config = NamedTransformer(size=cast(Any, size), patch_size=cast(Any, patch_size), learn_sigma=True).config()
    with torch.device("meta"):
        weights = config.build(4, 32, 1000).state_dict()
    network = empty_network(weights, None, None, variance=False)
    assert (network.config, network.latent_channels, network.grid, network.num_classes) == (config, 4, 32, 1000)


# REPA


@pytest.mark.parametrize("config", [TINY, replace(TINY, qk_norm=True)])
def test_repas_network_becomes_sits(tmp_path: Path, config: TransformerConfig) -> None:
    original = randomised(config)
    state = {
        "ema": original.state_dict() | {f"projectors.{name}": tensor for name, tensor in projectors().items()},
        "args": Namespace(**REPA_ARGS),
    }
    found = read_published(write(tmp_path / "last.pt", state), heads=2)
    x, t, y = inputs()
    # What REPA's code computes at its own time, in float64, is the truth.
    expected: Tensor = -1 * original.double()(x.double(), 1 - t.double(), y)
    assert (found.build()(x, t, y) - expected).abs().max() < 3e-6 * expected.abs().max()
    assert found.family == "REPA"
    assert found.training == FlowTraining()
    assert found.encoder_depth == 1
    assert set(found.projectors) == set(projectors())


def test_reversal_is_exact_in_float64() -> None:
    network, reversed_network = randomised().double(), TINY.build(4, 8, 5).double()
    weights = network.state_dict()
    reversed_network.load_state_dict(reverse_time(weights))
    for name, tensor in reverse_time(reverse_time(weights)).items():
        assert torch.allclose(tensor, weights[name], rtol=0, atol=1e-15), name
    x, _, y = inputs()
    # Multiples of 1/32 and what they leave of 1 are exact in float32, in which times reach the sinusoid.
    t = torch.tensor([0.0, 0.25, 0.5, 0.625, 0.9375, 1.0])
    # The sinusoid itself is float32.
    assert (reversed_network(x.double(), t, y) + network(x.double(), 1 - t, y)).abs().max() < 1e-6


def test_repas_cosine_path_is_gvp(tmp_path: Path) -> None:
    state = {"ema": randomised().state_dict(), "args": Namespace(**{**REPA_ARGS, "path_type": "cosine"})}
    assert read_published(write(tmp_path / "a.pt", state), heads=2).training == FlowTraining(path="GVP")


def test_repas_early_names(tmp_path: Path) -> None:
    weights = randomised().state_dict()
    early = {name.replace("blocks.1.", "decoder_blocks.0."): tensor for name, tensor in weights.items()}
    assert set(early) != set(weights)
    expected = read_published(write(tmp_path / "repa.pt", weights), heads=2)
    found = read_published(write(tmp_path / "repa-early.pt", early), heads=2)
    assert found.config == expected.config
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in weights)


def test_repa_is_known_by_its_projectors(tmp_path: Path) -> None:
    weights = randomised().state_dict() | {"projectors.0.0.weight": torch.zeros(2, 2)}
    assert read_published(write(tmp_path / "SiT-XL-2-256x256.pt", weights), heads=2).family == "REPA"


# The way back


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("family", ["SiT", "DiT"])
def test_export_has_the_same_bits(tmp_path: Path, family: Family, suffix: str) -> None:
    network = randomised(SIGMA)
    read = read_published(write(tmp_path / f"{family}.pt", network.state_dict()), heads=2)
    write_published(tmp_path / f"{family}-again{suffix}", read, family)
    again = read_published(tmp_path / f"{family}-again{suffix}", heads=2)
    assert again.config == read.config
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in network.state_dict().items())
    if suffix == ".pt":
        state = torch.load(tmp_path / f"{family}-again.pt", weights_only=True)  # noqa: TID251
        network.load_state_dict(state, strict=True)


def test_repa_and_back(tmp_path: Path) -> None:
    original, heads = randomised(), projectors()
    whole = original.state_dict() | {f"projectors.{name}": tensor for name, tensor in heads.items()}
    read = read_published(write(tmp_path / "last.pt", {"ema": whole, "args": Namespace(**REPA_ARGS)}), heads=2)
    write_published(tmp_path / "back.pt", read, "REPA")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["ema"]  # noqa: TID251
    assert set(back) == set(whole)
    for name, tensor in whole.items():
        assert torch.allclose(back[name], tensor, rtol=0, atol=1e-7), name
    assert read_published(tmp_path / "back.pt", heads=2).family == "REPA"
    # As a SiT it keeps the converted weights and loses the projectors.
    assert set(published_state(read, "SiT")) == set(original.state_dict())


def test_sit_exported_for_repa_has_no_sigma() -> None:
    network = randomised(SIGMA)
    state = published_state(wrapped(network), "REPA")
    repa = TINY.build(4, 8, 5)
    repa.load_state_dict(state)
    x, t, y = inputs()
    expected = network(x, t, y)
    assert (repa(x, 1 - t, y) + expected).abs().max() < 1e-5 * expected.abs().max()


def test_diffusers_frequencies_become_sits() -> None:
    config = replace(TINY, frequency_shift=1)
    network, plain = randomised(config), TINY.build(4, 8, 5)
    copied = TINY.build(4, 8, 5)
    plain.load_state_dict(published_state(wrapped(network), "SiT"))
    copied.load_state_dict(network.state_dict())
    expected = network(*inputs())
    assert (plain(*inputs()) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (copied(*inputs()) - expected).abs().max() > 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("DiT", {}, "export it for SiT or REPA"),
        ("SiT", {"training": DiffusionTraining()}, "export it for DiT"),
        ("REPA", {"training": FlowTraining(path="VP")}, "not velocity on VP; export for SiT"),
        ("REPA", {"training": FlowTraining(prediction="noise")}, "not noise on Linear; export for SiT"),
        ("SiT", {"config": replace(TINY, qk_norm=True)}, "export for REPA"),
        (
            "DiT",
            {"training": DiffusionTraining(), "config": replace(TINY, frequency_shift=1)},
            "export it for diffusers",
        ),
    ],
)
def test_exports_that_would_compute_something_else_are_refused(
    family: Family, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        published_state(wrapped(randomised(), **changes), family)


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'.bin'; give .safetensors, .pt or .pth"):
        write_published(tmp_path / "a.bin", wrapped(randomised()), "SiT")


# Refusals


def refused(path: Path, state: dict[str, Any], **arguments: Any) -> str:
    write(path, state)
    with pytest.raises(UserError) as caught:
        read_published(path, **{"heads": 2, **arguments})
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_family_must_be_known(tmp_path: Path) -> None:
    weights = randomised(SIGMA).state_dict()
    assert refused(tmp_path / "0400000.pt", weights).endswith("whose this is; give family")
    assert refused(tmp_path / "sit-or-dit.pt", weights).endswith("whose this is; give family")
    assert read_published(tmp_path / "0400000.pt", heads=2, family="DiT").config.variance


def test_heads_must_be_known(tmp_path: Path) -> None:
    weights = randomised().state_dict()
    assert "2 blocks of width 32, no published size (S 12 x 384" in refused(tmp_path / "sit.pt", weights, heads=None)
    assert "heads is 3; it must divide the width" in refused(tmp_path / "sit.pt", weights, heads=3)
    normalised = randomised(replace(TINY, qk_norm=True)).state_dict()
    assert "heads is 4, but this size has 2" in refused(tmp_path / "sit.pt", normalised, heads=4)


def test_grid_must_be_known_and_fit(tmp_path: Path) -> None:
    network = randomised()
    weights = network.state_dict()
    assert "trained on 8x8 latents, not 16x16" in refused(tmp_path / "sit.pt", weights, grid=16)
    del weights["pos_embed"]
    assert "has no 'pos_embed'" in refused(tmp_path / "sit.pt", weights)
    assert "does not divide the 9x9 latent" in refused(tmp_path / "sit.pt", weights, grid=9)
    found = read_published(tmp_path / "sit.pt", heads=2, grid=8)
    assert "computed it for 8x8 latents" in found.notes[0]
    assert torch.equal(found.build()(*inputs()), network(*inputs()))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("pos_embed", torch.zeros(1, 12, 32), "no square of tokens"),
        ("pos_embed", torch.zeros(16, 32), "no square of tokens"),
        ("final_layer.linear.weight", torch.zeros(24, 32), "has 24 rows"),
        ("blocks.1.attn.proj.bias", torch.zeros(31), r"'blocks.1.attn.proj.bias' is [31] instead of [32]"),
        ("blocks.1.attn.proj.bias", torch.zeros(32, dtype=torch.int64), "holds no floating-point numbers"),
        ("blocks.1.attn.proj.bias", None, "no whole transformer: it has no tensor 'blocks.1.attn.proj.bias'"),
        ("x_embedder.proj.weight", None, "no SiT, DiT or REPA transformer: it has no tensor 'x_embedder.proj.weight'"),
        ("x_embedder.proj.weight", torch.zeros(32, 16), "has 2 axes instead of 4"),
        ("y_embedder.embedding_table.weight", torch.zeros(1, 32), "has one row"),
        ("blocks.0.attn.rope.freqs", torch.zeros(3), "has 'blocks.0.attn.rope.freqs', for which SiT and DiT"),
        ("blocks.0.attn.qkv.weight", "text", "'blocks.0.attn.qkv.weight' is a str where a tensor should be"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    weights: dict[str, Any] = dict(randomised().state_dict())
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    assert message in refused(tmp_path / "sit.pt", weights)


def test_unknown_objective_is_refused(tmp_path: Path) -> None:
    settings = Namespace(**{**SIT_ARGS, "path_type": "edm"})
    state = {"ema": randomised().state_dict(), "args": settings}
    assert "was trained for 'noise' on the path 'edm'" in refused(tmp_path / "a.pt", state)


def test_absent_and_damaged_files_are_refused(tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"sit{suffix}"
        with pytest.raises(UserError, match="no such file"):
            read_published(path)
        write(path, randomised().state_dict())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match="not a whole"):
            read_published(path)


class Attack:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "sit.pt", tmp_path / "mark"
    torch.save({"args": Attack(mark)}, file)  # noqa: TID251
    with pytest.raises(UserError, match="only running code from the file could restore"):
        read_published(file)
    assert not mark.exists()


def test_settings_are_allowed_for_this_reader_only(tmp_path: Path) -> None:
    from reals.runtime.io import load_state

    path = write(tmp_path / "sit.pt", {"ema": randomised().state_dict(), "args": Namespace(**SIT_ARGS)})
    assert read_published(path, heads=2).family == "SiT"
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        load_state(path)
