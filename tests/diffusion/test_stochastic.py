"""Stochastic solvers: SiT's states given its noise (recorded in float64), exact moments of Gaussian data, refusals."""

import math
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
from reals.diffusion.flow import Flow
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, Prediction, ScorePrediction, VelocityPrediction
from reals.diffusion.solvers import (
    Euler,
    EulerMaruyama,
    EulerStep,
    Heun,
    LastStep,
    MeanStep,
    NoLastStep,
    StochasticHeun,
    TweedieStep,
)
from reals.runtime.config import from_dict, to_dict
from tests.diffusion.normal_data import exact_moments, linear_flow, prediction_of

MEAN, STD = 0.7, 1.6
PATHS: dict[str, Linear | GVP | VP] = {"Linear": Linear(), "GVP": GVP(), "VP": VP()}
PREDICTIONS: dict[str, Prediction] = {
    "velocity": VelocityPrediction(),
    "score": ScorePrediction(),
    "noise": NoisePrediction(),
}
FORMS: dict[str, DiffusionCoefficient] = {
    "SBDM": SBDMDiffusion(),
    "sigma": SigmaDiffusion(),
    "linear": LinearDiffusion(),
    "decreasing": DecreasingDiffusion(),
    "inccreasing-decreasing": IncreasingDecreasingDiffusion(),  # the original's spelling
    "constant": ConstantDiffusion(),
}
LAST_STEPS: dict[str, LastStep] = {
    "Mean": MeanStep(),
    "Euler": EulerStep(),
    "Tweedie": TweedieStep(),
    "None": NoLastStep(),
}
KINDS: dict[str, type[EulerMaruyama] | type[StochasticHeun]] = {"Euler": EulerMaruyama, "Heun": StochasticHeun}


def normal_flow(path: str = "Linear", prediction: str = "velocity", mean: float = MEAN, std: float = STD) -> Flow:
    """The flow of a perfect network in float64; FlowMatching would show it float32."""
    config = FlowMatching(interpolant=PATHS[path], prediction=PREDICTIONS[prediction])
    output = prediction_of(PATHS[path], config.prediction, mean, std)
    start, end = config.sampling_interval()
    return Flow(
        velocity=lambda x, t: config.prediction.velocity(config.interpolant, output(x, t).to(x.dtype), x, t),
        interpolant=config.interpolant,
        start=start,
        end=end,
    )


@pytest.mark.golden
@pytest.mark.parametrize("path", PATHS)
def test_final_states_are_the_originals(golden: Path, path: str) -> None:
    values = dict(np.load(golden / "transport/sde.npz", allow_pickle=False))
    mean, std = (values.pop(name).item() for name in ("mean", "std"))
    start, recorded = (torch.from_numpy(values.pop(name)) for name in ("init", "noise"))
    recorded_here = {name: value for name, value in values.items() if name.startswith(f"{path}/")}
    for name, expected in recorded_here.items():
        _, prediction, method, form, last = name.split("/")
        # SiT says "12 steps": 12 points, 11 noisy strides.
        solver = KINDS[method](
            steps=12, count_points=True, diffusion=FORMS[form], last_step=LAST_STEPS[last], float64=True
        )
        noises = iter(recorded)
        flow = normal_flow(path, prediction, mean, std)
        end = solver.integrate(flow, start, lambda shape, device, noises=noises: next(noises))
        assert next(noises, None) is None, name
        assert np.allclose(end.numpy(), expected, rtol=1e-9, atol=1e-9), name
    assert (len(recorded_here), len(values)) == (18, 54)


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_path_and_prediction_makes_the_data(
    kind: type[EulerMaruyama] | type[StochasticHeun], path: str, prediction: str
) -> None:
    mean, std = exact_moments(kind(steps=60), normal_flow(path, prediction))
    # The bias falls as 1/steps, as the measured order says.
    assert mean == pytest.approx(MEAN, abs=0.015)
    assert std == pytest.approx(STD, rel=0.015)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_noise_makes_the_data(path: str, form: str) -> None:
    mean, std = exact_moments(EulerMaruyama(steps=100, diffusion=FORMS[form]), normal_flow(path))
    assert mean == pytest.approx(MEAN, abs=0.01)
    # The last step, 0.04 long, adds no noise: where there is noise up to the data, that is missed.
    assert std == pytest.approx(STD, rel=0.025 if form == "constant" else 0.01)


