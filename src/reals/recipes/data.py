"""From where the user says photos are to a store of training images."""

from pathlib import Path

from reals.data.scenes import SceneSource
from reals.data.sources import ImageSource, open_source
from reals.data.store import ImageStore, prepare_images
from reals.recipes.schema import DataConfig
from reals.runtime.errors import UserError

_SCENES = ("scenes:", "plain-scenes:")


def open_data(location: str, image_size: int) -> ImageSource:
    """Open photos, or ``scenes:COUNT`` or ``scenes:COUNT:SEED``, rendered at the wanted size.

    ``plain-scenes:`` vary less (no patterns, one pose a class, the object in the middle): less to learn.

    Raises:
        UserError: nothing usable is there.
    """
    if not location.startswith(_SCENES):
        return open_source(location)
    kind, _, numbers = location.partition(":")
    count, _, seed = numbers.partition(":")
    if not count.isdigit() or int(count) < 2 or not (seed.isdigit() or seed == ""):
        raise UserError(f"{location}: give a number of at least 2 scenes, and perhaps a seed, as in scenes:4000:1")
    return SceneSource(count=int(count), size=image_size, seed=int(seed or 0), plain=kind == "plain-scenes")


def open_photos(location: str, config: DataConfig) -> ImageSource | ImageStore:
    """Open photos that are still to be decoded, or a store of decoded ones; writes nothing.

    Raises:
        UserError: nothing usable is there.
    """
    directory = Path(location).expanduser()
    if location.startswith(_SCENES) or not ImageStore.complete(directory):
        return open_data(location, config.image_size)
    store = ImageStore(directory)
    if store.size != config.image_size:
        raise UserError(f"{location}: holds images of {store.size} pixels; the recipe needs {config.image_size}")
    return store


def decode_photos(photos: ImageSource | ImageStore, directory: Path, config: DataConfig) -> ImageStore:
    """Decode and crop every photo into ``directory``, unless that is done; a store is used as it is.

    Raises:
        UserError: the photos are broken, too small or too few, or the directory holds others.
    """
    if isinstance(photos, ImageStore):
        return photos
    prepare_images(photos, directory, config.image_size, config.held_out_fraction)
    return ImageStore(directory)


def prepare_store(location: str, directory: Path, config: DataConfig) -> ImageStore:
    """Open photos and decode them into ``directory``: both of the above.

    Raises:
        UserError: the photos are missing, broken or too small; the message says which.
    """
    return decode_photos(open_photos(location, config), directory, config)
