"""Atomic writes and safe reads. The only module that may call ``torch.save`` or ``torch.load``.

A file is either absent or whole: it is written under a temporary name in the same directory, flushed to disk and
renamed. Directories that must appear at once are built beside their final place and renamed.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reals.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling directory to fill; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            retired = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.retired")
            os.replace(path, retired)
            os.replace(temporary, path)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Check that ``path`` is free to become a new directory; an empty one is as good as none.

    Raises:
        UserError: something is there, or a file lies where a directory above it would be.
    """
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path}: exists already; give another --out")
    refuse_file(path)


def refuse_file(directory: Path, advice: str = "give a directory as --out") -> Path:
    """Check that no file is in the way of a directory; return it, or the nearest above it that exists.

    Raises:
        UserError: it, or something above it, is a file; the message ends in ``advice``.
    """
    place = next(place for place in (directory, *directory.parents) if place.exists())
    if not place.is_dir():
        raise UserError(f"{place}: is a file; {advice}")
    return place


def check_writable(path: Path, flag: str) -> None:
    """Check that a file can be written to ``path``, which the user gave with ``flag``; leaves nothing behind.

    Raises:
        UserError: it is a directory, a file lies where a directory above it would be, or that may not be written to.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give a file as {flag}")
    place = refuse_file(path.absolute().parent, f"give a path below a directory as {flag}")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); give another {flag}") from None


def remove_leftovers(directory: Path) -> None:
    """Delete temporary files and directories that a killed process left directly inside ``directory``."""
    for pattern in (".*.partial", ".*.retired"):
        for leftover in directory.glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None
    except RecursionError:
        raise UserError(f"{path}: nested deeper than any file of this program") from None


def save_array(path: Path, array: "np.ndarray") -> None:
    """Write an array as ``.npy``, atomically."""
    import numpy as np

    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def whole_array(path: Path) -> "np.ndarray | None":
    """Read a ``.npy`` file; None where there is none, or one that is damaged."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically; they are made contiguous and moved to the CPU."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata=dict(metadata or {}))


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file onto the CPU.

    Raises:
        UserError: the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested containers of tensors and plain numbers (an optimiser's state), atomically."""
    import torch

    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)


def load_state(path: Path) -> dict[Any, Any]:
    """Read a torch checkpoint, ours or another program's, with ``weights_only=True``: nothing in it is executed.

    Raises:
        UserError: the file is missing or damaged, is no dictionary, or holds objects that only running its code could
            restore; the message says how to save it again without them.
    """
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # A damaged file can fail at any of the unpickler's steps.
    except (
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if isinstance(error, pickle.UnpicklingError):
                # torch would advise to run the file's code, which mends nothing in a damaged file.
                reason = "damaged, or no torch checkpoint"
            raise UserError(f"{path}: not a whole file of tensors ({reason})") from None
        keep = "'state_dict' in k or 'ema' in k or hasattr(v, 'shape')"
        raise UserError(
            f"{path}: holds a {foreign[1]} besides tensors, which only running code from the file could restore; where "
            'you trust the file, save its tensors alone: python -c "import torch; '
            f"c = torch.load('{path.name}', map_location='cpu', weights_only=False); "
            f"torch.save({{k: v for k, v in c.items() if {keep}}}, 'tensors.pt')\""
        ) from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__} instead of named tensors; give a checkpoint")
    return state


def load_training_state(path: Path) -> dict[Any, Any]:
    """Read a torch checkpoint as :func:`load_state` does, allowing the settings that SiT and REPA store beside weights.

    They are an ``argparse.Namespace``, a class that holds attributes and runs no code of its own; no other class is
    allowed.

    Raises:
        UserError: as :func:`load_state`.
    """
    import argparse

    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        return load_state(path)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
