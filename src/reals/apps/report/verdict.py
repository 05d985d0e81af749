"""The verdict in words, computed from intervals and never beyond them.

Only Fréchet distances in feature networks that alignment never saw count: in its own network the aligned arm has an
advantage that says nothing about images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reals.apps.report import formatting
from reals.apps.report.catalogue import describe, guidance_words
from reals.apps.report.inputs import BASELINE, Change, Run, State

VerdictKind = Literal["helped", "hurt", "mixed", "unclear", "single", "none"]


@dataclass(frozen=True)
class Evidence:
    """The change of one Fréchet distance."""

    network: str
    guidance: float
    change: Change

    @property
    def state(self) -> State:
        """What its interval allows to say."""
        return self.change.state


@dataclass(frozen=True)
class Verdict:
    """What the page says first."""

    kind: VerdictKind
    headline: str
    lead: str
    evidence: tuple[Evidence, ...] = ()
    """Distances in networks alignment never saw: what the verdict rests on."""
    biased: tuple[Evidence, ...] = ()
    """Distances in networks alignment was trained on: shown, not counted."""


def judge(run: Run) -> Verdict:
    """Say whether alignment helped, from the intervals of the distances in networks it never saw."""
    if not run.compared:
        return _not_compared(run)
    counted = _evidence(run, seen=False)
    biased = _evidence(run, seen=True)
    decided = [item for item in counted if item.state != "unknown"]
    if not decided:
        why = (
            "No Fréchet distance of samples has been compared in a feature network that alignment never saw"
            if not counted
            else "The Fréchet distances have no intervals, so chance cannot be told from effect"
        )
        return Verdict("none", "No verdict: the evidence is missing", f"{why}.", counted, biased)
    better = [item for item in counted if item.state == "better"]
    worse = [item for item in counted if item.state == "worse"]
    unclear = [item for item in counted if item.state == "unclear"]
    kind, headline = _headline(better, worse, unclear)
    lead = _lead(better, worse, unclear)
    return Verdict(kind, headline, lead, counted, biased)


def _not_compared(run: Run) -> Verdict:
    arms = list(run.arms)
    if len(arms) == 1:
        other = "aligned" if arms[0] == BASELINE else BASELINE
        lead = (
            f"This run measured one arm, {arms[0]}, so it cannot say whether alignment helps. "
            f"Run the {other} arm too for a comparison at equal data, steps and seeds."
        )
        return Verdict("single", f"One arm measured: {arms[0]}", lead)
    lead = "The arms have not been compared: metrics.json holds no comparison."
    return Verdict("none", "No verdict: nothing has been compared", lead)


def _evidence(run: Run, seen: bool) -> tuple[Evidence, ...]:
    found = []
    for name, change in run.changes.items():
        metric = describe(name)
        if metric.network is None or metric.guidance is None or not name.endswith(f"/fd/{metric.network}"):
            continue
        if run.seen_by_alignment(metric.network) is seen:
            found.append(Evidence(metric.network, metric.guidance, change))
    return tuple(sorted(found, key=lambda item: (item.network, item.guidance)))


def _headline(
    better: Sequence[Evidence], worse: Sequence[Evidence], unclear: Sequence[Evidence]
) -> tuple[VerdictKind, str]:
    everything = [*better, *worse, *unclear]
    if better and worse:
        where = f"it helped {_places(better, everything)} and hurt {_places(worse, everything)}"
        return "mixed", f"Mixed: in this run {where}"
    if not better and not worse:
        return "unclear", "No clear difference: this run cannot tell an effect from chance"
    kind, verb, shown = ("helped", "helped", better) if better else ("hurt", "hurt", worse)
    where = f" {_places(shown, everything)}" if unclear else ""
    doubt = f"; {_places(unclear, everything)} no difference is distinguishable" if unclear else ""
    return kind, f"In this run, alignment {verb}{where}{doubt}"


def _places(items: Sequence[Evidence], everything: Sequence[Evidence]) -> str:
    several = len({item.network for item in everything}) > 1
    return join_words([guidance_words(item.guidance) + (f" (in {item.network})" if several else "") for item in items])


def _lead(better: Sequence[Evidence], worse: Sequence[Evidence], unclear: Sequence[Evidence]) -> str:
    sentences = []
    everything = [*better, *worse, *unclear]
    for items, moved, verb in ((better, "closer to", "fell"), (worse, "further from", "rose")):
        if items:
            sizes = join_words([f"by {_size(item.change)} {_places([item], everything)}" for item in items])
            sentences.append(f"Generated images moved {moved} real photos: their Fréchet distance {verb} {sizes}.")
    if unclear and (better or worse):
        sentences.append(f"The interval {_places(unclear, everything)} includes zero.")
    elif unclear:
        every = "Both" if len(unclear) == 2 else f"All {len(unclear)}"
        which = "The 95\u202f% interval includes" if len(unclear) == 1 else f"{every} 95\u202f% intervals include"
        sentences.append(
            f"{which} zero: the Fréchet distances of the two arms are not distinguishable. "
            "That is no proof of no effect; more samples, longer training or more seeds may show one."
        )
    sentences.append("Judged only in features that alignment never saw.")
    return " ".join(sentences)


def _size(change: Change) -> str:
    if change.is_relative and change.relative is not None:
        return formatting.percent(change.relative).lstrip("+−")
    return formatting.quantity(abs(change.difference or 0.0), "distance")


def join_words(parts: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def values_words(change: Change) -> str:
    """Return ``3.02 → 2.39``."""
    kind = describe(change.name).kind
    return f"{formatting.quantity(change.baseline, kind)} → {formatting.quantity(change.aligned, kind)}"


def size_words(change: Change) -> str:
    """Return the change that the interval belongs to, signed and with its unit."""
    if change.value is None:
        return ""
    return (
        formatting.percent(change.value)
        if change.is_relative
        else formatting.difference(change.value, describe(change.name).kind)
    )


def interval_words(change: Change) -> str:
    """Return the 95 % interval with its unit, or a dash."""
    if change.interval is None:
        return "–"
    if change.interval_of == "relative_change":
        return formatting.percent_range(*change.interval)
    return formatting.difference_range(*change.interval, describe(change.name).kind)


def price(run: Run) -> list[str]:
    """Say what alignment cost in reconstruction."""
    psnr = run.changes.get("reconstruction/psnr")
    if psnr is None or psnr.difference is None:
        return ["Reconstruction quality was not compared, so the price of alignment is unknown."]
    relative = f"{size_words(psnr)}, " if psnr.is_relative else ""
    interval = f"95\u202f% interval {interval_words(psnr)}" if psnr.interval else "no interval"
    amount = f"{values_words(psnr)} ({formatting.difference(psnr.difference, 'decibel')}; {relative}{interval})"
    match psnr.state:
        case "worse":
            said = [f"Reconstructions lost fidelity: PSNR {amount}."]
        case "better":
            said = [f"None in pixel fidelity, which rose: PSNR {amount}."]
        case "unclear":
            said = [f"None that can be distinguished: PSNR {amount}."]
        case _:
            said = [f"PSNR of reconstructions: {amount}."]
    for name, change in run.changes.items():
        metric = describe(name)
        if metric.theme == "reconstruction" and "/fd/" in name and run.seen_by_alignment(metric.network or "") is False:
            words = {"better": "fell", "worse": "rose"}.get(change.state, "is not distinguishable")
            said.append(
                f"The Fréchet distance of reconstructions, the floor for samples, {words}: {values_words(change)} "
                f"({metric.network})."
            )
    return said


def confidence(run: Run, verdict: Verdict) -> list[str]:
    """Say what the intervals cover, and what they do not."""
    clear = sum(item.state in ("better", "worse") for item in verdict.evidence)
    count, replicates = run.section("samples").get("count"), run.section("bootstrap").get("replicates")
    seed = run.section("recipe").get("seed", run.section("samples").get("seed"))
    basis = f"{replicates} bootstrap resamples" if replicates else "bootstrap resamples"
    basis += f" of {count} samples per arm and guidance scale" if count else ""
    said = []
    if verdict.evidence:
        verb = "excludes" if clear == 1 else "exclude"
        said.append(
            f"{clear} of {len(verdict.evidence)} intervals {verb} zero. They are 95\u202f% intervals from {basis}."
        )
    said.append(
        "The intervals cover sampling noise of one trained model per arm"
        + (f" (seed {seed})" if seed is not None else "")
        + ". They do not cover how another training seed would have come out: train with more seeds to know that."
    )
    dimension = max((_dimension(run, item.network) for item in verdict.evidence), default=0)
    if isinstance(count, int) and 0 < count < dimension:
        said.append(
            f"{count} samples are fewer than the {dimension} feature dimensions: absolute distances are inflated, "
            "alike in both arms; compare them only inside this page."
        )
    return said


def _dimension(run: Run, network: str) -> int:
    found = run.section("feature_networks", network).get("dimension")
    return found if isinstance(found, int) else 0
