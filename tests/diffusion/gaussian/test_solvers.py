"""Samplers: DiT's final states, and Gaussian data, whose best noise and exact answers are known in closed form."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.diffusion.gaussian.process import GaussianDiffusion
from reals.diffusion.gaussian.schedule import LinearBetas
from reals.diffusion.gaussian.solvers import DDIM, DDPM, GaussianSolver
from reals.diffusion.gaussian.spacing import EvenSpacing, SectionSpacing, StrideSpacing
from reals.diffusion.gaussian.variance import FixedLarge, FixedSmall, LearnedRange, Variance
from reals.diffusion.guidance import Guidance, Output, guide
from reals.diffusion.noise import NoiseSource, PerImageNoise
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError

FULL = LinearBetas().schedule()
MEAN, STD = 0.7, 0.6
SMALL = GaussianDiffusion(variance=FixedSmall())


def silence(shape: tuple[int, ...], device: torch.device) -> Tensor:
    raise AssertionError("nothing asks for noise")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stream() -> NoiseSource:
    """Noise for one image of many independent elements."""
    return PerImageNoise(1, [0])


def best_noise(x: Tensor, t: Tensor, std: float = STD) -> Tensor:
    """E[ε | x_t] for data N(MEAN, std²), elementwise."""
    ab = FULL.alpha_bar[t.long()].float().reshape(-1, *(1,) * (x.ndim - 1))
    return (1 - ab).sqrt() * (x - ab.sqrt() * MEAN) / (ab * std**2 + 1 - ab)


def moments(process: GaussianDiffusion, solver: GaussianSolver, output: Output) -> tuple[float, float]:
    """Mean and standard deviation of the samples, without sampling: for ``best_noise`` they are affine in every noise.

    Element 0 gets no noise at all, and each of the others one unit of one of the noises that the sampler uses.
    """
    units = iter(torch.eye(solver.steps + 1)[1:])
    end = process.sample(solver, output, next(units)[None, None], lambda shape, device: next(units)[None, None])[0, 0]
    return end[0].item(), (end[1:] - end[0]).norm().item()


def exact_path(x: Tensor, alpha_bar: float) -> Tensor:
    """The data that the deterministic path joins to x at ᾱ."""
    return MEAN + STD * (x - alpha_bar**0.5 * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar) ** 0.5


def recorded_network(x: Tensor, t: Tensor) -> Tensor:
    """The network that DiT's samplers were recorded with."""
    t = t[:, None, None, None]
    return torch.cat([0.9 * x + 0.1 * torch.sin(t / 100), torch.tanh(x) * torch.cos(t / 300)], 1)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "solver", "variance"),
    [
        ("ddpm/learned", DDPM(steps=12), LearnedRange()),
        ("ddpm/sections", DDPM(steps=12, spacing=SectionSpacing(counts=(3, 4, 5))), LearnedRange()),
        ("ddpm/small", DDPM(steps=12), FixedSmall()),
        ("ddpm/large", DDPM(steps=12), FixedLarge()),
        ("ddpm/clip", DDPM(steps=12, clip=1.0), LearnedRange()),
        ("ddim/0", DDIM(steps=10, spacing=StrideSpacing()), LearnedRange()),
        ("ddim/half", DDIM(steps=10, spacing=StrideSpacing(), eta=0.5), LearnedRange()),
        ("ddim/clip", DDIM(steps=12, eta=1.0, clip=1.0), LearnedRange()),
    ],
)
def test_final_states_are_dits(golden: Path, name: str, solver: GaussianSolver, variance: Variance) -> None:
    values = np.load(golden / "diffusion/dit_process.npz", allow_pickle=False)
    fresh: Iterator[Tensor] = iter(torch.from_numpy(values["fresh"]))
    process = GaussianDiffusion(variance=variance)

    def output(x: Tensor, t: Tensor) -> Tensor:
        return recorded_network(x, t)[:, : process.outputs(4)]

    end = process.sample(solver, output, torch.from_numpy(values["start"]), lambda shape, device: next(fresh))
    np.testing.assert_allclose(end.numpy(), values[name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("steps", [5, 50, 250])
def test_ancestral_sampling_with_the_best_variance_is_exact_in_any_number_of_steps(steps: int) -> None:
    # For Gaussian data the reverse step is Gaussian, with variance β̃ + a² Var[x | x_t]: within [β̃, β] for STD ≤ 1.
    schedule = FULL.respaced(EvenSpacing().timesteps(1000, steps))

    def output(x: Tensor, t: Tensor) -> Tensor:
        index = schedule.timesteps.index(int(t[0]))
        ab = schedule.alpha_bar[index]
        unsure = STD**2 * (1 - ab) / (ab * STD**2 + 1 - ab)
        best = (schedule.posterior_variance[index] + schedule.posterior_data_weight[index] ** 2 * unsure).log()
        low, high = schedule.posterior_log_variance[index], schedule.betas[index].log()
        v = 2 * (best - low) / (high - low) - 1 if index else torch.zeros(())
        assert -1 <= v <= 1
        return torch.cat([best_noise(x, t), v.float().expand_as(x)], 1)

    mean, std = moments(GaussianDiffusion(), DDPM(steps=steps), output)
    assert mean == pytest.approx(MEAN, abs=1e-4)
    # The last step returns E[x | x_0], which spreads less than the data by the noise left at timestep 0.
    assert std == pytest.approx(STD / (1 + 1e-4 / 0.9999 / STD**2) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("variance", "sign"), [(FixedSmall(), -1), (FixedLarge(), 1)])
def test_fixed_variances_enclose_the_truth_and_close_in_on_it(variance: Variance, sign: int) -> None:
    excess = []
    for steps in (10, 40, 160):
        mean, std = moments(GaussianDiffusion(variance=variance), DDPM(steps=steps), best_noise)
        assert mean == pytest.approx(MEAN, abs=0.005)
        excess.append(sign * (std / STD - 1))
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[0] > 0.05
    assert excess[2] < 0.05


def test_implicit_sampling_is_first_order() -> None:
    start = draw(1, 1, 500)
    errors = []
    for steps in (16, 32, 64, 128):
        end = SMALL.sample(DDIM(steps=steps), best_noise, start, silence)
        errors.append((end - exact_path(start, FULL.alpha_bar[-1].item())).abs().mean().item())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.2)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_implicit_sampling_closes_in_on_the_datas_mean_and_spread(eta: float) -> None:
    lack = []
    for steps in (40, 80, 160):
        mean, std = moments(SMALL, DDIM(steps=steps, eta=eta), best_noise)
        assert mean == pytest.approx(MEAN, abs=0.5 / steps)
        lack.append(1 - std / STD)
    for coarse, fine in pairwise(lack):
        assert 1.4 < coarse / fine < 2.2
    assert 0 < lack[-1] < 0.04


def test_samples_have_the_computed_moments() -> None:
    mean, std = moments(SMALL, DDPM(steps=30), best_noise)
    end = SMALL.sample(DDPM(steps=30), best_noise, draw(1, 1, 40_000), stream())
    # Four standard errors.
    assert end.mean().item() == pytest.approx(mean, abs=4 * STD / 200)
    assert end.std().item() == pytest.approx(std, rel=4 / 283)


def test_implicit_sampling_with_all_the_noise_is_ancestral_sampling_with_the_small_variance() -> None:
    start = draw(1, 1, 100)
    implicit = SMALL.sample(DDIM(steps=20, eta=1.0), best_noise, start, stream())
    ancestral = SMALL.sample(DDPM(steps=20), best_noise, start, stream())
    assert torch.allclose(implicit, ancestral, atol=1e-4)


def test_encoding_finds_the_noise_and_returns() -> None:
    data = MEAN + STD * draw(1, 1, 500)
    back, noise_errors = [], []
    for steps in (25, 50, 100):
        solver = DDIM(steps=steps)
        noise = solver.encode(SMALL.chain(best_noise), data)
        noise_errors.append((exact_path(noise, FULL.alpha_bar[-1].item()) - data).abs().mean().item())
        back.append((SMALL.sample(solver, best_noise, noise, silence) - data).abs().mean().item())
    for errors in (noise_errors, back):
        assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]
    assert noise_errors[-1] < 0.03
    assert back[-1] < 0.03


