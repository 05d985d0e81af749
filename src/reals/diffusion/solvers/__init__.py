"""Solvers: frozen settings whose ``integrate(flow, x, noise, on_step)`` carries noise to data along a flow.

Each has ``times(start, end)``, the times at which the velocity is evaluated on an interval, and ``intervals``, how many
steps it reports. Both are ``None`` for a solver that chooses its steps as it goes.
"""

from reals.diffusion.solvers.adaptive import Dopri5
from reals.diffusion.solvers.grid import StepCallback
from reals.diffusion.solvers.last_step import EulerStep, LastStep, MeanStep, NoLastStep, TweedieStep
from reals.diffusion.solvers.ode import Euler, Heun
from reals.diffusion.solvers.stochastic import EulerMaruyama, StochasticHeun

DeterministicSolver = Euler | Heun | Dopri5
"""Solvers of dx/dt = v(x, t), which also run from data to noise."""

Solver = Euler | Heun | Dopri5 | EulerMaruyama | StochasticHeun
"""Any solver."""

__all__ = [
    "DeterministicSolver",
    "Dopri5",
    "Euler",
    "EulerMaruyama",
    "EulerStep",
    "Heun",
    "LastStep",
    "MeanStep",
    "NoLastStep",
    "Solver",
    "StepCallback",
    "StochasticHeun",
    "TweedieStep",
]
