"""Guidance: the originals' values, what each kind computes, and how many forward passes it costs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.diffusion.gaussian.process import GaussianDiffusion
from reals.diffusion.gaussian.solvers import DDIM, DDPM
from reals.diffusion.guidance import Guidance, guide
from reals.diffusion.objective import FlowMatching
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
    flow = FlowMatching().flow(guide(network, LABELS, NULL, guidance))
    solver.integrate(flow, X, noise=lambda shape, device: torch.zeros(3, *shape))
    assert sum(network.batches) == 3 * guidance.forwards(solver.times(0.0, 1.0))


def test_known_costs_of_the_papers_interval() -> None:
    guidance = Guidance(scale=2.0, interval=(0.0, 0.75))
    assert guidance.forwards(Euler(steps=50).times(0.0, 1.0)) == 50 + 37
    assert guidance.forwards(EulerMaruyama(steps=250).times(0.0, 1.0)) == 250 + 185
    assert Guidance().forwards(EulerMaruyama(steps=250).times(0.0, 1.0)) == 250


def test_papers_interval_and_its_other_reading() -> None:
    # The noisiest quarter is spared; read as SiT's time, [0, 0.75] would spare the cleanest one.
    times = torch.linspace(0, 1, 101)
    for interval, expected in (((0.0, 0.75), times >= 0.2499), ((0.25, 1.0), times <= 0.7501)):
        network = Counting()
        output = guide(network, LABELS, NULL, Guidance(scale=2.0, interval=interval))
        for t in times:
            output(X, t.expand(3))
        assert [batch == 6 for batch in network.batches] == expected.tolist()
    assert Guidance(scale=2.0, interval=(0.25, 1.0)).forwards(Euler(steps=50).times(0.0, 1.0)) == 50 + 38


class LearnedVariance(Counting):
    """Twice the channels: a prediction, and as many numbers more, all linear in the label."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([super().__call__(x, t, y), x - 7.0 * y[:, None]], dim=1)


@pytest.mark.parametrize(("channels", "guided"), [(None, 4), (3, 3), (4, 4), (8, 4)])
def test_learned_variance_stays_conditional(channels: int | None, guided: int) -> None:
    network, t = LearnedVariance(), torch.full((3,), 0.5)
    out = guide(network, LABELS, NULL, Guidance(scale=3.0, channels=channels))(X, t)
    conditional, null = network(X, t, LABELS), network(X, t, torch.full((3,), NULL))
    assert out.shape == (3, 8)
    assert torch.equal(out[:, guided:], conditional[:, guided:])
    expected = null + 3.0 * (conditional - null)
    assert torch.allclose(out[:, :guided], expected[:, :guided], atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_autoguidance_extrapolates_from_the_weaker_network(scale: float) -> None:
    strong, weak = LearnedVariance(), Counting()
    t = torch.tensor([0.2, 0.5, 0.9])

    def weaker(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * weak(x, t, y)

    guidance = Guidance(scale=scale, interval=(0.4, 0.9))
    out = guide(strong, LABELS, NULL, guidance, weaker=weaker)(X, t)
    assert (strong.batches, weak.batches) == ([3], [2])
    plain = strong(X, t, LABELS)
    other = weaker(X, t, LABELS)
    assert torch.allclose(out[:2, :4], (other + scale * (plain[:, :4] - other))[:2], atol=1e-4)
    assert torch.equal(out[2], plain[2])
    assert torch.equal(out[:, 4:], plain[:, 4:])


def test_batch_that_is_guided_as_a_whole_is_not_copied() -> None:
    def weaker(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        assert (x.data_ptr(), y.data_ptr()) == (X.data_ptr(), LABELS.data_ptr())
        return x

    before = X.clone()
    out = guide(Counting(), LABELS, NULL, Guidance(scale=2.0), weaker=weaker)(X, torch.full((3,), 0.5))
    assert torch.equal(X, before)
    assert not torch.equal(out, X)


@pytest.mark.parametrize(("scale", "t"), [(1.0, 0.5), (2.0, 0.1)])
def test_weaker_network_is_not_asked_where_it_does_not_count(scale: float, t: float) -> None:
    def weaker(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("asked in vain")

    network = Counting()
    guidance = Guidance(scale=scale, interval=(0.0, 0.75))
    out = guide(network, LABELS, NULL, guidance, weaker=weaker)(X, torch.full((3,), t))
    assert network.batches == [3]
    assert torch.equal(out, Counting()(X, torch.full((3,), t), LABELS))


def test_cost_of_autoguidance_is_counted_per_network() -> None:
    strong, weak, solver = Counting(), Counting(), Euler(steps=20)
    guidance = Guidance(scale=2.0, interval=(0.1, 0.6))
    solver.integrate(FlowMatching().flow(guide(strong, LABELS, NULL, guidance, weaker=weak)), X)
    assert sum(strong.batches) == 3 * len(solver.times(0.0, 1.0))
    assert sum(weak.batches) == 3 * guidance.guided(solver.times(0.0, 1.0)) == 3 * 11
    assert guidance.forwards(solver.times(0.0, 1.0)) == len(solver.times(0.0, 1.0)) + 11
    assert Guidance(scale=1.0).guided(solver.times(0.0, 1.0)) == 0


@pytest.mark.parametrize("solver", [DDPM(steps=40), DDIM(steps=25)])
def test_gaussian_diffusion_is_guided_by_its_own_noise_level(solver: DDPM | DDIM) -> None:
    process, network = GaussianDiffusion(), LearnedVariance()
    guidance = Guidance(scale=1.5, interval=(0.0, 0.75))
    output = guide(network, LABELS, NULL, guidance, noise_level=process.noise_level)
    process.sample(solver, output, X, lambda shape, device: torch.zeros(3, *shape))
    # Noisiest first: the first quarter is not guided.
    guided = [t <= 0.75 * 999 for t in process.times(solver)]
    assert [batch == 6 for batch in network.batches] == guided
    assert 0.74 < sum(guided) / len(guided) < 0.77
    assert sum(network.batches) == 3 * guidance.forwards(process.times(solver), process.noise_level)


def test_known_cost_of_the_papers_interval_with_dit() -> None:
    process, guidance = GaussianDiffusion(), Guidance(scale=1.5, interval=(0.0, 0.75))
    assert guidance.forwards(process.times(DDPM()), process.noise_level) == 250 + 187


@pytest.mark.parametrize("t", [[0.5] * 3, [0.1] * 3, [0.1, 0.5, 0.5]])
def test_times_on_the_cpu_spare_a_wait_for_the_device(t: list[float]) -> None:
    # A tensor on the device "meta" has no values, so that looking at one is an error.
    network, weak = Counting(), Counting()
    guidance = Guidance(scale=2.0, interval=(0.0, 0.75))
    for weaker in (None, weak):
        output = guide(network, LABELS.to("meta"), NULL, guidance, weaker=weaker)
        assert output(X.to("meta"), torch.tensor(t)).device.type == "meta"
    guided = sum(time > 0.2 for time in t)
    assert network.batches == [3 + guided, 3]
    assert weak.batches == [guided] * bool(guided)


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
