"""Features of sets of images, kept under the hash of the pixels and of the network, and computed once."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from reals.evaluation.feature_parts import FeatureParts
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.networks import FeatureNetwork
from reals.evaluation.shared_extraction import extract_shared, hash_shared, main_says
from reals.runtime import dist
from reals.runtime.io import save_array, whole_array
from reals.runtime.progress import say

BATCH_SIZE = 128


def features_of(
    images: ImageSet, network: FeatureNetwork, cache: Path | None = None, *, batch_size: int = BATCH_SIZE
) -> Float[np.ndarray, "n d"]:
    """Return the features of a set, from the directory ``cache`` if they are there; images pass in blocks.

    With a cache, a set that is not in it is read twice: once for its hash. Features of a call that was stopped are
    there as well, as far as it came. A file that is not what its name says, cut short by a full disk for example, is
    replaced. A cache that cannot be written is told of and done without. Under ``torchrun`` the processes share the
    work, all must call this, and the main one has the features; the others return no rows.

    Raises:
        UserError: an image is broken or of another size than the first.
        Interrupted: a signal asked the process to stop.
    """
    if cache is None or not main_says(dist.is_main() and _writable(cache)):
        return extract_shared(network, images, batch_size)
    if main_says(not images.hashed):
        hash_shared(images, batch_size)
    name = _name(images, network)
    path = cache / f"{name}.npy" if dist.is_main() else None
    known = None if path is None else _read(path, (len(images), network.dimension))
    if main_says(known is not None):
        say(f"{images.location}: features of {network.name} taken from {path}")
        return np.empty((0, network.dimension), np.float32) if known is None else known
    parts = FeatureParts(cache / f"{name}.parts", network.dimension) if dist.is_main() else None
    features = extract_shared(network, images, batch_size, parts)
    if path is not None and parts is not None:
        _keep(path, features)
        parts.discard()
    return features


def _keep(path: Path, features: Float[np.ndarray, "n d"]) -> None:
    try:
        save_array(path, features)
    except OSError as error:
        # Hours of work should not be lost because they cannot be saved for next time.
        say(f"warning: {path}: features are not kept ({error.strerror})")


def _writable(cache: Path) -> bool:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        say(f"warning: {cache}: cannot be written ({error.strerror}); features are neither kept nor reused")
        return False
    return True


def _name(images: ImageSet, network: FeatureNetwork) -> str:
    identity = "\x1f".join((network.name, network.fingerprint, network.resize, images.fingerprint()))
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    features = whole_array(path)
    fits = features is not None and features.shape == shape and features.dtype == np.float32
    return features if fits else None
