"""Data N(mean, std²), for which velocity, score and noise are known in closed form on every path."""

from collections.abc import Callable

import torch
from torch import Tensor

from reals.diffusion.flow import Flow
from reals.diffusion.interpolant import Interpolant, Linear, expand
from reals.diffusion.prediction import NoisePrediction, Prediction, ScorePrediction
from reals.diffusion.solvers import Solver


def prediction_of(
    path: Interpolant, prediction: Prediction, mean: Tensor | float, std: Tensor | float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what a perfect network predicts; elementwise, computed in float64."""

    def output(x: Tensor, t: Tensor) -> Tensor:
        x, t = x.double(), t.double()
        alpha, sigma = expand(path.alpha(t), x), expand(path.sigma(t), x)
        rest, variance = x - alpha * mean, alpha**2 * std**2 + sigma**2
        if isinstance(prediction, ScorePrediction):
            return -rest / variance
        if isinstance(prediction, NoisePrediction):
            return sigma * rest / variance
        d_alpha, d_sigma = expand(path.alpha_derivative(t), x), expand(path.sigma_derivative(t), x)
        return d_alpha * mean + (alpha * d_alpha * std**2 + sigma * d_sigma) / variance * rest

    return output


def linear_flow(velocity: Callable[[Tensor, Tensor], Tensor]) -> Flow:
    """Return the flow of a velocity on the linear path, all of it."""
    return Flow(velocity=velocity, interpolant=Linear(), start=0.0, end=1.0)


def exact_moments(solver: Solver, flow: Flow) -> tuple[float, float]:
    """Return the mean and the standard deviation of what the solver makes of noise, without drawing any.

    For a field affine in x, as normal data has, the end state is affine in the start and in every step's noise: its
    coefficients are read off from one unit impulse in each.
    """
    draws = 0 if solver.intervals is None else solver.intervals
    impulses = torch.eye(draws + 2, dtype=torch.float64)[:, 1:]
    drawn = 0

    def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
        nonlocal drawn
        drawn += 1
        return impulses[:, drawn].reshape(-1, 1)

    end = solver.integrate(flow, impulses[:, :1], noise)[:, 0].double()
    return end[0].item(), (end[1:] - end[0]).square().sum().sqrt().item()


def silence(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Noise for those who must not ask for any."""
    raise AssertionError("an ordinary differential equation asks for no noise")
