"""Between which times fields are trained and integrated: SiT's table, and where it is not usable."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reals.diffusion.diffusion_coefficient import SBDMDiffusion, SigmaDiffusion
from reals.diffusion.flow import Flow
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.interval import sampling_interval, training_interval
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, ScorePrediction, VelocityPrediction
from reals.diffusion.solvers import Euler, EulerMaruyama, LastStep, MeanStep, NoLastStep

PATHS = {"Linear": Linear(), "GVP": GVP(), "VP": VP()}
PREDICTIONS = {"velocity": VelocityPrediction(), "score": ScorePrediction(), "noise": NoisePrediction()}


def interval_of(case: dict[str, Any]) -> tuple[float, float]:
    """Return the times between which a case is trained or integrated here, in the direction asked for."""
    rule = sampling_interval if case["eval"] else training_interval
    start, end = rule(PATHS[case["path"]], PREDICTIONS[case["pred"]])
    if case["sde"]:
        last: LastStep = MeanStep(size=case["last_step_size"]) if case["last_step_size"] else NoLastStep()
        form = SBDMDiffusion() if case["form"] == "SBDM" else SigmaDiffusion()
        times = EulerMaruyama(steps=3, last_step=last, diffusion=form).times(start, end)
        # The end of the noisy part: where the last step begins, or a stride after the last evaluation.
        start, end = times[0], times[-1] if case["last_step_size"] else times[-1] + (times[-1] - times[-2])
    flow = Flow(velocity=lambda x, t: x, interpolant=Linear(), start=start, end=end)
    flow = flow.reverse() if case["reverse"] else flow
    return flow.start, flow.end


@pytest.mark.golden
def test_intervals_are_the_originals(golden: Path) -> None:
    cases = json.loads((golden / "transport/intervals.json").read_text())
    compared = 0
    for case in cases:
        if case["reverse"] and (case["sde"] or case["path"] == "VP"):
            continue
        assert interval_of(case) == pytest.approx((case["t0"], case["t1"]), abs=1e-12), case
        compared += 1
    # 3 paths, 3 predictions, 10 settings, of which 8 are stochastic; deterministic ones also back, but not on VP.
    assert (compared, len(cases)) == (3 * 3 * 10 + 2 * 3 * 2, 180)


@pytest.mark.golden
def test_originals_way_back_on_vp_begins_where_the_velocity_is_infinite(golden: Path) -> None:
    for case in json.loads((golden / "transport/intervals.json").read_text()):
        if case["path"] == "VP" and case["reverse"] and not case["sde"]:
            start, end = interval_of(case)
            # SiT mirrors the interval: it keeps its margin from the noise.
            assert (1 - case["t0"], 1 - case["t1"]) == pytest.approx((end, start))
            assert not VP().sigma_derivative(torch.tensor([float(case["t0"])])).isfinite().all()
            assert VP().sigma_derivative(torch.tensor([start])).isfinite().all()


def test_margins_are_kept_where_they_are_asked_for() -> None:
    assert sampling_interval(Linear(), VelocityPrediction(), 0.01) == (0.01, 0.99)
    assert training_interval(GVP(), NoisePrediction(), 0.02) == (0.02, 0.98)
    assert training_interval(VP(), NoisePrediction(), 0.02) == (0.0, 0.98)
    config = FlowMatching(interpolant=VP(), train_margin=0.02, sample_margin=0.01)
    assert (config.training_interval(), config.sampling_interval()) == ((0.0, 0.98), (0.0, 0.99))


def test_margins_do_not_depend_on_each_other() -> None:
    config = FlowMatching(prediction=NoisePrediction(), train_margin=0.02)
    assert (config.training_interval(), config.sampling_interval()) == ((0.02, 0.98), (0.001, 0.999))
    config = FlowMatching(prediction=NoisePrediction(), sample_margin=0.02)
    assert (config.training_interval(), config.sampling_interval()) == ((0.001, 0.999), (0.02, 0.98))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_margin": 0.5}, "train_margin is 0.5; it must lie from 0 to less than 0.5"),
        ({"sample_margin": -0.1}, "sample_margin is -0.1"),
        ({"sample_margin": float("nan")}, "sample_margin is nan"),
        ({"sample_margin": 0.0, "interpolant": VP()}, "VelocityPrediction on the path VP is infinite .* use 0.001"),
        ({"train_margin": 0.0, "prediction": ScorePrediction()}, "ScorePrediction on the path Linear is infinite"),
    ],
)
def test_impossible_margins_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowMatching(**config)


def test_no_margin_may_be_spelt_out_where_none_is_needed() -> None:
    assert FlowMatching(train_margin=0.0, sample_margin=0.0).sampling_interval() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(-0.1, 1.0, "start is -0.1"), (0.0, 1.4, "end is 1.4"), (0.5, 0.5, "nothing to integrate")],
)
def test_impossible_flows_are_refused(start: float, end: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flow(velocity=lambda x, t: x, interpolant=Linear(), start=start, end=end)


def test_every_evaluation_of_a_way_back_is_in_the_interval() -> None:
    assert Euler(steps=2).times(0.999, 0.001) == pytest.approx([0.999, 0.5])
