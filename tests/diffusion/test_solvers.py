"""Solvers of the probability flow on Gaussian data, whose exact answer is known."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.diffusion.interpolant import GVP, VP, Interpolant, Linear
from reals.diffusion.noise import PerImageNoise
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, Prediction, ScorePrediction, VelocityPrediction
from reals.diffusion.solvers import Dopri5, Euler, EulerMaruyama, Heun, Solver, StochasticHeun
from reals.runtime.config import from_dict, to_dict
from tests.diffusion.normal_data import exact_moments, linear_flow, prediction_of, silence

MEAN, STD = 0.7, 1.6
PATHS: dict[str, Linear | GVP | VP] = {"Linear": Linear(), "GVP": GVP(), "VP": VP()}
PREDICTIONS: dict[str, Prediction] = {
    "velocity": VelocityPrediction(),
    "score": ScorePrediction(),
    "noise": NoisePrediction(),
}


def normal_velocity(path: Interpolant = PATHS["Linear"], mean: float = MEAN, std: float = STD):
    return prediction_of(path, VelocityPrediction(), mean, std)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("solver", "name"), [(Euler(steps=50, count_points=True), "euler"), (Heun(steps=50, count_points=True), "heun2")]
)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_final_states_are_the_originals(
    golden: Path, solver: Euler | Heun, name: str, path: str, prediction: str
) -> None:
    values = np.load(golden / "transport/ode.npz", allow_pickle=False)
    key = f"ode/{path}/{prediction}/{name}/n50"
    if path != "Linear" and prediction != "velocity":
        assert key not in values.files
        key = f"ode/{path}/velocity/{name}/n50"
    mean, std, start = (torch.from_numpy(values[part]) for part in ("m", "s", "init"))
    config = FlowMatching(interpolant=PATHS[path], prediction=PREDICTIONS[prediction])
    end = solver.integrate(config.flow(prediction_of(PATHS[path], config.prediction, mean, std)), start, silence)
    # Where only a velocity was recorded, that of GVP was integrated over all of [0, 1], the others' less a margin.
    same_interval = path != "GVP" or prediction == "velocity"
    assert np.abs(end.numpy() - values[key]).max() < (5e-5 if same_interval else 2e-2)
    assert np.abs(end.numpy() - values["exact_ode"]).max() < {"euler": 0.25, "heun2": 0.1}[name]


@pytest.mark.parametrize("solver", [Euler(steps=100), Heun(steps=30), Dopri5()])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_path_prediction_and_solver_makes_the_data(solver: Solver, path: str, prediction: str) -> None:
    config = FlowMatching(interpolant=PATHS[path], prediction=PREDICTIONS[prediction])
    flow = config.flow(prediction_of(PATHS[path], config.prediction, MEAN, STD))
    mean, std = exact_moments(solver, flow)
    assert mean == pytest.approx(MEAN, abs=0.012)
    assert std == pytest.approx(STD, rel=0.015 if isinstance(solver, Euler) else 0.003)


@pytest.mark.parametrize(("kind", "order"), [(Euler, 1.0), (Heun, 2.0)])
@pytest.mark.parametrize("path", ["Linear", "GVP"])
def test_measured_order(kind: type[Euler] | type[Heun], order: float, path: str) -> None:
    start = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = FlowMatching(interpolant=PATHS[path]).flow(normal_velocity(PATHS[path]))
    errors = []
    for steps in (40, 80):
        end = kind(steps=steps, float64=True).integrate(flow, start, silence)
        errors.append((end - (MEAN + STD * start)).abs().mean().item())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.06)


@pytest.mark.parametrize("solver", [Euler(steps=500), Heun(steps=100), Dopri5(relative_tolerance=1e-5)])
def test_there_and_back_again(solver: Euler | Heun | Dopri5) -> None:
    start = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    flow = linear_flow(normal_velocity())
    data = solver.integrate(flow, start, silence)
    assert (data - start).abs().max() > 0.5
    assert (solver.integrate(flow.reverse(), data, silence) - start).abs().max() < 0.02


FIXED: list[Euler | Heun | EulerMaruyama | StochasticHeun] = [
    Euler(steps=4),
    Euler(steps=4, count_points=True),
    Heun(steps=3),
    Heun(steps=3, count_points=True),
    EulerMaruyama(steps=5),
    StochasticHeun(steps=5),
]


@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_network_is_asked_once_at_each_of_the_named_times(
    solver: Euler | Heun | EulerMaruyama | StochasticHeun, path: str, prediction: str
) -> None:
    asked: list[float] = []

    def output(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        asked.append(t[0].item())
        return torch.zeros_like(x)

    steps: list[int] = []
    config = FlowMatching(interpolant=PATHS[path], prediction=PREDICTIONS[prediction])
    solver.integrate(
        config.flow(output), torch.zeros(2, 1), PerImageNoise(0, [0, 1]), lambda step, x: steps.append(step)
    )
    start, end = config.sampling_interval()
    assert asked == pytest.approx(solver.times(start, end))
    assert min(asked) == pytest.approx(start)
    assert max(asked) <= end + 1e-7
    assert steps == list(range(1, solver.intervals + 1))


def test_settings_count_intervals_or_points() -> None:
    assert Euler(steps=4).times(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75]
    assert Euler(steps=5, count_points=True).times(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75]
    assert Heun(steps=2).times(0.0, 1.0) == [0.0, 0.5, 0.5, 1.0]
    assert Heun(steps=2).times(0.001, 0.999)[-1] == 0.999
    assert (Euler(steps=50).intervals, Euler(steps=50, count_points=True).intervals) == (50, 49)


@pytest.mark.parametrize("solver", [Euler(steps=2), Heun(steps=2), Dopri5(), EulerMaruyama(steps=2)])
def test_state_is_float32_for_half_precision_velocities(solver: Solver) -> None:
    seen: list[torch.dtype] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.extend((x.dtype, t.dtype))
        return -x.bfloat16()

    flow = linear_flow(velocity)
    assert solver.integrate(flow, torch.ones(1, 1).bfloat16(), PerImageNoise(0, [0])).dtype == torch.float32
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    "solver",
    [
        Euler(steps=2, float64=True),
        Heun(steps=2, float64=True),
        Dopri5(float64=True),
        EulerMaruyama(steps=2, float64=True),
        StochasticHeun(steps=2, float64=True),
    ],
)
def test_state_in_float64_is_shown_to_networks_in_float32(solver: Solver) -> None:
    seen: list[torch.dtype] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.extend((x.dtype, t.dtype))
        return -x

    end = solver.integrate(FlowMatching().flow(network), torch.ones(1, 1), PerImageNoise(0, [0]))
    assert end.dtype == torch.float64
    assert set(seen) == {torch.float32}


def test_conversion_keeps_the_precision_of_the_state() -> None:
    config = FlowMatching(interpolant=GVP(), prediction=ScorePrediction())
    x, t = torch.tensor([[1 / 3]], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    velocity = config.flow(lambda x, t: torch.zeros_like(x)).velocity(x, t)
    assert velocity.item() == pytest.approx(math.pi / 2 / math.tan(math.pi / 20) / 3, rel=1e-14)


def test_solvers_survive_json() -> None:
    for solver in (Euler(steps=7, count_points=True), Heun(float64=True), Dopri5(relative_tolerance=1e-4)):
        assert from_dict(type(solver), to_dict(solver)) == solver


@pytest.mark.parametrize("kind", [Euler, Heun])
def test_at_least_one_step(kind: type[Euler] | type[Heun]) -> None:
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        kind(steps=0)
    with pytest.raises(ValueError, match="steps is 1; it must be at least 2"):
        kind(steps=1, count_points=True)
