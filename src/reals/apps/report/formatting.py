"""Numbers as people read them: a true minus sign, few digits, units that do not break off their number."""

import math
from typing import Literal

Kind = Literal["distance", "share", "decibel", "plain"]
"""How a metric is written: a distance, a share of 1 shown in per cent, decibels, or a bare number."""

_SPACE = "\u202f"


def number(value: float | None, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits, or a dash for a missing one."""
    if value is None:
        return "–"
    size = abs(value)
    if size != 0 and (size < 1e-4 or size >= 1e7):
        return f"{value:.{digits - 1}e}".replace("-", "−")
    places = digits if size == 0 else max(digits - 1 - math.floor(math.log10(size)), 0)
    return _signless_zero(f"{value:,.{min(places, 6)}f}").replace(",", _SPACE)


def _signless_zero(written: str) -> str:
    return (written.lstrip("-") if float(written.replace(",", "")) == 0 else written).replace("-", "−")


def quantity(value: float | None, kind: Kind) -> str:
    """Return a metric's value with its unit."""
    if value is None:
        return "–"
    if kind == "share":
        return f"{_signless_zero(f'{100 * value:.1f}')}{_SPACE}%"
    if kind == "decibel":
        return f"{_signless_zero(f'{value:.2f}')}{_SPACE}dB"
    return number(value, 4 if kind == "distance" and abs(value) >= 1000 else 3)


def _decimals(values: list[float]) -> int:
    largest = max(abs(value) for value in values)
    return 0 if largest >= 100 else 1 if largest >= 1 else 2


def _signed(value: float, decimals: int) -> str:
    written = _signless_zero(f"{value:.{decimals}f}")
    return written if written.startswith("−") or float(written) == 0 else f"+{written}"


def percent(value: float) -> str:
    """Return a relative change with its sign: 0.123 as ``+12.3 %``."""
    return f"{_signed(100 * value, _decimals([100 * value]))}{_SPACE}%"


def difference(value: float, kind: Kind) -> str:
    """Return an absolute change with its sign and unit; shares change by percentage points."""
    if kind == "share":
        return f"{_signed(100 * value, _decimals([100 * value]))} points"
    if kind == "decibel":
        return f"{_signed(value, 2)}{_SPACE}dB"
    written = number(value)
    return written if written.startswith("−") or value == 0 else f"+{written}"


def percent_range(low: float, high: float) -> str:
    """Return an interval of relative changes: ``−26.1 to −15.3 %``."""
    decimals = _decimals([100 * low, 100 * high])
    return f"{_signed(100 * low, decimals)} to {_signed(100 * high, decimals)}{_SPACE}%"


def difference_range(low: float, high: float, kind: Kind) -> str:
    """Return an interval of absolute changes with its unit."""
    if kind == "share":
        return f"{percent_range(low, high).removesuffix(f'{_SPACE}%')} points"
    if kind == "decibel":
        return f"{_signed(low, 2)} to {_signed(high, 2)}{_SPACE}dB"
    largest = max(abs(low), abs(high), 1e-12)
    places = min(max(2 - math.floor(math.log10(largest)), 0), 6)
    return f"{_signed(low, places)} to {_signed(high, places)}"


def duration(seconds: float) -> str:
    """Return a time as ``12 s``, ``3 min 20 s`` or ``1 h 05 min``."""
    if seconds < 99.5:
        return f"{number(seconds, 2)}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{_SPACE}h {minutes:02d}{_SPACE}min"
    return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values inside [low, high], about ``count`` of them."""
    raw = (high - low) / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
