"""Coefficients and visited timesteps: the originals' values, and what must hold of any process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reals.diffusion.gaussian.schedule import LinearBetas, Schedule
from reals.diffusion.gaussian.spacing import EvenSpacing, SectionSpacing, StrideSpacing, parse_spacing
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError

ORIGINAL_NAMES = {
    "betas": "betas",
    "alpha_bar": "alphas_cumprod",
    "alpha_bar_previous": "alphas_cumprod_prev",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance": "posterior_log_variance_clipped",
    "posterior_data_weight": "posterior_mean_coef1",
    "posterior_state_weight": "posterior_mean_coef2",
    "data_from_state": "sqrt_recip_alphas_cumprod",
    "data_from_noise": "sqrt_recipm1_alphas_cumprod",
}


def respaced(text: str) -> Schedule:
    steps, spacing = parse_spacing(text)
    full = LinearBetas().schedule()
    return full.respaced(spacing.timesteps(len(full.timesteps), steps))


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "spacing"), [("full1000", "1000"), ("r250", "250"), ("ddim50", "ddim50"), ("r10_15_20", "10,15,20")]
)
def test_coefficients_are_the_originals(golden: Path, name: str, spacing: str) -> None:
    values = np.load(golden / "diffusion/schedules.npz", allow_pickle=False)
    schedule = respaced(spacing)
    assert list(schedule.timesteps) == values[f"{name}/timestep_map"].tolist()
    for ours, theirs in ORIGINAL_NAMES.items():
        # β and what is proportional to it lose digits in 1 - ᾱ_t / ᾱ_previous, in the originals too.
        np.testing.assert_allclose(
            getattr(schedule, ours).numpy(), values[f"{name}/{theirs}"], rtol=1e-13, err_msg=ours
        )
    assert len(values.files) == 4 * (len(ORIGINAL_NAMES) + 1)


@pytest.mark.golden
@pytest.mark.parametrize("spacing", ["21", "27", "31", "43", "33,17,5"])
def test_timesteps_that_hang_on_the_rounding_of_a_running_sum(golden: Path, spacing: str) -> None:
    values = np.load(golden / "diffusion/dit_process.npz", allow_pickle=False)
    assert list(respaced(spacing).timesteps) == values[f"spacing/{spacing}"].tolist()


def test_rounding_is_half_to_even() -> None:
    # A stride of 2.5: 0, 2.5, 5, 7.5, 10.
    assert EvenSpacing().timesteps(11, 5) == (0, 2, 5, 8, 10)


@pytest.mark.parametrize("steps", [1, 2, 7, 250, 999, 1000])
def test_even_spacing_has_as_many_different_timesteps_and_both_ends(steps: int) -> None:
    timesteps = EvenSpacing().timesteps(1000, steps)
    assert len(set(timesteps)) == steps
    assert timesteps[0] == 0
    assert timesteps[-1] == (999 if steps > 1 else 0)


def test_stride_is_the_smallest_that_gives_as_many() -> None:
    assert StrideSpacing().timesteps(10, 4) == (0, 3, 6, 9)
    assert StrideSpacing().timesteps(1000, 50)[-1] == 980


def test_sections_share_the_process() -> None:
    # Eleven timesteps in three sections: 4, 4 and 3.
    assert SectionSpacing(counts=(2, 1, 3)).timesteps(11, 6) == (0, 3, 4, 8, 9, 10)


def test_original_strings_are_read_in_one_place() -> None:
    assert parse_spacing("250") == (250, EvenSpacing())
    assert parse_spacing("ddim50") == (50, StrideSpacing())
    assert parse_spacing("10, 15,20") == (45, SectionSpacing(counts=(10, 15, 20)))


@pytest.mark.parametrize("text", ["", "fast", "ddim", "ddim5,5", "10,,20", "-3", "0", "2.5"])
def test_other_strings_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        parse_spacing(text)


def test_impossible_spacings_are_refused() -> None:
    with pytest.raises(UserError, match="cannot pick 11 of 10"):
        EvenSpacing().timesteps(10, 11)
    with pytest.raises(UserError, match="no whole stride picks 300 of 1000"):
        StrideSpacing().timesteps(1000, 300)
    with pytest.raises(UserError, match="cannot pick 6 of 5"):
        SectionSpacing(counts=(1, 6)).timesteps(10, 7)
    with pytest.raises(UserError, match="add up to another number"):
        SectionSpacing(counts=(2, 3)).timesteps(10, 6)
    with pytest.raises(ValueError, match="at least one section"):
        SectionSpacing(counts=())
    with pytest.raises(ValueError, match="each with at least 1"):
        SectionSpacing(counts=(3, 0))


def test_respacing_keeps_the_noise_of_each_visited_timestep() -> None:
    full = LinearBetas().schedule()
    some = full.respaced((3, 400, 999))
    assert some.timesteps == (3, 400, 999)
    torch.testing.assert_close(some.alpha_bar, full.alpha_bar[[3, 400, 999]], rtol=1e-12, atol=0)
    assert some.betas[1] > full.betas[400] * 10
    # Twice is once.
    again = full.respaced((3, 100, 400, 999)).respaced((3, 400, 999))
    torch.testing.assert_close(again.betas, some.betas, rtol=1e-12, atol=0)


@pytest.mark.parametrize("timesteps", [(), (5, 3), (3, 3), (3, 1000), (-1, 4)])
def test_respacing_to_anything_but_increasing_timesteps_is_refused(timesteps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must increase"):
        LinearBetas().schedule().respaced(timesteps)


def test_posterior_is_bayes_rule() -> None:
    # Of x_{t-1} ~ N(√ᾱ' x, 1 - ᾱ') and x_t ~ N(√α x_{t-1}, β), with x = 0.7, x_t = -0.3.
    schedule = LinearBetas().schedule()
    for index in (1, 400, 999):
        beta, before = schedule.betas[index].item(), schedule.alpha_bar_previous[index].item()
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = (before**0.5 * 0.7 / (1 - before) + (1 - beta) ** 0.5 * -0.3 / beta) / precision
        data, state = schedule.posterior_data_weight[index], schedule.posterior_state_weight[index]
        assert (data * 0.7 + state * -0.3).item() == pytest.approx(mean, rel=1e-9)
        assert schedule.posterior_variance[index].item() == pytest.approx(1 / precision, rel=1e-9)


def test_variance_at_index_0_is_replaced_by_index_1() -> None:
    schedule = LinearBetas().schedule().respaced((0, 500, 999))
    assert schedule.posterior_variance[0] == 0
    assert schedule.posterior_log_variance[0] == schedule.posterior_log_variance[1]
    assert schedule.posterior_log_variance[1] == schedule.posterior_variance[1].log()
    assert LinearBetas().schedule().respaced((999,)).posterior_log_variance.isfinite().all()


def test_settings_survive_json() -> None:
    assert from_dict(LinearBetas, to_dict(LinearBetas(steps=40, last=0.5))) == LinearBetas(steps=40, last=0.5)
    assert from_dict(SectionSpacing, to_dict(SectionSpacing(counts=(1, 2)))) == SectionSpacing(counts=(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 1}, "steps is 1"), ({"first": 0.0}, "first is 0"), ({"last": 1.0}, "last is 1")],
)
def test_impossible_processes_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearBetas(**change)  # pyright: ignore[reportArgumentType]


def test_one_variance_per_timestep() -> None:
    with pytest.raises(ValueError, match="2 variances for 1 timesteps"):
        Schedule(betas=torch.tensor([0.1, 0.2], dtype=torch.float64), timesteps=(0,))
