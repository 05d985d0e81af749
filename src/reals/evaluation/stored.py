"""Statistics that ADM's reference batches hold beside their images: ``mu``, ``sigma``, ``mu_s``, ``sigma_s``.

They describe the whole training set, ``arr_0`` only some of its images. As in the ADM evaluator they replace what
would be computed, in whichever of two files they are.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reals.evaluation.frechet import GaussianStatistics
from reals.evaluation.npz_array import DAMAGE, reason
from reals.runtime.errors import UserError

POOL_KEYS = ("mu", "sigma")
SPATIAL_KEYS = ("mu_s", "sigma_s")
# Of a covariance stored in float32, relative to its largest eigenvalue, with room.
_ROUNDING = 1e-4


@dataclass(frozen=True, eq=False)
class StoredStatistics:
    """Gaussians from a file."""

    pool: GaussianStatistics
    """Of FID's features."""
    spatial: GaussianStatistics | None
    """Of sFID's features; None where the file has only FID's."""
    sha256: str
    """Of the numbers."""


def holds_statistics(path: Path) -> bool:
    """Return whether a file is a ``.npz`` with statistics of FID's network, of whatever shape."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    with suppress(*DAMAGE), zipfile.ZipFile(path) as archive:
        return not {f"{name}.npy" for name in POOL_KEYS + SPATIAL_KEYS}.isdisjoint(archive.namelist())
    return False


def stored_statistics(location: str | Path, *, pool: int, spatial: int) -> StoredStatistics | None:
    """Read the statistics in a ``.npz``; None if there are none, or it is no ``.npz``.

    Args:
        location: of the images.
        pool: how many dimensions FID's features have.
        spatial: how many sFID's have.

    Raises:
        UserError: half of a pair is missing, has another shape, is not finite or no covariance, or the file is damaged.
    """
    path = Path(location).expanduser()
    if not holds_statistics(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in POOL_KEYS + SPATIAL_KEYS if name in archive.files}
    except DAMAGE as error:
        raise UserError(f"{path}: its statistics cannot be read ({reason(error)}); copy or write it again") from None
    found = _pair(path, arrays, POOL_KEYS, pool)
    if found is None:
        raise UserError(f"{path}: has {', '.join(SPATIAL_KEYS)} but not {', '.join(POOL_KEYS)}; write it again")
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name], np.float64).tobytes())
    return StoredStatistics(found, _pair(path, arrays, SPATIAL_KEYS, spatial), digest.hexdigest())


def _pair(
    path: Path, arrays: Mapping[str, np.ndarray], keys: tuple[str, str], dimension: int
) -> GaussianStatistics | None:
    present = [key for key in keys if key in arrays]
    if not present:
        return None
    if len(present) == 1:
        missing = next(key for key in keys if key not in arrays)
        raise UserError(f"{path}: has '{present[0]}' but not '{missing}'; write it again with both")
    mean, covariance = (arrays[key] for key in keys)
    for key, array, shape in zip(keys, (mean, covariance), ((dimension,), (dimension, dimension)), strict=True):
        if array.shape != shape or array.dtype.kind != "f":
            raise UserError(
                f"{path}: '{key}' is {array.dtype} {list(array.shape)}, not floating-point {list(shape)}; "
                "these are not statistics of this network"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path}: '{key}' is not finite; write it again")
    return GaussianStatistics(mean.astype(np.float64), _covariance(path, keys[1], covariance.astype(np.float64)), None)


def _covariance(path: Path, key: str, matrix: np.ndarray) -> np.ndarray:
    """Return a matrix that is a covariance but for rounding, made symmetric."""
    symmetric = (matrix + matrix.T) / 2
    smallest, largest = np.linalg.eigvalsh(symmetric)[[0, -1]]
    scale = max(largest, -smallest)
    if np.abs(matrix - symmetric).max() > _ROUNDING * scale or smallest < -_ROUNDING * scale:
        raise UserError(f"{path}: '{key}' is no covariance: it is not symmetric, or has a negative variance")
    return symmetric
