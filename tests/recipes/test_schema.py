"""What a recipe derives from its own numbers."""

from dataclasses import replace

import pytest
import torch

from reals.latents.normalise import MinMax, Standardise
from reals.latents.statistics import latent_statistics
from reals.recipes.presets import preset


@pytest.mark.parametrize("normalisation", [MinMax(), Standardise()])
def test_the_gain_multiplies_what_stage_two_sees(normalisation: MinMax | Standardise) -> None:
    latents = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    statistics = latent_statistics([latents])
    recipe = replace(preset("debug"), normalisation=normalisation)
    plain = recipe.latent_normalisation(statistics)
    louder = replace(recipe, latent_gain=2.5).latent_normalisation(statistics)
    assert plain == normalisation.from_statistics(statistics)
    torch.testing.assert_close(louder.normalise(latents), 2.5 * plain.normalise(latents))
    torch.testing.assert_close(louder.denormalise(louder.normalise(latents)), latents, rtol=1e-5, atol=1e-5)


def test_a_gain_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"latent_gain is 0\.0; it must be positive"):
        replace(preset("debug"), latent_gain=0.0)
