"""The adaptive solver: its answers, its cost, and that it never leaves the interval."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reals.diffusion.flow import CountedVelocity, Flow
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, Prediction, ScorePrediction, VelocityPrediction
from reals.diffusion.solvers import Dopri5
from reals.runtime.errors import UserError
from tests.diffusion.normal_data import linear_flow, prediction_of, silence


def counted(flow: Flow) -> tuple[Flow, CountedVelocity]:
    velocity = CountedVelocity(flow.velocity)
    return Flow(velocity=velocity, interpolant=flow.interpolant, start=flow.start, end=flow.end), velocity


@pytest.mark.golden
@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("prediction", [VelocityPrediction(), ScorePrediction(), NoisePrediction()])
def test_answers_are_exact_within_the_tolerance(golden: Path, path: Linear | GVP | VP, prediction: Prediction) -> None:
    values = np.load(golden / "transport/ode.npz", allow_pickle=False)
    mean, std, start = (torch.from_numpy(values[part]) for part in ("m", "s", "init"))
    flow = FlowMatching(interpolant=path, prediction=prediction).flow(prediction_of(path, prediction, mean, std))
    end = Dopri5().integrate(flow, start, silence)
    assert np.abs(end.numpy() - values["exact_ode"]).max() < (0.1 if isinstance(path, VP) else 0.05)


@pytest.mark.golden
def test_way_back_is_the_originals(golden: Path) -> None:
    values = np.load(golden / "transport/ode.npz", allow_pickle=False)
    mean, std, data = (torch.from_numpy(values[part]) for part in ("m", "s", "exact_ode"))
    flow = linear_flow(prediction_of(Linear(), VelocityPrediction(), mean, std))
    noise = Dopri5().integrate(flow.reverse(), data, silence)
    assert np.abs(noise.numpy() - values["ode/Linear/velocity/dopri5_reverse"]).max() < 0.02
    assert np.abs(noise.numpy() - values["init"]).max() < 0.02


def test_error_falls_with_the_tolerance() -> None:
    start = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    flow = linear_flow(prediction_of(Linear(), VelocityPrediction(), 0.7, 1.6))
    errors = []
    for tolerance in (1e-2, 1e-4, 1e-6):
        solver = Dopri5(relative_tolerance=tolerance, absolute_tolerance=1e-9, float64=True)
        errors.append((solver.integrate(flow, start, silence) - (0.7 + 1.6 * start)).abs().max().item())
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-5


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=lambda path: type(path).__name__)
def test_nothing_is_evaluated_outside_the_interval(path: Linear | GVP | VP, back: bool) -> None:
    config = FlowMatching(interpolant=path, prediction=NoisePrediction())
    flow, velocity = counted(config.flow(prediction_of(path, config.prediction, 0.7, 1.6)))
    flow = flow.reverse() if back else flow
    steps: list[int] = []
    end = Dopri5().integrate(flow, torch.randn(4, 2), silence, lambda step, x: steps.append(step))
    assert end.isfinite().all()
    start_time, end_time = config.sampling_interval()
    assert np.float32(start_time) <= min(velocity.times) < max(velocity.times) <= np.float32(end_time)
    assert steps == list(range(1, len(steps) + 1))
    # Two evaluations find the first step, then six for each accepted or rejected one.
    assert len(velocity.times) >= 2 + 6 * len(steps)
    assert (len(velocity.times) - 2) % 6 == 0


def test_slow_fields_do_not_lure_the_search_for_a_first_step_outside() -> None:
    flow, velocity = counted(linear_flow(lambda x, t: 1e-3 * torch.ones_like(x) / (t <= 1.0)[:, None]))
    end = Dopri5().integrate(flow, torch.ones(2, 1), silence)
    assert end.flatten().tolist() == pytest.approx([1.001] * 2, rel=1e-6)
    assert max(velocity.times) <= 1.0


def test_last_state_told_is_the_result() -> None:
    states: list[Tensor] = []
    flow = linear_flow(prediction_of(Linear(), VelocityPrediction(), 0.7, 1.6))
    end = Dopri5().integrate(flow, torch.randn(4, 2), silence, lambda step, x: states.append(x))
    assert len(states) > 2
    assert torch.equal(states[-1], end)


def test_cost_is_not_known_in_advance() -> None:
    assert Dopri5().times(0.0, 1.0) is None
    assert Dopri5().intervals is None
    assert CountedVelocity(lambda x, t: x).times == []


def test_works_in_inference_mode() -> None:
    with torch.inference_mode():
        flow = linear_flow(prediction_of(Linear(), VelocityPrediction(), 0.7, 1.6))
        assert Dopri5().integrate(flow, torch.zeros(1, 1), silence).item() == pytest.approx(0.7, abs=1e-2)


def test_velocity_that_breaks_is_one_clear_line() -> None:
    flow = linear_flow(lambda x, t: torch.where(t[:, None] > 0.5, torch.nan, 1.0).expand_as(x))
    with pytest.raises(UserError, match=r"Dopri5 could not go on at t = 0\.\d+ .*: the velocity is not finite there"):
        Dopri5().integrate(flow, torch.zeros(2, 1), silence)


def test_assertions_of_the_velocity_stay_its_own() -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(AssertionError):
        Dopri5().integrate(linear_flow(velocity), torch.zeros(2, 1), silence)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_impossible_tolerances_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"absolute_tolerance is {value}"):
        Dopri5(absolute_tolerance=value)
    with pytest.raises(ValueError, match=f"relative_tolerance is {value}"):
        Dopri5(relative_tolerance=value)
