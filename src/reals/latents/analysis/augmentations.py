"""Random views of an image for semantic consistency, each a function of (seed, image, view) alone.

The paper names the augmentations but not their strengths. These follow SimCLR (Chen et al., 2020), with a milder crop:
at SimCLR's 8 % of the area two views often share no pixel. A mirrored or grey view is compared with the untouched one;
were both drawn by a coin, half of the pairs would be equal and raise the average without saying anything.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

Image = Float[Tensor, "3 h w"]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Random resized crop: area uniform in [``minimum_area``, 1], aspect ratio log-uniform in [3/4, 4/3]."""

    minimum_area: float = 0.5
    """Smallest share of the image's area that a crop keeps."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.minimum_area <= 1:
            raise ValueError(f"minimum_area must be in (0, 1], not {self.minimum_area}")

    def view(self, image: Image, view: int, generator: Generator) -> Image:
        """Return a crop resized to the image's size (bilinear, antialiased)."""
        height, width = image.shape[1:]
        draws = torch.rand(4, generator=generator).tolist()
        area = self.minimum_area + (1.0 - self.minimum_area) * draws[0]
        # Ratios at which the crop would not fit inside the image are left out rather than rejected.
        reach = min(math.log(4 / 3), -math.log(area)) if area < 1 else 0.0
        ratio = math.exp(reach * (2 * draws[1] - 1))
        rows = min(height, max(1, round(height * math.sqrt(area / ratio))))
        columns = min(width, max(1, round(width * math.sqrt(area * ratio))))
        top = int(draws[2] * (height - rows + 1))
        left = int(draws[3] * (width - columns + 1))
        part = image[None, :, top : top + rows, left : left + columns]
        if (rows, columns) == (height, width):
            return image
        resized = functional.interpolate(part, (height, width), mode="bilinear", antialias=True, align_corners=False)
        return resized[0]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """The second view is mirrored left to right."""

    def view(self, image: Image, view: int, generator: Generator) -> Image:
        """Return the image, mirrored if ``view`` is odd."""
        return image.flip(2) if view % 2 else image


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Gaussian blur with σ uniform in [0.1, ``maximum_sigma``] pixels, in proportion for images above 224 pixels."""

    maximum_sigma: float = 2.0
    """Largest σ in pixels, as SimCLR uses at 224 pixels."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.maximum_sigma < 0.1:
            raise ValueError(f"maximum_sigma must be at least 0.1, not {self.maximum_sigma}")

    def view(self, image: Image, view: int, generator: Generator) -> Image:
        """Return the image convolved with a separable Gaussian, borders reflected."""
        draw = torch.rand(1, generator=generator).item()
        sigma = (0.1 + (self.maximum_sigma - 0.1) * draw) * max(1.0, max(image.shape[1:]) / 224)
        radius = min(math.ceil(3 * sigma), min(image.shape[1:]) - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(image.device)
        padded = functional.pad(image[:, None], (radius, radius, radius, radius), mode="reflect")
        rows = functional.conv2d(padded, kernel[None, None, None, :])
        return functional.conv2d(rows, kernel[None, None, :, None])[:, 0]


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """The second view is grey (ITU-R 601 luma)."""

    def view(self, image: Image, view: int, generator: Generator) -> Image:
        """Return the image, grey if ``view`` is odd."""
        return _grey(image) if view % 2 else image


@dataclass(frozen=True, kw_only=True)
class AllAugmentations:
    """Crop, then by chance mirrored (1/2), blurred (1/2) and grey (1/5), drawn for every view."""

    minimum_area: float = 0.5
    """Smallest share of the image's area that a crop keeps."""
    maximum_sigma: float = 2.0
    """Largest σ of the blur in pixels."""

    def view(self, image: Image, view: int, generator: Generator) -> Image:
        """Return the image with all augmentations composed."""
        image = Crop(minimum_area=self.minimum_area).view(image, view, generator)
        mirror, blur, grey = torch.rand(3, generator=generator).tolist()
        if mirror < 0.5:
            image = image.flip(2)
        if blur < 0.5:
            image = Blur(maximum_sigma=self.maximum_sigma).view(image, view, generator)
        return _grey(image) if grey < 0.2 else image


Augmentation = Crop | Flip | Blur | Grayscale | AllAugmentations

AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Crop(),
    "flip": Flip(),
    "blur": Blur(),
    "grayscale": Grayscale(),
    "all": AllAugmentations(),
}
"""The columns of the paper's Table 2, in its order."""


def _grey(image: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)
    return (image * weights[:, None, None]).sum(0, keepdim=True).expand_as(image)
