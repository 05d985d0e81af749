"""The recipe of a command: by its name, then part by part, before its numbers become flags."""

from collections.abc import Sequence
from typing import Annotated

import tyro

from reals.cli.parse import take_option
from reals.recipes.presets import preset
from reals.recipes.schema import Recipe
from reals.recipes.variants import CHOICES
from reals.runtime.errors import UserError

RecipeFlags = Annotated[Recipe, tyro.conf.arg(name="")]
"""A recipe whose fields are flags of the command itself."""


def take_recipe(verb: str, arguments: Sequence[str], default: str) -> tuple[str, Recipe, list[str]]:
    """Return the command with its recipe's name, the recipe that ``arguments`` choose, and the other arguments.

    Raises:
        UserError: there is no such recipe or part, or the parts contradict each other.
    """
    name, rest = take_option(arguments, "--recipe", default)
    recipe, rest = take_parts(verb, preset(name), rest)
    return f"{verb} --recipe {name}", recipe, rest


def take_parts(verb: str, recipe: Recipe, arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Return ``recipe`` with the parts that ``arguments`` choose, and the other arguments.

    Raises:
        UserError: there is no such part, or the parts contradict each other.
    """
    rest = list(arguments)
    for flag, choose in CHOICES.items():
        name, rest = take_option(rest, flag, "")
        if name:
            try:
                recipe = choose(recipe, name)
            except ValueError as error:
                raise UserError(f"{verb}: {flag} {name}: {error}") from None
    return recipe, rest
