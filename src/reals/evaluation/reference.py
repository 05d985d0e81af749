"""Making a reference batch that this program and the ADM evaluator read: images and whole-set statistics."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from reals.data.crop import centre_crop
from reals.data.decode import BrokenImage
from reals.data.sources import ImageSource, open_source
from reals.evaluation.feature_cache import BATCH_SIZE
from reals.evaluation.frechet import GaussianAccumulator, GaussianStatistics
from reals.evaluation.image_sets import ARRAY
from reals.evaluation.inception import InceptionFeatures, pool_features, spatial_features
from reals.models.inception import POOL_DIMENSION, SPATIAL_DIMENSION
from reals.runtime import interrupt
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_path
from reals.runtime.progress import progress
from reals.runtime.seed import derive_seed

KEPT = 10_000
"""Images that a batch holds for precision and recall."""


def write_reference(
    location: str,
    output: Path,
    network: InceptionFeatures,
    *,
    size: int,
    kept: int = KEPT,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> int:
    """Write ``arr_0`` (``kept`` random images), ``mu``, ``sigma``, ``mu_s`` and ``sigma_s`` (of all); return how many.

    Images are cropped as ADM does (see :func:`reals.data.crop.centre_crop`) and pass one batch at a time.

    Raises:
        UserError: there are fewer than two images, or one is broken.
        Interrupted: a signal asked the process to stop; nothing is written.
    """
    source = open_source(location)
    if len(source) < 2:
        raise UserError(f"{location}: holds {len(source)} images; statistics need at least 2")
    generator = np.random.default_rng(derive_seed("reference", seed, len(source)))
    chosen = np.sort(generator.permutation(len(source))[:kept])
    pool, spatial = GaussianAccumulator(POOL_DIMENSION), GaussianAccumulator(SPATIAL_DIMENSION)
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(f"{ARRAY}.npy", "w", force_zip64=True) as entry:
            shape = (len(chosen), size, size, 3)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            with progress(f"Statistics of {location}", len(source), "images") as shown:
                for start, images in _batches(source, size, batch_size):
                    features = network(images)
                    pool.add(pool_features(features))
                    spatial.add(spatial_features(features))
                    inside = chosen[(chosen >= start) & (chosen < start + len(images))]
                    entry.write(images[inside - start].tobytes())
                    shown.advance(len(images))
        for (mean, covariance), statistics in (
            (("mu", "sigma"), pool.statistics()),
            (("mu_s", "sigma_s"), spatial.statistics()),
        ):
            _write_statistics(archive, mean, covariance, statistics)
    return len(chosen)


def _batches(source: ImageSource, size: int, batch_size: int) -> Iterator[tuple[int, UInt8[np.ndarray, "b h w 3"]]]:
    for start in range(0, len(source), batch_size):
        interrupt.stop_if_requested(f"after {start} of {len(source)} images")
        stop = min(start + batch_size, len(source))
        yield start, np.stack([_load(source, index, size) for index in range(start, stop)])


def _load(source: ImageSource, index: int, size: int) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return centre_crop(source.load(index), size)
    except BrokenImage as problem:
        raise UserError(
            f"{source.location}: {source.keys[index]} cannot be read ({problem}); replace or remove it"
        ) from None


def _write_statistics(archive: zipfile.ZipFile, mean: str, covariance: str, statistics: GaussianStatistics) -> None:
    for name, array in ((mean, statistics.mean.astype(np.float32)), (covariance, statistics.covariance)):
        with archive.open(f"{name}.npy", "w") as entry:
            np.lib.format.write_array(entry, array, allow_pickle=False)
