"""``reals run`` and ``reals quickstart``."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reals.cli.parse import parse
from reals.cli.recipe_flags import RecipeFlags, take_parts, take_recipe
from reals.recipes.pipeline import run_pipeline
from reals.recipes.presets import PRESETS, preset
from reals.runtime.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Train, sample, measure and compare, from a folder of photos to a report.

    Finished stages are skipped and an interrupted one goes on where its last checkpoint was. Choose the recipe with
    ``--recipe NAME``, its parts with flags such as ``--process``, ``--interpolant``, ``--transformer``, ``--sampler``,
    ``--normalisation``, ``--semantic`` and ``--tracker`` (docs/guide/stages.md lists all); every number can be
    overridden by the flags below.
    """

    data: str
    """Zip or folder of class folders, flat folder, Parquet, or hf:OWNER/NAME; scenes:COUNT renders scenes."""
    out: Path
    """The run's directory."""
    arms: tuple[str, ...] = ("baseline", "aligned")
    """Which arms to train: baseline (λ_a = 0) and aligned (the recipe's λ_a)."""
    recipe: RecipeFlags


@dataclass(frozen=True, kw_only=True)
class QuickstartArguments:
    """The whole pipeline on rendered scenes: needs no data and no network."""

    out: Path = Path("reals-quickstart")
    """The run's directory."""
    recipe: RecipeFlags


def run(arguments: Sequence[str]) -> None:
    """Parse and run ``reals run``."""
    verb, recipe, rest = take_recipe("run", arguments, "photos32")
    parsed = parse(RunArguments, rest, verb=verb, recipe=recipe)
    _check_arms(parsed.arms)
    run_pipeline(parsed.data, parsed.out, parsed.recipe, parsed.arms, _command("run", arguments))


def quickstart(arguments: Sequence[str]) -> None:
    """Parse and run ``reals quickstart``."""
    recipe, rest = take_parts("quickstart", preset("quickstart"), arguments)
    parsed = parse(QuickstartArguments, rest, verb="quickstart", recipe=recipe)
    command = _command("quickstart", arguments)
    run_pipeline(PRESETS["quickstart"].data or "", parsed.out, parsed.recipe, ("baseline", "aligned"), command)


def _command(verb: str, arguments: Sequence[str]) -> str:
    return shlex.join(["reals", verb, *arguments])


def _check_arms(arms: tuple[str, ...]) -> None:
    known = ("baseline", "aligned")
    for arm in arms:
        if arm not in known:
            raise UserError(f"--arms: unknown arm '{arm}'{nearest(arm, known)}")
    if not arms or len(set(arms)) != len(arms):
        raise UserError("--arms: name each arm once; choose from baseline, aligned")
