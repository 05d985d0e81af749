"""Making a reference batch that this program and the ADM evaluator read: images and whole-set statistics."""

import zipfile
from pathlib import Path

import numpy as np

from reals.evaluation.feature_cache import BATCH_SIZE
from reals.evaluation.finite import check_finite
from reals.evaluation.frechet import GaussianAccumulator, GaussianStatistics
from reals.evaluation.image_sets import open_images
from reals.evaluation.inception import InceptionFeatures, pool_features, spatial_features
from reals.evaluation.npz_array import ARRAY
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
        UserError: there are fewer than two images, one is broken, or a feature is not finite.
        Interrupted: a signal asked the process to stop; nothing is written.
    """
    photos = open_images(location, size)
    if len(photos) < 2:
        raise UserError(f"{location}: holds {len(photos)} images; statistics need at least 2")
    generator = np.random.default_rng(derive_seed("reference", seed, len(photos)))
    chosen = np.sort(generator.permutation(len(photos))[:kept])
    pool, spatial = GaussianAccumulator(POOL_DIMENSION), GaussianAccumulator(SPATIAL_DIMENSION)
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(f"{ARRAY}.npy", "w", force_zip64=True) as entry:
            shape = (len(chosen), size, size, 3)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            with progress(f"Statistics of {location}", len(photos), "images") as shown:
                for images in photos.blocks(batch_size):
                    start = shown.done
                    interrupt.stop_if_requested(f"after {start} of {len(photos)} images")
                    features = network(images)
                    try:
                        check_finite(features, location)
                    except ValueError as error:
                        raise UserError(str(error)) from None
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


def _write_statistics(archive: zipfile.ZipFile, mean: str, covariance: str, statistics: GaussianStatistics) -> None:
    for name, array in ((mean, statistics.mean.astype(np.float32)), (covariance, statistics.covariance)):
        with archive.open(f"{name}.npy", "w") as entry:
            np.lib.format.write_array(entry, array, allow_pickle=False)
