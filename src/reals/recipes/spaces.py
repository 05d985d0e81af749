"""The latent spaces that a user points at (arms of runs, outputs of ``reals align``, plain autoencoders) and photos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reals.data.store import ImageStore
from reals.models.autoencoder import downsampling, latent_channels, load_autoencoder
from reals.models.fingerprint import weights_fingerprint
from reals.recipes.data import open_data
from reals.runtime.errors import UserError
from reals.runtime.io import read_json

_ARMS = ("baseline", "aligned")
_WHAT = "a run of reals, the output of reals align, or the directory of a diffusers AutoencoderKL"


@dataclass(frozen=True)
class Space:
    """One autoencoder to be analysed."""

    name: str
    """How it is called in tables and files; unique among those compared."""
    path: Path
    """Its diffusers directory; alignment heads may lie there, too."""
    fingerprint: str
    """SHA-256 of its weights."""
    channels: int
    """Of the latent."""
    downsampling: int
    """Pixels per latent cell, along one side."""
    settings: dict[str, float] = field(default_factory=dict)
    """λ_k (``kl``) and λ_a (``align``) of its training, where its directory tells."""


def find_spaces(directories: Sequence[Path]) -> list[Space]:
    """Return the latent spaces in ``directories``, in their order, with names that tell them apart.

    Raises:
        UserError: a directory is absent or holds no autoencoder, one is given twice, or an autoencoder is damaged.
    """
    if not directories:
        raise UserError(f"analyze: no directory; give {_WHAT}")
    resolved = [directory.expanduser().resolve() for directory in directories]
    for directory, times in Counter(resolved).items():
        if times > 1:
            raise UserError(f"{directory}: is given {times} times; give each directory once")
    found = [(directory, arm, path) for directory in directories for arm, path in _autoencoders(directory)]
    names = _names([(directory, arm) for directory, arm, _ in found])
    return [_open(name, path, directory, arm) for name, (directory, arm, path) in zip(names, found, strict=True)]


def _autoencoders(directory: Path) -> list[tuple[str, Path]]:
    """Return (arm, autoencoder) pairs; the arm is "" where there is only one."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "no such directory"
        raise UserError(f"{directory}: {what}; give {_WHAT}")
    if (directory / "config.json").exists():
        return [("", directory)]
    if (directory / "autoencoder" / "config.json").exists():
        return [("", directory / "autoencoder")]
    arms = [(arm, directory / arm / "autoencoder") for arm in _ARMS]
    finished = [(arm, path) for arm, path in arms if (path / "config.json").exists()]
    if finished:
        return finished
    if (directory / "run.json").exists():
        raise UserError(f"{directory}: has no finished autoencoder yet; let the run finish its first stage")
    raise UserError(f"{directory}: holds no autoencoder; give {_WHAT}")


def _names(found: Sequence[tuple[Path, str]]) -> list[str]:
    """Return the arms of a single run by their names, else as much of each path as tells the spaces apart."""
    if len({directory for directory, _ in found}) == 1:
        return [arm or directory.resolve().name for directory, arm in found]
    depth = 1
    while True:
        paths = ["/".join(directory.resolve().parts[-depth:]).lstrip("/") for directory, _ in found]
        names = [f"{path}/{arm}".rstrip("/") for path, (_, arm) in zip(paths, found, strict=True)]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _open(name: str, path: Path, directory: Path, arm: str) -> Space:
    autoencoder = load_autoencoder(path)
    return Space(
        name=name,
        path=path,
        fingerprint=weights_fingerprint(autoencoder),
        channels=latent_channels(autoencoder),
        downsampling=downsampling(autoencoder),
        settings=_settings(_description(directory).get("recipe", {}), arm),
    )


def _settings(recipe: dict[str, Any], arm: str) -> dict[str, float]:
    found = {"kl": recipe.get("objective", {}).get("kl"), "align": recipe.get("align", {}).get("weight")}
    if arm == "baseline":
        found["align"] = 0.0
    return {name: float(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Photos:
    """Where the images are, before any is decoded."""

    location: str
    """Photos, or prepared images, as the user or the directory gave them."""
    source: str
    """What the photos are: where a run took them from, if a run's images are used, else :attr:`location`."""
    store: ImageStore | None
    """The prepared images, or None for photos that are still to be decoded."""
    size: int
    """Side of the images in pixels."""


def find_photos(directories: Sequence[Path], data: str | None, image_size: int | None) -> Photos:
    """Return the photos of ``data``, or of the first directory that has some; writes nothing.

    Photos that are still to be decoded get ``image_size``, or the size that the first directory's images have.

    Raises:
        UserError: there are none, or their size is unknown or not the wanted one.
    """
    location = source = data
    if location is None:
        found = next(((directory, store) for directory in directories if (store := _store_of(directory))), None)
        if found is None:
            raise UserError(f"{directories[0]}: has no prepared images; give photos or such images with --data")
        location = str(found[1])
        source = str(_description(found[0]).get("data", location))
    store = ImageStore(location) if ImageStore.complete(Path(location).expanduser()) else None
    if store is not None:
        if image_size not in (None, store.size):
            raise UserError(f"{location}: holds images of {store.size} pixels, not of --image-size {image_size}")
        return Photos(location, source or location, store, store.size)
    size = image_size or next((size for directory in directories if (size := _image_size(directory))), None)
    if size is None:
        raise UserError(f"{location}: photos can be cropped to any size; give --image-size")
    open_data(location, size)
    return Photos(location, location, None, size)


def _store_of(directory: Path) -> Path | None:
    """Return the prepared images beside an autoencoder, or those that its run was given."""
    if ImageStore.complete(directory / "images"):
        return directory / "images"
    named = _description(directory).get("data")
    return Path(named) if named and ImageStore.complete(named) else None


def _description(directory: Path) -> dict[str, Any]:
    """Return what a run's directory says of it; nothing where there is no run."""
    path = directory / "run.json"
    return read_json(path) if path.exists() else {}


def _image_size(directory: Path) -> int | None:
    store = _store_of(directory)
    if store is not None:
        return ImageStore(store).size
    return _description(directory).get("recipe", {}).get("data", {}).get("image_size")


def check_fit(spaces: Sequence[Space], photos: Photos) -> None:
    """Check that every space can encode the photos.

    Raises:
        UserError: the image size does not divide into a space's cells, or leaves fewer than two of them.
    """
    for space in spaces:
        if photos.size % space.downsampling or photos.size // space.downsampling < 2:
            raise UserError(
                f"{photos.location}: images of {photos.size} pixels do not divide into two or more cells of "
                f"{space.downsampling}, as {space.path} needs; give another --image-size or --data"
            )
