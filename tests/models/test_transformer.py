"""The transformer against the published SiT: names, shapes, initialisation, outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.models.embeddings import LabelEmbedder, position_embedding, time_frequencies
from reals.models.transformer import SIT_B, SIT_L, SIT_S, SIT_XL, Transformer, TransformerConfig
from reals.runtime.errors import UserError

SIZES = {"S": SIT_S, "B": SIT_B, "L": SIT_L, "XL": SIT_XL}
TINY = TransformerConfig(depth=2, width=32, heads=2, patch_size=2)


def on_meta(config: TransformerConfig, grid: int = 32) -> Transformer:
    with torch.device("meta"):
        return config.build(4, grid, 1000)


def with_sigma(config: TransformerConfig) -> TransformerConfig:
    return TransformerConfig(
        depth=config.depth, width=config.width, heads=config.heads, patch_size=config.patch_size, learn_sigma=True
    )


def randomised(config: TransformerConfig = TINY, num_classes: int = 5) -> Transformer:
    """A network whose zero-initialised layers are not zero, so that everything reaches the output."""
    torch.manual_seed(0)
    network = config.build(4, 8, num_classes)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, 4, 8, 8), torch.rand(batch), torch.arange(batch) % 5


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
@pytest.mark.parametrize("size", ["S", "B"])
def test_state_dict_has_the_published_names_shapes_and_order(golden: Path, size: str) -> None:
    published = json.loads((golden / f"models/sit_{size.lower()}2_sigma_keys.json").read_text())
    network = on_meta(with_sigma(SIZES[size](2)))
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert list(shapes) == list(published["state_dict"])
    assert shapes == published["state_dict"]
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == published["n_params_trainable"]


@pytest.mark.golden
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_every_published_size_has_its_parameter_count(golden: Path, size: str, patch_size: int) -> None:
    published = json.loads((golden / "models/param_counts.json").read_text())
    for learn_sigma in (False, True):
        config = SIZES[size](patch_size)
        network = on_meta(with_sigma(config) if learn_sigma else config)
        count = sum(p.numel() for p in network.parameters())
        assert count == published[f"SiT-{size}/{patch_size} learn_sigma={learn_sigma}"]


@pytest.mark.golden
def test_initialisation_has_the_published_statistics(golden: Path) -> None:
    published = json.loads((golden / "models/sit_s2_init_stats.json").read_text())
    torch.manual_seed(0)
    for name, tensor in with_sigma(SIT_S(2)).build(4, 32, 1000).state_dict().items():
        expected = published[name]
        assert bool((tensor == 0).all()) == expected["zero"], name
        if not expected["zero"]:
            assert tensor.std().item() == pytest.approx(expected["std"], rel=0.02), name
            assert tensor.mean().item() == pytest.approx(expected["mean"], abs=0.002), name


def test_output_is_zero_at_initialisation() -> None:
    assert (TINY.build(4, 8, 5).eval()(*inputs()) == 0).all()


def test_builds_on_meta_without_memory() -> None:
    network = on_meta(SIT_XL(1))
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_patch_size_one_and_one_class() -> None:
    network = TransformerConfig(depth=1, width=16, heads=2, patch_size=1).build(3, 4, 1)
    assert network.null_label == 1
    assert network(torch.randn(2, 3, 4, 4), torch.rand(2), torch.zeros(2, dtype=torch.int64)).shape == (2, 3, 4, 4)


def test_each_sample_depends_on_its_own_input_only() -> None:
    network, (x, t, y) = randomised(), inputs()
    whole = network(x, t, y)
    assert torch.allclose(network(x[1:2], t[1:2], y[1:2]), whole[1:2], atol=1e-5)
    assert not torch.allclose(network(x, t, y.flip(0)), whole, atol=1e-3)
    assert not torch.allclose(network(x, t.flip(0), y), whole, atol=1e-3)


def test_labels_are_dropped_in_training_mode_only() -> None:
    embedder = LabelEmbedder(num_classes=5, width=2, dropout=0.25)
    with torch.no_grad():
        embedder.embedding_table.weight.copy_(torch.arange(6.0)[:, None].expand(6, 2))
    labels = torch.full((4000,), 3)
    torch.manual_seed(0)
    seen = embedder.train()(labels)[:, 0]
    assert set(seen.tolist()) == {3.0, 5.0}
    assert (seen == 5).float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(embedder(labels)[:, 0], seen)
    assert (embedder.eval()(labels) == 3).all()


def test_gradient_reaches_every_trainable_parameter() -> None:
    network = randomised()
    network(*inputs()).square().mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert network.pos_embed.grad is None


def test_normalisation_stays_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = randomised(), inputs()
    expected = network(*batch)
    seen: list[torch.dtype] = []
    original = torch.nn.functional.layer_norm

    def spy(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        seen.append(x.dtype)
        return original(x, *args, **kwargs)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(torch.nn.functional, "layer_norm", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(*batch)
    assert seen == [torch.float32] * 5
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_whole_network_in_bfloat16() -> None:
    network, (x, t, y) = randomised().bfloat16(), inputs()
    assert network(x.bfloat16(), t, y).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"heads": 3}, "must divide the width"),
        ({"width": 18, "heads": 3}, "multiple of 4"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"label_dropout": 1.0}, "label_dropout"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"depth": 2, "width": 32, "heads": 2, "patch_size": 2, **change})  # pyright: ignore[reportArgumentType]


def test_patch_must_divide_the_latent() -> None:
    with pytest.raises(UserError, match="does not divide the 9x9 latent"):
        TINY.build(4, 9, 5)


def test_at_least_one_class() -> None:
    with pytest.raises(ValueError, match="num_classes is 0"):
        TINY.build(4, 8, 0)