def test_encoding_evaluates_the_network_once_per_step_at_the_less_noisy_end() -> None:
    asked: list[float] = []
    steps: list[int] = []

    def output(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t[0].item())
        return torch.zeros_like(x)

    DDIM(steps=4).encode(SMALL.chain(output), torch.zeros(1, 1), lambda step, x: steps.append(step))
    assert asked == [0.0, 0.0, 333.0, 666.0]
    assert steps == [1, 2, 3, 4]


def test_one_step_by_hand() -> None:
    # The only timestep is 0: x = (x_t - √(1 - ᾱ) ε) / √ᾱ with ᾱ = 0.9999, and no noise.
    for solver in (DDPM(steps=1), DDIM(steps=1)):
        end = SMALL.sample(solver, lambda x, t: torch.full_like(x, 2.0), torch.ones(1, 1), silence)
        assert end.item() == pytest.approx((1 - 0.01 * 2) / 0.9999**0.5, rel=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        DDPM(steps=4),
        DDIM(steps=5, eta=1.0, spacing=StrideSpacing()),
        DDPM(steps=5, spacing=SectionSpacing(counts=(2, 3))),
    ],
)
def test_network_is_asked_once_at_each_of_the_original_timesteps(solver: GaussianSolver) -> None:
    asked: list[float] = []
    drawn: list[tuple[int, ...]] = []
    steps: list[int] = []

    def output(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        assert (t == t[0]).all()
        assert t.dtype == torch.float32
        asked.append(t[0].item())
        return torch.zeros_like(x)

    def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
        drawn.append(shape)
        return torch.zeros(2, *shape)

    SMALL.sample(solver, output, torch.zeros(2, 3, 4), noise, lambda step, x: steps.append(step))
    assert asked == SMALL.times(solver)
    assert asked == sorted(asked, reverse=True)
    assert steps == list(range(1, solver.steps + 1))
    # No noise at the last step.
    assert drawn == [(3, 4)] * (solver.steps - 1)


def test_dits_250_steps_visit_dits_timesteps() -> None:
    times = GaussianDiffusion().times(DDPM())
    assert len(times) == 250
    assert times[:3] == [999.0, 995.0, 991.0]
    assert times[-3:] == [8.0, 4.0, 0.0]


def test_noise_level_runs_from_0_to_1() -> None:
    level = GaussianDiffusion().noise_level(torch.tensor([0.0, 499.5, 999.0]))
    assert level.tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_an_image_does_not_depend_on_its_batch() -> None:
    start = PerImageNoise(3, [4, 9])((1, 2, 2))
    process, solver = GaussianDiffusion(variance=FixedLarge()), DDPM(steps=6)
    both = process.sample(solver, best_noise, start, PerImageNoise(8, [4, 9]))
    alone = process.sample(solver, best_noise, start[1:], PerImageNoise(8, [9]))
    assert torch.equal(both[1:], alone)


def test_clamped_data_stay_within() -> None:
    for solver in (DDPM(steps=20, clip=0.5), DDIM(steps=20, clip=0.5)):
        end = SMALL.sample(solver, best_noise, draw(1, 1, 2000), stream())
        assert end.abs().max() <= 0.5
        assert (end == 0.5).any()


def test_state_is_float32_for_half_precision_networks() -> None:
    seen: list[torch.dtype] = []

    def output(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x.bfloat16()

    for solver in (DDPM(steps=2), DDIM(steps=2, eta=1.0)):
        end = SMALL.sample(solver, output, torch.ones(1, 1, 2).bfloat16(), PerImageNoise(0, [0]))
        assert end.dtype == torch.float32
        assert end.isfinite().all()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("solver", [DDPM(steps=5), DDIM(steps=5, eta=0.5, clip=1.0)])
def test_sampling_never_waits_for_the_device(solver: GaussianSolver) -> None:
    # A tensor on the device "meta" has no values, so that looking at one is an error.
    def network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert {x.device.type, t.device.type, labels.device.type} == {"meta"}
        return torch.cat([x, x], 1) + t[:, None, None]

    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    process = GaussianDiffusion()
    for scale in (1.0, 2.0):
        guidance = Guidance(scale=scale, interval=(0.0, 0.75))
        output = guide(network, labels, 9, guidance, noise_level=process.noise_level)
        start = torch.zeros(2, 3, 4, device="meta")
        end = process.sample(solver, output, start, lambda shape, device: torch.zeros(2, *shape, device=device))
        assert end.shape == (2, 3, 4)


def test_network_with_other_outputs_is_refused() -> None:
    with pytest.raises(UserError, match=r"predicts 3 channels for latents of 3.*LearnedRange needs 6"):
        GaussianDiffusion().sample(DDPM(steps=2), best_noise, torch.zeros(1, 3, 2), silence)


@pytest.mark.parametrize("solver", [DDPM(steps=9, spacing=StrideSpacing()), DDIM(eta=0.5, clip=1.0)])
def test_settings_survive_json(solver: GaussianSolver) -> None:
    assert from_dict(type(solver), to_dict(solver)) == solver
    process = GaussianDiffusion(variance=LearnedRange(bound_weight=0.5))
    assert from_dict(GaussianDiffusion, to_dict(process)) == process


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"clip": 0.0}, "clip is 0"),
        ({"clip": math.nan}, "clip is nan"),
        ({"eta": 1.5}, "eta is 1.5"),
        ({"eta": math.nan}, "eta is nan"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDIM(**change)  # pyright: ignore[reportArgumentType]
