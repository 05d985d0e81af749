"""DiT's Gaussian diffusion: a chain of discrete noisings, trained and sampled as the original does.

:class:`GaussianDiffusion` holds the settings. Its ``build(network)`` gives the objective; ``sample(solver, output, x,
noise)`` carries noise to data with :class:`DDPM` or :class:`DDIM`, where ``output`` comes from ``guidance.guide`` with
``noise_level`` as the unit of its interval; ``times(solver)`` is what the network's forward passes are counted on.
"""

from reals.diffusion.gaussian.process import GaussianDiffusion
from reals.diffusion.gaussian.solvers import DDIM, DDPM, GaussianSolver
from reals.diffusion.gaussian.spacing import EvenSpacing, SectionSpacing, Spacing, StrideSpacing, parse_spacing
from reals.diffusion.gaussian.variance import FixedLarge, FixedSmall, LearnedRange, Variance

__all__ = [
    "DDIM",
    "DDPM",
    "EvenSpacing",
    "FixedLarge",
    "FixedSmall",
    "GaussianDiffusion",
    "GaussianSolver",
    "LearnedRange",
    "SectionSpacing",
    "Spacing",
    "StrideSpacing",
    "Variance",
    "parse_spacing",
]
