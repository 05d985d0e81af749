"""Files of samples: in the layout of the ADM evaluator, ``arr_0`` images and ``arr_1`` labels, and as pictures."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from reals.runtime.io import atomic_path
from reals.runtime.shards import ShardedArrays

_ROWS_AT_ONCE = 1024


def write_samples(path: Path, arrays: ShardedArrays, names: tuple[str, ...]) -> None:
    """Write the arrays ``names`` as ``arr_0``, ``arr_1``, … of one uncompressed ``.npz``, atomically.

    Rows are copied in blocks, so memory does not grow with their number.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for position, name in enumerate(names):
            first = arrays.gather(name, np.arange(1))
            header = {
                "descr": np.lib.format.dtype_to_descr(first.dtype),
                "fortran_order": False,
                "shape": (len(arrays), *first.shape[1:]),
            }
            with archive.open(f"arr_{position}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for block in _blocks(arrays, name):
                    entry.write(block.tobytes())


def write_png_zip(path: Path, arrays: ShardedArrays) -> None:
    """Write the array "image" as PNG, ``000000.png`` and so on in the order of the images, into a zip, atomically."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        number = 0
        for block in _blocks(arrays, "image"):
            for pixels in block:
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, format="PNG")
                # An entry of this kind has a fixed date, so the same images make the same file.
                archive.writestr(zipfile.ZipInfo(f"{number:06d}.png"), encoded.getvalue())
                number += 1


def _blocks(arrays: ShardedArrays, name: str) -> Iterable[np.ndarray]:
    for start in range(0, len(arrays), _ROWS_AT_ONCE):
        yield arrays.gather(name, np.arange(start, min(start + _ROWS_AT_ONCE, len(arrays))))
