"""Named recipes. Each is a function, derived from a neighbour where it can be, so that a difference is one line."""

from collections.abc import Callable
from dataclasses import dataclass

from reals.recipes.presets.generators import (
    imagenet256_dit_b,
    imagenet256_dit_b_repa,
    imagenet256_sit_b,
    imagenet256_sit_b_repa,
    imagenet256_sit_l,
    imagenet256_sit_l_repa,
    imagenet256_sit_xl,
    imagenet256_sit_xl_repa,
)
from reals.recipes.presets.imagenet import imagenet256_vae, photos256
from reals.recipes.presets.offline import clothing256, debug, photos32, quickstart, scenes64
from reals.recipes.schema import Recipe
from reals.runtime.errors import UserError, nearest


@dataclass(frozen=True)
class Preset:
    """A recipe, and the photos it is meant for where those are rendered."""

    build: Callable[[], Recipe]
    data: str | None = None


PRESETS: dict[str, Preset] = {
    "quickstart": Preset(quickstart, data="plain-scenes:3000"),
    "scenes64": Preset(scenes64, data="plain-scenes:8000:1"),
    "photos32": Preset(photos32),
    "clothing256": Preset(clothing256),
    "photos256": Preset(photos256),
    "imagenet256-vae": Preset(imagenet256_vae),
    "imagenet256-dit-b": Preset(imagenet256_dit_b),
    "imagenet256-dit-b-repa": Preset(imagenet256_dit_b_repa),
    "imagenet256-sit-b": Preset(imagenet256_sit_b),
    "imagenet256-sit-b-repa": Preset(imagenet256_sit_b_repa),
    "imagenet256-sit-l": Preset(imagenet256_sit_l),
    "imagenet256-sit-l-repa": Preset(imagenet256_sit_l_repa),
    "imagenet256-sit-xl": Preset(imagenet256_sit_xl),
    "imagenet256-sit-xl-repa": Preset(imagenet256_sit_xl_repa),
    "debug": Preset(debug, data="scenes:120"),
}


def preset(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    if name not in PRESETS:
        raise UserError(f"unknown recipe '{name}'{nearest(name, PRESETS)}")
    return PRESETS[name].build()
