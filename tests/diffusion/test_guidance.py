"""Guidance: the originals' values, and how many forward passes it costs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.diffusion.guidance import Guidance, guide
from reals.diffusion.solvers import Euler, EulerMaruyama, Heun
from reals.models.transformer import TransformerConfig

NULL = 9


class Counting:
    """A network linear in the label, which remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.batches.append(len(x))
        assert len(x) == len(t) == len(y)
        return x + t[:, None] + 10.0 * y[:, None]


X = torch.randn(3, 4)
LABELS = torch.tensor([1, 2, 3])


@pytest.mark.golden
@pytest.mark.parametrize(("channels", "name"), [(3, "cfg_out_first3"), (None, "cfg_out_all")])
def test_guided_output_is_sits(golden: Path, channels: int | None, name: str) -> None:
    published = json.loads((golden / "models/tiny_config.json").read_text())
    values = dict(np.load(golden / "models/sit_tiny_sigma.npz", allow_pickle=False))
    network = TransformerConfig(
        depth=published["depth"],
        width=published["hidden_size"],
        heads=published["num_heads"],
        patch_size=2,
        learn_sigma=True,
    ).build(4, 8, published["num_classes"])
    network.load_state_dict({k[3:]: torch.from_numpy(v) for k, v in values.items() if k.startswith("sd/")})
    # The original passes the images twice; the first half is conditional, and only its x counts.
    x, t, y = (torch.from_numpy(values[f"cfg_{part}"])[:3] for part in "xty")
    guidance = Guidance(scale=float(values["cfg_scale"]), channels=channels)
    with torch.inference_mode():
        out = guide(network.eval(), y, network.null_label, guidance)(x, t)
    assert np.abs(out.numpy() - values[name][:3]).max() < 1e-4


def test_scale_one_is_one_conditional_pass() -> None:
    network = Counting()
    out = guide(network, LABELS, NULL, Guidance(scale=1.0))(X, torch.full((3,), 0.5))
    assert network.batches == [3]
    assert torch.equal(out, Counting()(X, torch.full((3,), 0.5), LABELS))


@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
def test_guided_velocity_is_the_extrapolation(scale: float) -> None:
    network, t = Counting(), torch.full((3,), 0.5)
    out = guide(network, LABELS, NULL, Guidance(scale=scale))(X, t)
    conditional, null = network(X, t, LABELS), network(X, t, torch.full((3,), NULL))
    assert network.batches[0] == 6
    assert torch.allclose(out, null + scale * (conditional - null), atol=1e-4)


def test_outside_the_interval_only_the_conditional_half_is_computed() -> None:
    network = Counting()
    velocity = guide(network, LABELS, NULL, Guidance(scale=2.0, interval=(0.2, 0.75)))
    for t in (0.0, 0.24, 0.25, 0.5, 0.8, 0.81, 1.0):
        velocity(X, torch.full((3,), t))
    assert network.batches == [3, 3, 6, 6, 6, 3, 3]


def test_interval_is_in_noise_units_so_the_papers_spares_the_noisy_end() -> None:
    network = Counting()
    velocity = guide(network, LABELS, NULL, Guidance(scale=2.0, interval=(0.0, 0.75)))
    velocity(X, torch.zeros(3))
    velocity(X, torch.ones(3))
    assert network.batches == [3, 6]


def test_ends_of_the_interval_are_included_in_spite_of_rounding() -> None:
    network = Counting()
    velocity = guide(network, LABELS, NULL, Guidance(scale=2.0, interval=(0.1, 0.3)))
    for t in (0.7, 0.9):
        velocity(X, torch.full((3,), t))
    assert network.batches == [6, 6]


def test_times_of_a_batch_may_differ() -> None:
    network, t = Counting(), torch.tensor([0.1, 0.5, 0.9])
    out = guide(network, LABELS, NULL, Guidance(scale=3.0, interval=(0.4, 0.6)))(X, t)
    assert network.batches == [4]
    plain = network(X, t, LABELS)
    assert torch.equal(out[[0, 2]], plain[[0, 2]])
    assert torch.allclose(out[1], plain[1] + 2.0 * 10.0 * (2 - NULL), atol=1e-3)


def test_unguided_channels_stay_conditional() -> None:
    t = torch.full((3,), 0.5)
    out = guide(Counting(), LABELS, NULL, Guidance(scale=3.0, channels=1))(X, t)
    plain = Counting()(X, t, LABELS)
    assert torch.equal(out[:, 1:], plain[:, 1:])
    assert not torch.allclose(out[:, :1], plain[:, :1])


@pytest.mark.parametrize("solver", [Euler(steps=50), Heun(steps=20), EulerMaruyama(steps=250)])
def test_cost_is_what_is_counted(solver: Euler | Heun | EulerMaruyama) -> None:
    network, guidance = Counting(), Guidance(scale=2.0, interval=(0.0, 0.75))
    velocity = guide(network, LABELS, NULL, guidance)
    solver.integrate(velocity, X, noise=lambda shape, device: torch.zeros(3, *shape))
    assert sum(network.batches) == 3 * guidance.forwards(solver.times())


def test_known_costs_of_the_papers_interval() -> None:
    guidance = Guidance(scale=2.0, interval=(0.0, 0.75))
    assert guidance.forwards(Euler(steps=50).times()) == 50 + 37
    assert guidance.forwards(EulerMaruyama(steps=250).times()) == 250 + 185
    assert Guidance().forwards(EulerMaruyama(steps=250).times()) == 250


def test_guidance_of_a_half_precision_network_is_computed_in_float32() -> None:
    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x.bfloat16()

    assert guide(network, LABELS, NULL, Guidance(scale=2.0))(X, torch.zeros(3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": -1.0}, "guidance scale is -1"),
        ({"scale": float("nan")}, "guidance scale is nan"),
        ({"interval": (0.8, 0.2)}, "guidance interval is 0.8 to 0.2"),
        ({"interval": (0.0, 1.5)}, "must lie within 0"),
        ({"channels": 0}, "guidance channels is 0"),
    ],
)
def test_impossible_guidance_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(**change)  # pyright: ignore[reportArgumentType]
