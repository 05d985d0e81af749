"""Solvers on Gaussian data, whose velocity and exact answer are known in closed form."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.diffusion.diffusion_coefficient import (
    ConstantDiffusion,
    DecreasingDiffusion,
    DiffusionCoefficient,
    IncreasingDecreasingDiffusion,
    LinearDiffusion,
    SBDMDiffusion,
    SigmaDiffusion,
)
from reals.diffusion.noise import PerImageNoise
from reals.diffusion.solvers import Euler, EulerMaruyama, Heun
from reals.runtime.config import from_dict, to_dict


def gaussian_velocity(mean: Tensor | float, std: Tensor | float) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity of the linear path to N(mean, std²), elementwise."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *(1,) * (x.ndim - 1))
        variance = t**2 * std**2 + (1 - t) ** 2
        return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)

    return velocity


def silence(shape: tuple[int, ...], device: torch.device) -> Tensor:
    raise AssertionError("an ordinary differential equation asks for no noise")


@pytest.mark.golden
@pytest.mark.parametrize(("solver", "name"), [(Euler(steps=49), "euler"), (Heun(steps=49), "heun2")])
def test_final_states_are_the_originals(golden: Path, solver: Euler | Heun, name: str) -> None:
    values = np.load(golden / "transport/ode.npz", allow_pickle=False)
    mean, std, start = (torch.from_numpy(values[key]) for key in ("m", "s", "init"))
    end = solver.integrate(gaussian_velocity(mean, std), start, silence)
    # The original calls 49 intervals "50 steps".
    assert np.abs(end.numpy() - values[f"ode/Linear/velocity/{name}/n50"]).max() < 2e-5
    assert np.abs(end.numpy() - values["exact_ode"]).max() < {"euler": 0.25, "heun2": 0.01}[name]


@pytest.mark.parametrize(("kind", "order"), [(Euler, 1.0), (Heun, 2.0)])
def test_measured_order(kind: type[Euler] | type[Heun], order: float) -> None:
    mean, std = 0.7, 1.9
    start = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (10, 20, 40):
        end = kind(steps=steps).integrate(gaussian_velocity(mean, std), start, silence)
        errors.append((end - (mean + std * start)).abs().mean().item())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    "form",
    [
        SigmaDiffusion(),
        LinearDiffusion(),
        DecreasingDiffusion(),
        IncreasingDecreasingDiffusion(),
        ConstantDiffusion(),
        SigmaDiffusion(scale=0.0),
    ],
)
def test_stochastic_solver_reproduces_mean_and_variance(form: DiffusionCoefficient) -> None:
    mean, std, generator = 0.5, 1.5, torch.Generator().manual_seed(0)
    start = torch.randn(1, 40_000, generator=generator)
    end = EulerMaruyama(steps=150, diffusion=form).integrate(
        gaussian_velocity(mean, std), start, lambda shape, device: torch.randn(1, *shape, generator=generator)
    )
    assert end.mean().item() == pytest.approx(mean, abs=0.03)
    assert end.std().item() == pytest.approx(std, rel=0.03)


def test_stochastic_solver_draws_noise_every_step_but_the_last() -> None:
    drawn: list[tuple[int, ...]] = []

    def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
        drawn.append(shape)
        return torch.ones(2, *shape)

    EulerMaruyama(steps=7).integrate(gaussian_velocity(0.0, 1.0), torch.zeros(2, 3, 4), noise)
    assert drawn == [(3, 4)] * 6


def test_stochastic_solver_by_hand() -> None:
    # Two steps, v = 1: at t = 0 score = -x, D = 1; at t = 0.5 score = (0.5 - x) / 0.5, D = 0.5.
    solver = EulerMaruyama(steps=2, last_step=0.5)
    end = solver.integrate(
        lambda x, t: torch.ones_like(x), torch.tensor([[2.0]]), lambda shape, device: torch.ones(1, 1)
    )
    middle = 2.0 + 0.5 * (1.0 - 2.0) + math.sqrt(2 * 0.5 * 1.0)
    assert end.item() == pytest.approx(middle + 0.5 * (1.0 + 0.5 * (0.5 - middle) / 0.5), rel=1e-6)


@pytest.mark.parametrize("solver", [Euler(steps=4), Heun(steps=3), EulerMaruyama(steps=5, last_step=0.2)])
def test_velocity_is_evaluated_once_at_each_of_the_named_times(solver: Euler | Heun | EulerMaruyama) -> None:
    asked: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        asked.append(t[0].item())
        return torch.zeros_like(x)

    steps: list[int] = []
    solver.integrate(velocity, torch.zeros(2, 1), PerImageNoise(0, [0, 1]), lambda step, x: steps.append(step))
    assert asked == pytest.approx(solver.times())
    assert min(asked) == 0.0
    assert max(asked) <= 1.0
    assert steps == list(range(1, solver.steps + 1))


def test_settings_count_intervals() -> None:
    assert Euler(steps=4).times() == [0.0, 0.25, 0.5, 0.75]
    assert Heun(steps=2).times() == [0.0, 0.5, 0.5, 1.0]
    assert EulerMaruyama(steps=250).times()[-1] == pytest.approx(0.96)
    assert len(EulerMaruyama(steps=250).times()) == 250


def test_state_is_float32_for_half_precision_velocities() -> None:
    seen: list[torch.dtype] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x.bfloat16()

    for solver in (Euler(steps=2), Heun(steps=2), EulerMaruyama(steps=2)):
        assert solver.integrate(velocity, torch.ones(1, 1).bfloat16(), PerImageNoise(0, [0])).dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_solvers_survive_json() -> None:
    solver = EulerMaruyama(steps=9, diffusion=DecreasingDiffusion(scale=0.5))
    assert from_dict(EulerMaruyama, to_dict(solver)) == solver


@pytest.mark.parametrize("kind", [Euler, Heun])
def test_at_least_one_step(kind: type[Euler] | type[Heun]) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        kind(steps=0)


def test_impossible_stochastic_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps is 1"):
        EulerMaruyama(steps=1)
    with pytest.raises(ValueError, match="last_step is 0"):
        EulerMaruyama(last_step=0.0)
    with pytest.raises(ValueError, match="SBDMDiffusion is infinite at t = 0"):
        EulerMaruyama(diffusion=SBDMDiffusion())


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    alone = PerImageNoise(5, [3])
    together = PerImageNoise(5, [1, 3, 7])
    for shape in ((2, 4, 4), (1, 3)):
        assert torch.equal(together(shape)[1:2], alone(shape))


def test_noise_differs_by_image_seed_and_draw() -> None:
    noise = PerImageNoise(5, [1, 2])
    first, second = noise((4, 8, 8)), noise((4, 8, 8))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert not torch.equal(PerImageNoise(6, [1, 2])((4, 8, 8)), first)
    assert first.std().item() == pytest.approx(1.0, abs=0.15)
