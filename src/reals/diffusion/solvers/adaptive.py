"""A solver of the probability flow that chooses its steps by their error: Dormand and Prince's, SiT's default."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.flow import Flow
from reals.diffusion.noise import NoiseSource
from reals.diffusion.solvers.grid import Precision, StepCallback, ignore_step
from reals.runtime.errors import UserError

# What torchdiffeq asserts when the steps lead nowhere.
_GAVE_UP = ("underflow in dt", "non-finite values in state")


@dataclass(frozen=True, kw_only=True)
class Dopri5(Precision):
    """Adaptive fifth-order solver of dx/dt = v(x, t), by ``torchdiffeq``.

    Never asks for a velocity outside the flow's interval: the last step ends at its end, where SiT's goes beyond and
    interpolates. A step is as long as its error over the whole batch allows, so an image depends on its batch by as
    much as the tolerances. Wrap the velocity in ``CountedVelocity`` to learn how often it was evaluated.
    """

    absolute_tolerance: float = 1e-6
    """Error of a step that is always allowed."""
    relative_tolerance: float = 1e-3
    """Error of a step that is allowed in addition, as a share of the state."""

    def __post_init__(self) -> None:
        for name in ("absolute_tolerance", "relative_tolerance"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite")

    @property
    def intervals(self) -> None:
        """Not known in advance."""
        return None

    def times(self, start: float, end: float) -> None:
        """Return ``None``: the velocity decides where it is evaluated."""
        return None

    def integrate(
        self,
        flow: Flow,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource | None = None,
        on_step: StepCallback = ignore_step,
    ) -> Float[Tensor, " b *dims"]:
        """Carry ``x`` from the flow's start to its end; ``noise`` is not used, ``on_step`` is told accepted steps.

        Raises:
            UserError: the steps became too short to go on, as they do where the velocity is not finite.
        """
        # Here, not above: it imports SciPy, and few need it.
        from torchdiffeq import odeint

        field = _Field(flow, on_step)
        times = torch.tensor([flow.start, flow.end], dtype=torch.float64, device=x.device)
        try:
            states = odeint(
                field,
                x.to(self.dtype),
                times,
                method="dopri5",
                rtol=self.relative_tolerance,
                atol=self.absolute_tolerance,
                options={"step_t": times[1:]},
            )
        except AssertionError as error:
            reason = str(error).partition(":")[0]
            if not reason.startswith(_GAVE_UP):
                raise
            raise UserError(
                f"Dopri5 could not go on at t = {field.time:.6g} ({reason}): the velocity is not finite there, or too "
                "steep for the tolerances; raise them, or use Heun"
            ) from None
        assert isinstance(states, Tensor)
        end = states[-1]
        on_step(field.accepted + 1, end)
        return end


class _Field:
    """A flow as ``torchdiffeq`` calls it, and what it tells on the way."""

    def __init__(self, flow: Flow, on_step: StepCallback):
        self._flow = flow
        self._on_step = on_step
        self.time = flow.start
        """Where the current step begins."""
        self.accepted = 0
        """Finished steps before the current one."""

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        # The search for a first step may look beyond the interval; so do sums of rounded fractions of a step.
        low, high = sorted((self._flow.start, self._flow.end))
        times = t.clamp(low, high).expand(len(x))
        return self._flow.velocity(x, times).to(x.dtype)

    def callback_step(self, t: Tensor, x: Tensor, length: Tensor) -> None:
        """Note that a step begins at ``t``: for the first time there if the one before was accepted."""
        if t.item() != self.time:
            self.time = t.item()
            self.accepted += 1
            self._on_step(self.accepted, x)
