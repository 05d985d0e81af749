"""Parts of a recipe by name: each choice gives a recipe whose parts fit, and mistakes are named."""

from dataclasses import replace

import pytest

from reals.cli.recipe_flags import take_parts
from reals.diffusion.diffusion_coefficient import LinearDiffusion
from reals.diffusion.gaussian import DDPM, GaussianDiffusion
from reals.diffusion.interpolant import VP
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction
from reals.diffusion.solvers import EulerMaruyama, TweedieStep
from reals.diffusion.time_sampling import LogitNormal
from reals.diffusion.weighting import LikelihoodWeighting
from reals.recipes.checks import check_generator
from reals.recipes.presets import preset
from reals.recipes.schema import Recipe
from reals.recipes.variants import CHOICES
from reals.runtime.errors import UserError


def chosen(*flags: str) -> Recipe:
    recipe, rest = take_parts("train", preset("debug"), flags)
    assert rest == []
    return recipe


def test_parts_combine() -> None:
    recipe = chosen(
        *("--interpolant", "vp", "--prediction", "noise", "--weighting", "likelihood", "--times", "logit-normal"),
        *("--sampler", "euler-maruyama", "--diffusion", "linear", "--last-step", "tweedie", "--tracker", "none"),
    )
    process = FlowMatching(
        interpolant=VP(), prediction=NoisePrediction(), weighting=LikelihoodWeighting(), times=LogitNormal()
    )
    assert recipe.process == process
    assert recipe.sampling.solver == EulerMaruyama(diffusion=LinearDiffusion(), last_step=TweedieStep())
    check_generator(recipe)


def test_gaussian_diffusion_brings_what_fits_it() -> None:
    recipe = chosen("--process", "gaussian", "--transformer", "S/2")
    assert recipe.process == GaussianDiffusion()
    assert recipe.sampling.solver == DDPM()
    assert (recipe.generator.learn_sigma, recipe.generator.variance, recipe.generator.width) == (True, True, 384)
    check_generator(recipe)
    assert chosen("--process", "gaussian", "--process", "gaussian") == chosen("--process", "gaussian")


def test_the_order_on_the_command_line_does_not_matter() -> None:
    assert chosen("--weighting", "velocity", "--prediction", "score") == chosen(
        "--prediction", "score", "--weighting", "velocity"
    )


@pytest.mark.parametrize("flag", CHOICES)
def test_an_unknown_name_is_answered_with_those_there_are(flag: str) -> None:
    flags = ("--sampler", "euler-maruyama") if flag in ("--diffusion", "--last-step") else ()
    with pytest.raises(UserError, match=f"{flag}: unknown 'nonsense'"):
        chosen(*flags, flag, "nonsense")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--weighting", "velocity"), "train: --weighting velocity: weighting is VelocityWeighting, but a velocity's"),
        (("--process", "gaussian", "--interpolant", "vp"), "has no path to choose"),
        (("--diffusion", "sigma"), "--diffusion: Euler adds no noise; use euler-maruyama or stochastic-heun"),
        (("--last-step", "mean"), "--last-step: Euler has none"),
        (("--interpolant",), "--interpolant: a value is missing"),
    ],
)
def test_parts_that_contradict_each_other(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(*flags)


def test_what_does_not_fit_the_process_is_found_before_training() -> None:
    with pytest.raises(UserError, match="DDIM cannot sample a network trained by flow matching"):
        check_generator(chosen("--sampler", "ddim"))
    recipe = chosen("--process", "gaussian")
    with pytest.raises(UserError, match=r"generator\.variance is False, but process\.variance is LearnedRange"):
        check_generator(replace(recipe, generator=preset("debug").generator))
    with pytest.raises(UserError, match="flow matching has no variance"):
        check_generator(replace(preset("debug"), generator=recipe.generator))
    training = preset("debug").generator_training
    deep = replace(training, repa=replace(training.repa, weight=0.5, block=5))
    with pytest.raises(UserError, match=r"generator_training\.repa\.block is 5, but the transformer has 1 blocks"):
        check_generator(replace(preset("debug"), generator_training=deep))
