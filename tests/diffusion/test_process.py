"""Both kinds of diffusion are sampled by one function, and only by what fits them."""

import math

import pytest
import torch
from torch import Tensor

from reals.diffusion.gaussian import DDIM, DDPM, FixedSmall, GaussianDiffusion
from reals.diffusion.objective import FlowMatching
from reals.diffusion.process import (
    Process,
    Sampler,
    check_sampler,
    evaluation_times,
    noise_level,
    sample,
    steps_of,
)
from reals.diffusion.solvers import Dopri5, Euler, EulerMaruyama, Heun, MeanStep, StochasticHeun
from reals.runtime.errors import UserError

MEAN, STD = 0.7, 0.4
GAUSSIAN = GaussianDiffusion(variance=FixedSmall())
FLOW: tuple[Sampler, ...] = (Euler(steps=60), Heun(steps=20), Dopri5(), EulerMaruyama(steps=400), StochasticHeun())


def _noise(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape, device: torch.randn(4000, *shape, generator=generator)


def _velocity(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity on the linear path for data N(MEAN, STD²)."""
    t = t.reshape(-1, 1, 1, 1)
    variance = (t * STD) ** 2 + (1 - t) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


def _predicted_noise(x: Tensor, t: Tensor) -> Tensor:
    """The exact expected noise in DiT's process for the same data."""
    alpha_bar = GAUSSIAN.betas.schedule().alpha_bar[t.long()].float().reshape(-1, 1, 1, 1)
    spread = alpha_bar * STD**2 + 1 - alpha_bar
    return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * MEAN) / spread


@pytest.mark.parametrize(
    ("process", "sampler"),
    [*((FlowMatching(), solver) for solver in FLOW), (GAUSSIAN, DDPM(steps=250)), (GAUSSIAN, DDIM(steps=100))],
    ids=lambda value: type(value).__name__,
)
def test_samples_have_the_moments_of_the_data(process: Process, sampler: Sampler) -> None:
    output = _predicted_noise if isinstance(process, GaussianDiffusion) else _velocity
    steps: list[int] = []
    noise = _noise(0)
    x = noise((1, 1, 1), torch.device("cpu"))
    made = sample(process, sampler, output, x, noise, lambda step, state: steps.append(step))
    assert made.dtype == torch.float32
    # Four thousand samples: three standard errors, and the error of the steps.
    assert made.mean().item() == pytest.approx(MEAN, abs=3 * STD / math.sqrt(4000) + 0.01)
    assert made.std().item() == pytest.approx(STD, rel=0.06)
    assert steps == list(range(1, len(steps) + 1))
    if steps_of(sampler) is not None:
        assert len(steps) == steps_of(sampler)


@pytest.mark.parametrize("sampler", FLOW, ids=lambda value: type(value).__name__)
def test_a_flow_solver_does_not_fit_gaussian_diffusion(sampler: Sampler) -> None:
    with pytest.raises(UserError, match=r"cannot sample a network trained by Gaussian diffusion; use DDPM or DDIM"):
        check_sampler(GAUSSIAN, sampler)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM()])
def test_a_gaussian_sampler_does_not_fit_a_flow(sampler: Sampler) -> None:
    with pytest.raises(UserError, match=r"cannot sample a network trained by flow matching; use Euler"):
        sample(FlowMatching(), sampler, _velocity, torch.zeros(1, 1, 1, 1), _noise(0))


def test_a_solver_that_leaves_the_interval_is_refused_before_it_begins() -> None:
    almost = EulerMaruyama(last_step=MeanStep(size=1e-4))
    check_sampler(FlowMatching(), almost)
    with pytest.raises(UserError, match="EulerMaruyama: the last step would begin at"):
        check_sampler(FlowMatching(sample_margin=0.01), almost)


def test_times_and_noise_levels() -> None:
    assert evaluation_times(FlowMatching(), Euler(steps=4)) == [0.0, 0.25, 0.5, 0.75]
    assert evaluation_times(FlowMatching(), Dopri5()) is None
    times = evaluation_times(GAUSSIAN, DDIM(steps=3))
    assert times == [999.0, 500.0, 0.0]
    assert noise_level(GAUSSIAN)(torch.tensor(times)).tolist() == pytest.approx([1.0, 500 / 999, 0.0])
    assert noise_level(FlowMatching())(torch.tensor([0.0, 0.25, 1.0])).tolist() == [1.0, 0.75, 0.0]
