"""Every named recipe fits together, at its real size, before anybody trains it."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import reals.recipes.presets as presets
from reals.apps.generate import RandomLabels
from reals.diffusion.diffusion_coefficient import SigmaDiffusion
from reals.diffusion.gaussian import DDPM, GaussianDiffusion
from reals.diffusion.objective import FlowMatching
from reals.diffusion.repa import RepaConfig
from reals.diffusion.solvers import EulerMaruyama, MeanStep
from reals.latents.adversarial import AdversarialConfig
from reals.latents.equivariance import EquivarianceConfig
from reals.latents.vision_foundation import VisionFoundationConfig
from reals.models.autoencoder import AutoencoderConfig, downsampling
from reals.models.lpips import Lpips
from reals.models.semantic import DinoV2
from reals.models.transformer import SIZES, SizeName
from reals.recipes.checks import check_generator, check_recipe
from reals.recipes.data import open_data
from reals.recipes.presets import PRESETS, preset
from reals.recipes.schema import EvaluationConfig, Pretrained, Recipe, SamplingConfig, Scratch, StageOneConfig
from reals.recipes.stage_one import packaged_autoencoder
from reals.runtime.errors import UserError
from reals.training.config import Constant, Cosine

NAMES = tuple(PRESETS)


def architecture(recipe: Recipe) -> AutoencoderConfig:
    """Return the starting autoencoder's shape: SD-VAE's for the hub's one."""
    start = recipe.autoencoder
    if isinstance(start, Scratch):
        return start.architecture
    if start.location == "package:plain-scenes64":
        made = preset("scenes64").autoencoder
        assert isinstance(made, Scratch)
        return made.architecture
    assert start.location == "stabilityai/sd-vae-ft-ema"
    return AutoencoderConfig()


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_built_for_each_other(name: str) -> None:
    recipe = preset(name)
    shape = architecture(recipe)
    with torch.device("meta"):
        autoencoder = shape.build()
        assert downsampling(autoencoder) == shape.downsampling
        grid, rest = divmod(recipe.data.image_size, shape.downsampling)
        assert rest == 0
        generator = recipe.generator.build(shape.latent_channels, grid, 10)
        noise = torch.empty(2, shape.latent_channels, grid, grid)
        output = generator(noise, torch.empty(2), torch.zeros(2, dtype=torch.int64))
    channels = shape.latent_channels
    if isinstance(recipe.process, GaussianDiffusion):
        channels = recipe.process.outputs(channels)
    assert output.shape == (2, channels, grid, grid)
    assert output.is_meta
    check_generator(recipe)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_name_under_which_it_is_found(name: str) -> None:
    assert preset(name).name == name
    build = PRESETS[name].build
    assert build is getattr(presets, name.replace("-", "_"))
    assert build.__doc__ is not None
    assert "``reals quickstart``" in build.__doc__ or f"--recipe {name}" in build.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_the_baseline_differs_by_the_weight_of_alignment_alone(name: str) -> None:
    recipe = preset(name)
    baseline, aligned = recipe.for_arm("baseline"), recipe.for_arm("aligned")
    assert aligned == recipe
    assert recipe.align.weight > 0
    assert baseline.align.weight == 0
    assert [field.name for field in fields(recipe) if getattr(baseline, field.name) != getattr(recipe, field.name)] == [
        "align"
    ]
    assert replace(baseline.align, weight=recipe.align.weight) == recipe.align


@pytest.mark.parametrize("name", [name for name in NAMES if PRESETS[name].data])
def test_rendered_data_have_the_recipes_size(name: str) -> None:
    location = PRESETS[name].data
    assert location is not None
    source = open_data(location, preset(name).data.image_size)
    assert source.load(0).size == (preset(name).data.image_size,) * 2


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(preset(name).autoencoder, Scratch)])
def test_a_recipe_passes_its_own_checks(name: str) -> None:
    check_recipe(preset(name))


def test_stage_one_of_the_paper_has_the_papers_numbers() -> None:
    """ReaLS, Table 1, and the weights below Eq. 6."""
    recipe = preset("imagenet256-vae")
    loss, training = recipe.objective, recipe.stage1.training
    assert (loss.adversarial.weight, loss.perceptual, loss.kl, recipe.align.weight) == (0.1, 1.0, 2e-5, 1.0)
    assert (recipe.align.cosine, recipe.align.smooth, recipe.align.depth) == (0.9, 0.1, 2)
    assert (training.batch_size, training.learning_rate, training.schedule) == (64, 5e-5, Cosine())
    assert recipe.stage1.epochs == 10
    assert isinstance(loss.perceptual_network, Lpips)
    assert recipe.semantic == DinoV2(model="facebook/dinov2-with-registers-large")
    # 10 passes over what is left of ImageNet's 1,281,167 photos.
    assert recipe.stage1.loop(1_268_000).steps == 198_125
    assert replace(recipe.stage1, epochs=None).loop(1_268_000) == training
    with pytest.raises(ValueError, match="epochs is 0"):
        replace(recipe.stage1, epochs=0.0)


GENERATORS: dict[str, tuple[SizeName, int]] = {
    "imagenet256-dit-b": ("B", 130),
    "imagenet256-sit-b": ("B", 130),
    "imagenet256-sit-l": ("L", 458),
    "imagenet256-sit-xl": ("XL", 675),
}


