"""Draw the README's picture: the samples of both arms of a run, side by side.

``python tools/side_by_side.py reals-quickstart docs/images/quickstart.png``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from reals.apps.grid import image_grid, save_png

_LABEL_HEIGHT = 28
_GAP = 24


@dataclass(frozen=True)
class Arguments:
    """Which run, and what of it."""

    run: tyro.conf.Positional[Path]
    """The run's directory."""
    picture: tyro.conf.Positional[Path]
    """The PNG to write."""
    guidance: str = "3"
    """Guidance scale, as in the samples' file names."""
    columns: int = 6
    """Images of each class."""
    classes: tuple[int, ...] = (0, 3, 4, 7, 8, 9)
    """Which classes, a row each, by number."""


def panel(path: Path, title: str, columns: int, classes: tuple[int, ...]) -> Image.Image:
    """Return one arm's grid under its name."""
    with np.load(path, allow_pickle=False) as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    places = np.concatenate([np.flatnonzero(labels == label)[:columns] for label in classes])
    grid = image_grid(images[places], columns, scale=max(1, 64 // images.shape[1]))
    canvas = Image.new("RGB", (grid.width, grid.height + _LABEL_HEIGHT), "white")
    ImageDraw.Draw(canvas).text((4, 4), title, fill=(40, 40, 40), font=ImageFont.load_default(18))
    canvas.paste(grid, (0, _LABEL_HEIGHT))
    return canvas


def main() -> None:
    """Draw both arms."""
    arguments = tyro.cli(Arguments, description=__doc__)
    panels = [
        panel(
            arguments.run / arm / "samples" / f"guidance-{arguments.guidance}.npz",
            arm,
            arguments.columns,
            arguments.classes,
        )
        for arm in ("baseline", "aligned")
    ]
    canvas = Image.new("RGB", (sum(p.width for p in panels) + _GAP, panels[0].height), "white")
    canvas.paste(panels[0], (0, 0))
    canvas.paste(panels[1], (panels[0].width + _GAP, 0))
    save_png(arguments.picture, canvas)


if __name__ == "__main__":
    main()
