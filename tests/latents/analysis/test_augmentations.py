import pytest
import torch

from reals.latents.analysis.augmentations import AUGMENTATIONS, AllAugmentations, Blur, Crop, Flip, Grayscale
from reals.runtime.seed import torch_generator


def _image(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("view", [0, 1])
def test_views_are_reproducible_and_keep_shape_and_range(name: str, view: int) -> None:
    image = _image(16, 24)
    for index in range(20):
        first, again = (AUGMENTATIONS[name].view(image, view, torch_generator("test", index, view)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.shape == image.shape
        assert first.abs().max() <= 1.0 + 1e-5


def test_crops_of_a_ramp_keep_the_announced_share() -> None:
    rows = torch.linspace(-1, 1, 64)[:, None].expand(64, 64)
    columns = rows.T
    image = torch.stack([rows, columns, rows])
    shares = []
    for index in range(300):
        view = Crop(minimum_area=0.25).view(image, 0, torch_generator("crop", index))
        height = (view[0, 40, 0] - view[0, 24, 0]).item() / (rows[40, 0] - rows[24, 0]).item()
        width = (view[1, 0, 40] - view[1, 0, 24]).item() / (rows[40, 0] - rows[24, 0]).item()
        shares.append(height * width)
        assert 0.7 < height / width < 1.42
    assert 0.22 < min(shares) < 0.3
    assert max(shares) > 0.95
    assert sum(shares) / 300 == pytest.approx(0.625, abs=0.05)


def test_a_crop_of_everything_is_the_image() -> None:
    image = _image()
    assert torch.equal(Crop(minimum_area=1.0).view(image, 0, torch.Generator()), image)


def test_flip_and_grayscale_change_the_second_view_only() -> None:
    image = _image()
    for augmentation in (Flip(), Grayscale()):
        assert torch.equal(augmentation.view(image, 0, torch.Generator()), image)
    assert torch.equal(Flip().view(image, 1, torch.Generator()), image.flip(2))
    grey = Grayscale().view(image, 1, torch.Generator())
    assert torch.equal(grey[0], grey[2])
    expected = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    torch.testing.assert_close(grey[0], expected)


def test_blur_spreads_a_point_by_its_sigma() -> None:
    image = torch.zeros(3, 41, 41)
    image[:, 20, 20] = 1.0
    generator = torch_generator("blur")
    sigma = 0.1 + 1.9 * torch.rand(1, generator=torch_generator("blur")).item()
    blurred = Blur().view(image, 0, generator)
    offsets = torch.arange(41) - 20.0
    assert blurred[0].sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (blurred[0].sum(0) * offsets**2).sum().item() == pytest.approx(sigma**2, rel=0.05)
    constant = torch.full((3, 4, 4), 0.3)
    torch.testing.assert_close(Blur().view(constant, 0, torch_generator("blur")), constant)


def test_all_augmentations_draw_mirroring_and_grey_by_chance() -> None:
    ramp = torch.stack([torch.linspace(-1, 1, 32).expand(32, 32), torch.zeros(32, 32), -torch.ones(32, 32)])
    views = [AllAugmentations().view(ramp, 0, torch_generator("all", index)) for index in range(300)]
    grey = [torch.equal(view[0], view[1]) for view in views]
    mirrored = [(view[0, 16, 24] < view[0, 16, 8]).item() for view in views]
    assert 0.12 < sum(grey) / 300 < 0.28
    assert 0.42 < sum(mirrored) / 300 < 0.58


def test_strengths_are_checked() -> None:
    with pytest.raises(ValueError, match="minimum_area"):
        Crop(minimum_area=0.0)
    with pytest.raises(ValueError, match="maximum_sigma"):
        Blur(maximum_sigma=0.0)
