"""The directory of a run: where each thing lies, and a guard that two different runs never share one."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.recipes.schema import Recipe
from reals.runtime import dist
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, refuse_file, remove_leftovers, write_json

# A killed stage loses at most this much of its time's record.
_HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class ArmDirectory:
    """One arm's part of a run: ``DIR/<arm>/``."""

    path: Path

    @property
    def autoencoder_training(self) -> Path:
        """Checkpoints and log of stage 1."""
        return self.path / "autoencoder-training"

    @property
    def autoencoder(self) -> Path:
        """The finished autoencoder: a diffusers directory with latent statistics and alignment heads beside it."""
        return self.path / "autoencoder"

    @property
    def latents(self) -> Path:
        """The cached posterior."""
        return self.path / "latents"

    @property
    def generator_training(self) -> Path:
        """Checkpoints and log of stage 2."""
        return self.path / "generator-training"

    @property
    def generator(self) -> Path:
        """The finished diffusion transformer."""
        return self.path / "generator"

    def samples(self, scale: float) -> Path:
        """The samples at one guidance scale."""
        return self.path / "samples" / f"guidance-{scale:g}.npz"

    @property
    def reconstructions(self) -> Path:
        """Reconstructions of the first held-out photos."""
        return self.path / "reconstructions.png"

    @property
    def estimates(self) -> Path:
        """This arm's measurements with their bootstrap replicates."""
        return self.path / "estimates.json"

    @property
    def timings(self) -> Path:
        """Seconds and images of each stage."""
        return self.path / "timings.json"


@dataclass(frozen=True)
class RunDirectory:
    """Where a run keeps what all its arms share."""

    path: Path

    @property
    def description(self) -> Path:
        """What this run is: written first, compared on every later start."""
        return self.path / "run.json"

    @property
    def images(self) -> Path:
        """Decoded, cropped photos."""
        return self.path / "images"

    @property
    def features(self) -> Path:
        """Cached semantic features."""
        return self.path / "features"

    @property
    def all_features(self) -> Path:
        """Cached semantic features of every training photo, where stage 1 trains on fewer."""
        return self.path / "all-features"

    @property
    def base_training(self) -> Path:
        """Checkpoints and log of the phase that all arms share."""
        return self.path / "base-training"

    @property
    def base(self) -> Path:
        """The autoencoder from which every arm starts, if it was trained here."""
        return self.path / "base"

    @property
    def classifier(self) -> Path:
        """The small network whose features alignment never saw."""
        return self.path / "classifier"

    @property
    def originals(self) -> Path:
        """The held-out photos that the arms' reconstructions show."""
        return self.path / "originals.png"

    @property
    def metrics(self) -> Path:
        """All measurements, the comparison and the protocol."""
        return self.path / "metrics.json"

    def arm(self, name: str) -> ArmDirectory:
        """Return the part of one arm."""
        return ArmDirectory(self.path / name)

    def check(self, location: str, recipe: Recipe) -> None:
        """Refuse a directory in which this run must not write; writes nothing itself.

        Raises:
            UserError: the directory holds another run, or files that are not a run's, or is no directory.
        """
        refuse_file(self.path)
        if self.description.exists():
            difference = _first_difference(_completed(read_json(self.description)), _description(location, recipe))
            if difference and self.begun:
                raise UserError(f"{self.path}: holds another run ({difference}); give another --out")
        elif self.path.exists() and any(not entry.name.endswith(".partial") for entry in self.path.iterdir()):
            raise UserError(f"{self.path}: is not empty and not a run of reals; give another --out")

    @property
    def begun(self) -> bool:
        """Whether anything has been made here that follows from more than the photos.

        Before that, a run may still become another one: who mends a mistake in a command can repeat it.
        """
        harmless = (self.description.name, self.images.name)
        return any(entry.name not in harmless and not _temporary(entry.name) for entry in self.path.iterdir())

    def discard_images(self) -> None:
        """Delete the decoded photos, unless something has been made from them."""
        if not self.begun and dist.world_size() == 1:
            shutil.rmtree(self.images, ignore_errors=True)

    def claim(self, location: str, recipe: Recipe) -> None:
        """Record what this run is, or check that the directory holds this very run.

        Raises:
            UserError: the directory holds another run, or files that are not a run's, or cannot be written.
        """
        self.check(location, recipe)
        wanted = _description(location, recipe)
        if dist.is_main():
            try:
                if not self.description.exists() or read_json(self.description) != wanted:
                    write_json(self.description, wanted)
                for directory in [self.path, *(path for path in self.path.rglob("*") if path.is_dir())]:
                    remove_leftovers(directory)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be written ({error.strerror}); give another --out") from None
        dist.barrier()


def _description(location: str, recipe: Recipe) -> dict[str, Any]:
    path = Path(location).expanduser()
    # The same photos may be named from another working directory.
    return {"format": 1, "data": str(path.resolve()) if path.exists() else location, "recipe": to_dict(recipe)}


def _completed(description: Any) -> Any:
    """Return a recorded description with the defaults of settings that did not exist when it was written."""
    if not isinstance(description, dict):
        return description
    try:
        recipe = from_dict(Recipe, description.get("recipe"))
    except UserError:
        return description
    return description | {"recipe": to_dict(recipe)}


def _temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith((".partial", ".retired"))


def _first_difference(found: object, wanted: object, where: str = "") -> str:
    """Return "field: its value, not ours" for the first difference between two JSON values, or ""."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            difference = _first_difference(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
            if difference:
                return difference
        return ""
    return "" if found == wanted else f"{where.removeprefix('recipe.')} is {found!r} there, {wanted!r} now"


@contextmanager
def timed(path: Path, stage: str, result: Path, images: int | None = None) -> Iterator[None]:
    """Add the seconds of a stage to ``path``, over all the attempts that an interrupted or killed stage took.

    They are written down every few seconds, so that a killed attempt counts too. A stage whose ``result`` is already
    there, which it writes last, is not timed: it only finds that out.
    """
    if result.exists() or not dist.is_main():
        yield
        return
    before = read_json(path).get(stage, {"seconds": 0.0})["seconds"] if path.exists() else 0.0
    started, done = time.monotonic(), threading.Event()

    def write() -> None:
        timings = read_json(path) if path.exists() else {}
        timings[stage] = {"seconds": before + time.monotonic() - started, "images": images}
        write_json(path, timings)

    def write_now_and_then() -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            write()

    heartbeat = threading.Thread(target=write_now_and_then, daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        done.set()
        heartbeat.join()
        write()
