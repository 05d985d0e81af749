"""Which of the timesteps of a trained process a sampler visits (Nichol & Dhariwal, 2021, section 4).

A spacing is a rule; how many timesteps it picks is the sampler's ``steps``. The strings of DiT and its ancestors
(``"250"``, ``"ddim50"``, ``"10,15,20"``) are read by :func:`parse_spacing` and nowhere else.
"""

from dataclasses import dataclass

from reals.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvenSpacing:
    """Even over the whole process, first and last timestep included; rounded half to even. The originals' ``"250"``."""

    def timesteps(self, total: int, steps: int) -> tuple[int, ...]:
        """Return ``steps`` of the timesteps 0 to ``total - 1``, increasing.

        Raises:
            UserError: the process has fewer timesteps.
        """
        return _even(0, total, steps)


@dataclass(frozen=True, kw_only=True)
class StrideSpacing:
    """Every n-th timestep from 0, as in DDIM's paper, so the last is left out. The originals' ``"ddim50"``."""

    def timesteps(self, total: int, steps: int) -> tuple[int, ...]:
        """Return ``steps`` of the timesteps 0 to ``total - 1``, increasing, at the smallest stride that gives as many.

        Raises:
            UserError: no whole stride gives as many.
        """
        for stride in range(1, total + 1):
            picked = range(0, total, stride)
            if len(picked) == steps:
                return tuple(picked)
        raise UserError(
            f"no whole stride picks {steps} of {total} timesteps; choose a number of steps that divides {total}, "
            "or even spacing"
        )


@dataclass(frozen=True, kw_only=True)
class SectionSpacing:
    """Even inside equal sections, each with its own count, the least noisy first. The originals' ``"10,15,20"``."""

    counts: tuple[int, ...]
    """Timesteps picked from each section; their sum is the number of steps."""

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"counts is {list(self.counts)}; give at least one section, each with at least 1")

    def timesteps(self, total: int, steps: int) -> tuple[int, ...]:
        """Return ``steps`` of the timesteps 0 to ``total - 1``, increasing.

        Raises:
            UserError: a section has fewer timesteps than it should give, or the counts do not add up to ``steps``.
        """
        if sum(self.counts) != steps:
            raise UserError(f"steps is {steps}, but the sections' counts {list(self.counts)} add up to another number")
        # Where the sections cannot be equal, the first ones are longer by one.
        size, longer = divmod(total, len(self.counts))
        picked: list[int] = []
        start = 0
        for index, count in enumerate(self.counts):
            length = size + (index < longer)
            picked += _even(start, length, count)
            start += length
        return tuple(picked)


Spacing = EvenSpacing | StrideSpacing | SectionSpacing
"""Any rule; each has ``timesteps(total, steps)``."""


def parse_spacing(text: str) -> tuple[int, Spacing]:
    """Return the number of steps and the rule that one of the originals' strings stands for.

    Raises:
        UserError: it is none of a number, ``ddim`` with a number, and numbers with commas between.
    """
    stride = text.startswith("ddim")
    parts = text.removeprefix("ddim").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts) or (stride and len(parts) > 1):
        raise UserError(f"spacing {text!r} is not understood; write a number of steps, ddim50, or 10,15,20")
    if len(parts) == 1:
        return int(parts[0]), StrideSpacing() if stride else EvenSpacing()
    counts = tuple(map(int, parts))
    return sum(counts), SectionSpacing(counts=counts)


def _even(start: int, length: int, count: int) -> tuple[int, ...]:
    if count > length:
        raise UserError(f"cannot pick {count} of {length} timesteps; ask for fewer steps")
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    picked: list[int] = []
    # A running sum, as in the originals: its rounding decides which of two neighbours some counts pick.
    place = 0.0
    for _ in range(count):
        picked.append(start + round(place))
        place += stride
    return tuple(picked)