@pytest.mark.parametrize("repa", [False, True])
@pytest.mark.parametrize("name", GENERATORS)
def test_stage_two_of_the_paper_has_the_papers_numbers(name: str, repa: bool) -> None:
    """ReaLS, section 4, with what DiT, SiT and REPA say of the rest."""
    recipe = preset(f"{name}-repa" if repa else name)
    size, millions = GENERATORS[name]
    generator, training, sampling = recipe.generator, recipe.stage2, recipe.sampling
    assert (generator.depth, generator.width, generator.heads) == SIZES[size]
    with torch.device("meta"):
        assert sum(p.numel() for p in generator.build(4, 32, 1000).parameters()) // 10**6 == millions
    assert (generator.patch_size, generator.label_dropout, generator.qk_norm) == (2, 0.1, False)
    assert (training.steps, training.batch_size, training.learning_rate) == (400_000, 256, 1e-4)
    assert (training.schedule, training.weight_decay, training.ema_decay) == (Constant(), 0.0, 0.9999)
    assert training.clip_norm == (1.0 if repa else None)
    assert recipe.generator_training.repa == (RepaConfig(weight=0.5, block=8, hidden=2048) if repa else RepaConfig())
    assert recipe.repa == repa
    assert (sampling.count, sampling.labels) == (50_000, RandomLabels())
    assert sampling.guidance_scales == ((1.0, 1.8) if size == "XL" else (1.0,))
    if size == "XL":
        assert sampling.guidance_interval == (0.0, 0.75)
    if "dit" in name:
        assert (recipe.process, sampling.solver) == (GaussianDiffusion(), DDPM(steps=250))
    else:
        assert recipe.process == FlowMatching()
        assert sampling.solver == EulerMaruyama(
            steps=250, last_step=MeanStep(size=0.04), diffusion=SigmaDiffusion(), count_points=False
        )
    stage_one = preset("imagenet256-vae")
    for part in ("data", "semantic", "autoencoder", "objective", "align", "stage1", "normalisation"):
        assert getattr(recipe, part) == getattr(stage_one, part)


def test_the_guide_names_every_recipe() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "your-photos.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in guide] == []


def test_every_alignment_belongs_to_the_aligned_arm_alone() -> None:
    rivals = {"vision_foundation": VisionFoundationConfig(weight=0.1), "equivariance": EquivarianceConfig(weight=0.5)}
    recipe = replace(preset("debug"), **rivals)
    baseline = recipe.for_arm("baseline")
    assert recipe.for_arm("aligned") == recipe
    assert recipe.aligns
    assert not baseline.aligns
    assert baseline.equivariance.weight == baseline.vision_foundation.weight == baseline.align.weight == 0
    assert replace(recipe, align=replace(recipe.align, weight=0.0)).aligns


def test_a_discriminator_needs_images_it_can_judge() -> None:
    recipe = preset("debug")
    game = replace(recipe.objective, adversarial=AdversarialConfig(weight=0.1))
    with pytest.raises(UserError, match=r"would see images of 16 pixels and needs 24; lower .*layers"):
        check_recipe(replace(recipe, objective=game))


def test_parts_that_do_not_fit_are_found_before_anything_is_made() -> None:
    recipe = preset("debug")
    for data, message in ((15, "do not divide into cells of 2"), (10, "needs at least 11")):
        with pytest.raises(UserError, match=message):
            check_recipe(replace(recipe, data=replace(recipe.data, image_size=data)))
    with pytest.raises(UserError, match="patch_size is 3, which does not divide the 8x8 latent"):
        check_recipe(replace(recipe, generator=replace(recipe.generator, patch_size=3)))
    with pytest.raises(UserError, match=r"sampling\.count is 3; measuring needs 4 or more"):
        check_recipe(replace(recipe, sampling=replace(recipe.sampling, count=3)))


def test_a_pretrained_autoencoder_must_be_there(tmp_path: Path) -> None:
    recipe = replace(preset("debug"), autoencoder=Pretrained(location=str(tmp_path / "absent")))
    with pytest.raises(UserError, match="no such directory"):
        check_recipe(recipe)
    with pytest.raises(UserError, match="package:nothing: no such packaged autoencoder"):
        packaged_autoencoder("nothing")


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown recipe 'photo32'; did you mean 'photos32'"):
        preset("photo32")


def test_numbers_that_make_no_sense() -> None:
    recipe = preset("debug")
    sampling: SamplingConfig = recipe.sampling
    evaluation: EvaluationConfig = recipe.evaluation
    stage1: StageOneConfig = recipe.stage1
    for change, message in (
        ({"count": 0}, "count is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance_scales": ()}, "at least one"),
        ({"guidance_scales": (2.0, 2.0000001)}, "each once"),
        ({"guidance_scales": (-1.0,)}, "guidance scale is -1"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance interval is 0.8 to 0.2"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(sampling, **change)
    for name in ("reference_images", "probe_images", "held_out_images", "consistency_images", "replicates"):
        with pytest.raises(ValueError, match=f"{name} is 1; it must be at least"):
            replace(evaluation, **{name: 1})
    with pytest.raises(ValueError, match="images is 0"):
        replace(stage1, images=0)
    with pytest.raises(ValueError, match="feature_cache_gigabytes is -1"):
        replace(stage1, feature_cache_gigabytes=-1.0)


def test_without_classes_there_is_one_scale() -> None:
    sampling = preset("photos32").sampling
    assert sampling.scales(labelled=True) == (1.0, 3.0)
    assert sampling.scales(labelled=False) == (1.0,)
