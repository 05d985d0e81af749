"""Operations are those that torch counts; peaks are those of data sheets or of a product."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reals.models.transformer import NamedTransformer, SizeName, Transformer, TransformerConfig
from reals.runtime.flops import known_peak, measured_peak, processor_seconds, transformer_flops


def counted(network: Transformer, grid: int) -> int:
    x = torch.empty(1, network.latent_channels, grid, grid, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, torch.empty(1, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("config", "channels", "grid"),
    [
        (TransformerConfig(depth=2, width=32, heads=2, patch_size=2), 4, 8),
        (TransformerConfig(depth=3, width=64, heads=4, patch_size=1, mlp_ratio=3.0, learn_sigma=True), 16, 4),
        (NamedTransformer(size="S").config(), 4, 32),
    ],
)
def test_closed_form_is_what_torch_counts(config: TransformerConfig, channels: int, grid: int) -> None:
    with torch.device("meta"):
        network = config.build(channels, grid, 10)
    patch = config.patch_size**2 * channels
    expected = transformer_flops(
        depth=config.depth,
        width=config.width,
        hidden=int(config.width * config.mlp_ratio),
        tokens=(grid // config.patch_size) ** 2,
        patch_inputs=patch,
        patch_outputs=patch * (2 if config.learn_sigma else 1),
    )
    assert counted(network, grid) == expected


@pytest.mark.parametrize(("size", "published"), [("S", 6.06), ("B", 23.01), ("L", 80.71), ("XL", 118.64)])
def test_half_of_it_is_what_dit_prints(size: SizeName, published: float) -> None:
    config = NamedTransformer(size=size).config()
    operations = transformer_flops(
        depth=config.depth,
        width=config.width,
        hidden=4 * config.width,
        tokens=256,
        patch_inputs=16,
        patch_outputs=32,
    )
    assert operations / 2e9 == pytest.approx(published, rel=2e-3)


def test_known_gpus_only() -> None:
    assert known_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert known_peak("NVIDIA GeForce 256") is None


def test_measured_peak_is_plausible() -> None:
    cpu = torch.device("cpu")
    started = processor_seconds(cpu)
    peak = measured_peak(cpu, torch.float32, side=256, rounds=2)
    assert processor_seconds(cpu) > started
    assert 1e8 < peak < 1e14