@pytest.mark.parametrize("last", LAST_STEPS)
@pytest.mark.parametrize("path", PATHS)
def test_every_last_step_makes_the_data(last: str, path: str) -> None:
    mean, std = exact_moments(EulerMaruyama(steps=100, last_step=LAST_STEPS[last]), normal_flow(path))
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert std == pytest.approx(STD, rel=0.01)


@pytest.mark.parametrize(
    ("last", "expected"),
    # On the linear path E[x₁ | x_t] = x + (1 - t) v.
    [(MeanStep(size=0.4), 1.0 - 0.4), (EulerStep(size=0.4), 1.0 + 0.4 * 2.0), (TweedieStep(size=0.4), 1.0 + 0.5 * 2.0)],
)
def test_last_steps_by_hand(last: MeanStep | EulerStep | TweedieStep, expected: float) -> None:
    x, velocity, drift = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    assert last.take(Linear(), x, velocity, drift, torch.tensor([0.5])).item() == pytest.approx(expected)


def test_two_steps_by_hand() -> None:
    # v = 1: at t = 0 score = -x, D = 1; at t = 0.5 score = (0.5 - x) / 0.5, D = 0.5.
    solver = EulerMaruyama(steps=2, last_step=MeanStep(size=0.5))
    flow = linear_flow(lambda x, t: torch.ones_like(x))
    end = solver.integrate(flow, torch.tensor([[2.0]]), lambda shape, device: torch.ones(1, 1))
    middle = 2.0 + 0.5 * (1.0 - 2.0) + math.sqrt(2 * 0.5 * 1.0)
    assert end.item() == pytest.approx(middle + 0.5 * (1.0 + 0.5 * (0.5 - middle) / 0.5), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS.values())
def test_noise_is_drawn_every_step_but_the_last(kind: type[EulerMaruyama] | type[StochasticHeun]) -> None:
    drawn: list[tuple[int, ...]] = []

    def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
        drawn.append(shape)
        return torch.ones(2, *shape)

    kind(steps=7).integrate(normal_flow(), torch.zeros(2, 3, 4), noise)
    assert drawn == [(3, 4)] * 6


def test_without_noise_the_solvers_are_those_of_the_probability_flow() -> None:
    start, still = torch.randn(20, 1), SigmaDiffusion(scale=0.0)
    zeros = torch.zeros(20, 1)
    flow = normal_flow()
    maruyama = EulerMaruyama(steps=25, diffusion=still, last_step=MeanStep(size=0.04))
    assert torch.allclose(
        maruyama.integrate(flow, start, lambda shape, device: zeros), Euler(steps=25).integrate(flow, start), atol=1e-6
    )
    noisy_end = Flow(velocity=flow.velocity, interpolant=flow.interpolant, start=0.0, end=0.9)
    heun = StochasticHeun(steps=25, diffusion=still, last_step=NoLastStep())
    assert torch.allclose(
        heun.integrate(noisy_end, start, lambda shape, device: zeros),
        Heun(steps=25).integrate(noisy_end, start),
        atol=1e-6,
    )


def test_weak_order_is_one() -> None:
    for kind in KINDS.values():
        errors = []
        for steps in (40, 80):
            solver = kind(steps=steps, last_step=NoLastStep(), diffusion=LinearDiffusion(scale=0.5), float64=True)
            flow = normal_flow()
            end = 0.9
            shorter = Flow(velocity=flow.velocity, interpolant=flow.interpolant, start=0.0, end=end)
            truth = math.sqrt((end * STD) ** 2 + (1 - end) ** 2)
            errors.append(abs(exact_moments(solver, shorter)[1] - truth))
        for coarse, fine in pairwise(errors):
            assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.2)


