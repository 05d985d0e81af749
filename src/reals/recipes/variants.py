"""Parts of a recipe by name: what a preset chooses, another choice of the same kind replaces, before numbers are set.

A recipe's alternatives are unions of dataclasses. Flags set their numbers; which of them it is, is chosen here first.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, get_args

from reals.apps.generate import BalancedLabels, RandomLabels
from reals.diffusion.diffusion_coefficient import (
    ConstantDiffusion,
    DecreasingDiffusion,
    IncreasingDecreasingDiffusion,
    LinearDiffusion,
    SBDMDiffusion,
    SigmaDiffusion,
)
from reals.diffusion.gaussian import DDIM, DDPM, GaussianDiffusion
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, ScorePrediction, VelocityPrediction
from reals.diffusion.process import Sampler
from reals.diffusion.solvers import (
    Dopri5,
    Euler,
    EulerMaruyama,
    EulerStep,
    Heun,
    MeanStep,
    NoLastStep,
    StochasticHeun,
    TweedieStep,
)
from reals.diffusion.time_sampling import LogitNormal, Uniform
from reals.diffusion.weighting import LikelihoodWeighting, NoWeighting, VelocityWeighting
from reals.latents.normalise import MinMax, Standardise
from reals.models.semantic import DinoV2, EfficientNetLite0
from reals.models.transformer import SIZES, NamedTransformer, PatchSize
from reals.recipes.schema import Recipe
from reals.runtime.errors import UserError, nearest
from reals.training.trackers import TRACKERS

SOLVERS: Mapping[str, Sampler] = {
    "euler": Euler(),
    "heun": Heun(),
    "dopri5": Dopri5(),
    "euler-maruyama": EulerMaruyama(),
    "stochastic-heun": StochasticHeun(),
    "ddpm": DDPM(),
    "ddim": DDIM(),
}
"""Samplers by name, with their defaults."""

DIFFUSIONS = {
    "sigma": SigmaDiffusion(),
    "sbdm": SBDMDiffusion(),
    "linear": LinearDiffusion(),
    "decreasing": DecreasingDiffusion(),
    "increasing-decreasing": IncreasingDecreasingDiffusion(),
    "constant": ConstantDiffusion(),
}
"""Diffusion coefficients of stochastic solvers by name."""

LAST_STEPS = {"mean": MeanStep(), "euler": EulerStep(), "tweedie": TweedieStep(), "none": NoLastStep()}
"""Last steps of stochastic solvers by name."""

LABELS = {"balanced": BalancedLabels(), "random": RandomLabels()}
"""Label protocols by name."""

_INTERPOLANTS = {"linear": Linear(), "gvp": GVP(), "vp": VP()}
_PREDICTIONS = {"velocity": VelocityPrediction(), "score": ScorePrediction(), "noise": NoisePrediction()}
_WEIGHTINGS = {"none": NoWeighting(), "velocity": VelocityWeighting(), "likelihood": LikelihoodWeighting()}
_TIMES = {"uniform": Uniform(), "logit-normal": LogitNormal()}
_NORMALISATIONS = {"min-max": MinMax(), "std": Standardise()}
_SEMANTIC = {"efficientnet-lite0": EfficientNetLite0(), "dinov2": DinoV2()}
_PATCHES: tuple[PatchSize, ...] = get_args(PatchSize)
_TRANSFORMERS = {f"{s}/{p}": NamedTransformer(size=s, patch_size=p) for s in SIZES for p in _PATCHES}

Chosen = TypeVar("Chosen")

Choose = Callable[[Recipe, str], Recipe]
"""From a recipe and the value of a flag to the recipe with that choice."""


def _flow(recipe: Recipe) -> FlowMatching:
    if not isinstance(recipe.process, FlowMatching):
        raise UserError(f"{recipe.name}: its generator is trained by Gaussian diffusion, which has no path to choose")
    return recipe.process


def _process(recipe: Recipe, name: str) -> Recipe:
    """Choose flow matching or Gaussian diffusion, with the transformer's outputs and a sampler that fit."""
    gaussian = pick("--process", name, {"flow-matching": False, "gaussian": True})
    if gaussian == isinstance(recipe.process, GaussianDiffusion):
        return recipe
    generator = replace(recipe.generator, learn_sigma=gaussian, variance=gaussian)
    solver = DDPM() if gaussian else Euler()
    process = GaussianDiffusion() if gaussian else FlowMatching()
    return replace(recipe, process=process, generator=generator, sampling=replace(recipe.sampling, solver=solver))


