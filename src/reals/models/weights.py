"""Weights of foreign networks: one file, on this disk, at an https address or on the Hugging Face hub.

Which of the three is seen in how the location is written: ``https://…``, ``owner/name:file``, else a path. A download
is kept in :func:`cache_directory` and appears there whole or not at all.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from torch import Tensor

from reals.runtime import interrupt
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_path, load_state, load_tensors, sha256_file
from reals.runtime.progress import Progress, progress, say

Opener = Callable[[str], AbstractContextManager[Any]]
"""Opens an address for reading: what it gives has ``read(size)`` and ``headers``, as urllib's responses have."""

_HUB_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[^:]+)")
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
"""Of silence, not of the whole download."""
_MEGABYTE = 1_000_000


class HttpsOnly(HTTPRedirectHandler):
    """Follows redirections, but none that leaves https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request that follows the redirection; raises ``URLError`` if it would not be encrypted."""
        if urlsplit(newurl).scheme != "https":
            raise URLError("redirected to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_https(address: str) -> AbstractContextManager[Any]:
    """Open an https address, following redirections to others; raises ``OSError`` or ``HTTPException``."""
    return build_opener(HttpsOnly).open(address, timeout=_TIMEOUT_SECONDS)


def cache_directory() -> Path:
    """Return where downloads are kept: ``$REALS_CACHE``, else ``$XDG_CACHE_HOME/reals``, else ``~/.cache/reals``."""
    if chosen := os.environ.get("REALS_CACHE"):
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "reals"


def fetch(location: str, sha256: str | None = None, *, opener: Opener = open_https) -> Path:
    """Return the path of a weights file, downloaded first if its location is an address and no copy is here yet.

    Args:
        location: a path, an https address, or ``owner/name:file`` on the Hugging Face hub.
        sha256: what the file's SHA-256 must be, hexadecimal; None accepts any file. Copies are checked every time.
        opener: how addresses are opened.

    Raises:
        UserError: the file is absent, unreachable, cut short or another one than expected, or the address is not https.
    """
    local, scheme = Path(location).expanduser(), urlsplit(location).scheme
    if scheme == "https":
        path = _cached(location, sha256, opener)
    elif "://" in location:
        raise UserError(f"{location}: only https addresses are read; give one, a path, or owner/name:file of the hub")
    elif local.is_dir():
        raise UserError(f"{location}: is a directory; give the weights file itself")
    elif local.exists():
        path = local
    elif match := _HUB_FILE.fullmatch(location):
        path = _from_hub(location, match["repository"], match["file"])
    else:
        raise UserError(f"{location}: no such file; give a path, an https address, or owner/name:file of the hub")
    _check(path, sha256, str(path))
    return path


def read_weights(location: str, sha256: str | None = None, *, opener: Opener = open_https) -> dict[str, Any]:
    """Fetch a weights file and read it onto the CPU: safetensors by its suffix, else a ``torch.save`` of tensors.

    Nothing in the file is executed. A checkpoint's other entries come along, nested as they were.

    Raises:
        UserError: as :func:`fetch`, or the file is damaged or holds more than tensors and plain containers.
    """
    path = fetch(location, sha256, opener=opener)
    return dict(load_tensors(path)) if path.suffix == ".safetensors" else load_state(path)


def select_tensors(
    state: Mapping[str, Any], like: Mapping[str, Tensor], location: str, kind: str, prefix: str = ""
) -> dict[str, Tensor]:
    """Return the tensors of ``state`` that have the names and shapes of ``like``, in its types; others are left out.

    Args:
        state: what was read from ``location``.
        like: a network's own ``state_dict``; it may be on the meta device.
        location: for the message.
        kind: of network, for the message.
        prefix: in front of every name in ``state``.

    Raises:
        UserError: a tensor is absent or has another shape.
    """
    selected = {}
    for name, expected in like.items():
        found = state.get(prefix + name)
        if not isinstance(found, Tensor):
            raise UserError(f"{location}: has no tensor '{prefix}{name}'; give a file with the weights of a {kind}")
        if found.shape != expected.shape:
            shapes = f"{list(found.shape)} instead of {list(expected.shape)}"
            raise UserError(f"{location}: '{prefix}{name}' is {shapes}; give a file with the weights of a {kind}")
        selected[name] = found.to(expected.dtype)
    return selected


def _cached(address: str, sha256: str | None, opener: Opener) -> Path:
    from filelock import FileLock

    name = Path(unquote(urlsplit(address).path)).name or "weights"
    # Two addresses may end in the same name.
    path = cache_directory() / "weights" / hashlib.sha256(address.encode()).hexdigest()[:12] / name
    if path.exists():
        return path
    say(f"downloading {address} to {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The processes of one machine download once: the others wait, then find the file.
        lock = FileLock(path.with_name(f".{name}.lock"))
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); set REALS_CACHE to a directory"
        ) from None
    try:
        if not path.exists():
            _download(address, path, sha256, opener)
    finally:
        lock.release()
    return path


def _download(address: str, path: Path, sha256: str | None, opener: Opener) -> None:
    try:
        opened = opener(address)
    except (OSError, HTTPException) as error:
        raise _unreachable(address, error) from None
    with opened as response, atomic_path(path) as temporary:
        size = int(response.headers.get("Content-Length") or 0)
        done = 0
        with open(temporary, "wb") as handle, _shown(path.name, size) as shown:
            while chunk := _read(response, address):
                interrupt.stop_if_requested(f"while downloading {address}")
                handle.write(chunk)
                done += len(chunk)
                shown.advance(done // _MEGABYTE - shown.done)
        if size and done != size:
            raise UserError(f"{address}: the download ended after {done} of {size} bytes; run again")
        _check(temporary, sha256, address)


def _shown(name: str, size: int) -> AbstractContextManager[Progress]:
    description, total = f"Downloading {name}", size // _MEGABYTE
    # Without a size there is no percentage to show; without a megabyte, no need.
    return progress(description, total, "MB") if total else nullcontext(Progress(description, total, "MB"))


def _read(response: Any, address: str) -> bytes:
    # Only reading may be the network's fault: a full disk must not be called an unreachable address.
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _unreachable(address, error) from None


def _from_hub(location: str, repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, ValueError) as error:
        raise _unreachable(location, error) from None


def _unreachable(location: str, error: Exception) -> UserError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"{location}: no such file here, and it could not be downloaded ({reason}); "
        f"download it on a connected machine and give its path instead"
    )


def _check(path: Path, sha256: str | None, name: str) -> None:
    if sha256 is None:
        return
    found = sha256_file(path)
    if found != sha256.lower():
        raise UserError(
            f"{name}: has the SHA-256 {found} instead of {sha256.lower()}; "
            f"it is damaged or another file: replace it, or give the hash of the file that is meant"
        )