def test_strong_order_of_euler_maruyama_is_one_as_for_any_additive_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    finest = 320
    increments = torch.randn(finest, 500, 1, generator=generator, dtype=torch.float64)
    start = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    flow = normal_flow()
    shorter = Flow(velocity=flow.velocity, interpolant=flow.interpolant, start=0.0, end=0.9)

    def end(steps: int) -> Tensor:
        # The same Brownian motion, seen at fewer times.
        coarse = increments.reshape(steps, finest // steps, 500, 1).sum(1) / math.sqrt(finest // steps)
        noises = iter(coarse)
        solver = EulerMaruyama(steps=steps, last_step=NoLastStep(), float64=True)
        return solver.integrate(shorter, start, lambda shape, device: next(noises))

    truth = end(finest)
    errors = [(end(steps) - truth).abs().mean().item() for steps in (10, 20, 40)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.2)


def test_grid_is_the_papers_and_repas() -> None:
    times = EulerMaruyama().times(0.0, 1.0)
    assert len(times) == EulerMaruyama().intervals == 250
    # REPA's time runs from noise 1 to data 0.
    assert times == pytest.approx([1 - t for t in np.linspace(1.0, 0.04, 250)])


def test_points_and_intervals_differ_only_without_a_last_step() -> None:
    for kind in KINDS.values():
        assert kind(steps=9).intervals == kind(steps=9, count_points=True).intervals == 9
        none = NoLastStep()
        assert (
            kind(steps=9, last_step=none).intervals,
            kind(steps=9, last_step=none, count_points=True).intervals,
        ) == (
            9,
            8,
        )
    assert len(StochasticHeun(steps=9).times(0.0, 1.0)) == 2 * 8 + 1
    assert EulerMaruyama(steps=4, last_step=NoLastStep()).times(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75]


def test_solvers_survive_json() -> None:
    for solver in (
        EulerMaruyama(steps=9, diffusion=DecreasingDiffusion(scale=0.5), last_step=TweedieStep(size=0.1)),
        StochasticHeun(last_step=NoLastStep(), diffusion=SBDMDiffusion(smallest_alpha=0.01)),
    ):
        assert from_dict(type(solver), to_dict(solver)) == solver


@pytest.mark.parametrize("kind", KINDS.values())
def test_impossible_settings_are_refused(kind: type[EulerMaruyama] | type[StochasticHeun]) -> None:
    with pytest.raises(ValueError, match="steps is 1; it must be at least 2"):
        kind(steps=1)
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        kind(steps=0, last_step=NoLastStep())
    with pytest.raises(ValueError, match="steps is 1; it must be at least 2"):
        kind(steps=1, last_step=NoLastStep(), count_points=True)
    for step in (MeanStep, EulerStep, TweedieStep):
        with pytest.raises(ValueError, match=r"last_step is 0\.0 long"):
            step(size=0.0)


def test_data_to_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="runs from noise to data only; use Euler, Heun or Dopri5"):
        EulerMaruyama().integrate(normal_flow().reverse(), torch.zeros(1, 1), lambda shape, device: torch.ones(1, 1))


@pytest.mark.parametrize("size", [5e-4, 0.9995])
def test_last_steps_that_begin_outside_the_interval_are_refused(size: float) -> None:
    with pytest.raises(ValueError, match=r"begin at t = .*, outside the interval 0\.001 to 0\.999"):
        EulerMaruyama(last_step=MeanStep(size=size)).times(0.001, 0.999)


def test_heun_without_a_last_step_is_refused_where_the_score_is_infinite() -> None:
    solver = StochasticHeun(steps=5, last_step=NoLastStep())

    def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(1, *shape)

    for path in ("Linear", "GVP"):
        with pytest.raises(ValueError, match="needs the score at t = 1, where it is infinite; choose MeanStep"):
            solver.integrate(normal_flow(path), torch.zeros(1, 1), noise)
    assert solver.integrate(normal_flow("VP"), torch.zeros(1, 1), noise).isfinite().all()
    assert solver.integrate(normal_flow("Linear", "noise"), torch.zeros(1, 1), noise).isfinite().all()