def _interpolant(recipe: Recipe, name: str) -> Recipe:
    chosen = pick("--interpolant", name, _INTERPOLANTS)
    return replace(recipe, process=replace(_flow(recipe), interpolant=chosen))


def _prediction(recipe: Recipe, name: str) -> Recipe:
    chosen = pick("--prediction", name, _PREDICTIONS)
    return replace(recipe, process=replace(_flow(recipe), prediction=chosen))


def _weighting(recipe: Recipe, name: str) -> Recipe:
    chosen = pick("--weighting", name, _WEIGHTINGS)
    return replace(recipe, process=replace(_flow(recipe), weighting=chosen))


def _times(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, process=replace(_flow(recipe), times=pick("--times", name, _TIMES)))


def _transformer(recipe: Recipe, name: str) -> Recipe:
    old = recipe.generator
    named = replace(
        pick("--transformer", name, _TRANSFORMERS),
        label_dropout=old.label_dropout,
        learn_sigma=old.learn_sigma,
        variance=old.variance,
        qk_norm=old.qk_norm,
    )
    return replace(recipe, generator=named.config())


def _sampler(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, sampling=replace(recipe.sampling, solver=pick("--sampler", name, SOLVERS)))


def _diffusion(recipe: Recipe, name: str) -> Recipe:
    solver = with_diffusion(recipe.sampling.solver, name)
    return replace(recipe, sampling=replace(recipe.sampling, solver=solver))


def _last_step(recipe: Recipe, name: str) -> Recipe:
    solver = with_last_step(recipe.sampling.solver, name)
    return replace(recipe, sampling=replace(recipe.sampling, solver=solver))


def _labels(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, sampling=replace(recipe.sampling, labels=pick("--labels", name, LABELS)))


def _normalisation(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, normalisation=pick("--normalisation", name, _NORMALISATIONS))


def _semantic(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, semantic=pick("--semantic", name, _SEMANTIC))


def _tracker(recipe: Recipe, name: str) -> Recipe:
    training = replace(recipe.generator_training, tracker=pick("--tracker", name, TRACKERS))
    return replace(recipe, generator_training=training)


CHOICES: Mapping[str, Choose] = {
    "--process": _process,
    "--interpolant": _interpolant,
    "--prediction": _prediction,
    "--weighting": _weighting,
    "--times": _times,
    "--transformer": _transformer,
    "--sampler": _sampler,
    "--diffusion": _diffusion,
    "--last-step": _last_step,
    "--labels": _labels,
    "--normalisation": _normalisation,
    "--semantic": _semantic,
    "--tracker": _tracker,
}
"""Flags that choose a part of a recipe, in the order in which they take effect."""


def with_diffusion(solver: Sampler, name: str) -> Sampler:
    """Return a stochastic solver with another diffusion coefficient.

    Raises:
        UserError: the solver adds no noise, or there is none of that name.
    """
    if not isinstance(solver, (EulerMaruyama, StochasticHeun)):
        raise UserError(f"--diffusion: {type(solver).__name__} adds no noise; use euler-maruyama or stochastic-heun")
    return replace(solver, diffusion=pick("--diffusion", name, DIFFUSIONS))


def with_last_step(solver: Sampler, name: str) -> Sampler:
    """Return a stochastic solver with another last step.

    Raises:
        UserError: the solver has no last step of its own, or there is none of that name.
    """
    if not isinstance(solver, (EulerMaruyama, StochasticHeun)):
        raise UserError(f"--last-step: {type(solver).__name__} has none; use euler-maruyama or stochastic-heun")
    return replace(solver, last_step=pick("--last-step", name, LAST_STEPS))


def pick(flag: str, name: str, choices: Mapping[str, Chosen]) -> Chosen:
    """Return the choice of a name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name not in choices:
        raise UserError(f"{flag}: unknown '{name}'{nearest(name, choices)}")
    return choices[name]
