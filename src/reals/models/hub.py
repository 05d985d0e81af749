"""Loading from a directory or from the Hugging Face hub, quietly, and failing in one line."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reals.runtime.errors import UserError
from reals.runtime.progress import say


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Silence progress bars, log lines and deprecation notices of ``"diffusers"`` or ``"transformers"`` and the hub.

    What they would warn about (missing or left-over weights) is checked by the callers and is an error here.
    """
    modules = [importlib.import_module(f"{library}.utils.logging") for library in libraries]
    before = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.set_verbosity(logging.CRITICAL)
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, (verbosity, bar) in zip(modules, before, strict=True):
            module.set_verbosity(verbosity)
            if bar:
                module.enable_progress_bar()


def check_location(location: str, kind: str) -> None:
    """Refuse a location that can be neither an existing directory nor a hub id such as ``owner/name``.

    Raises:
        UserError: the location is a file, or is written as a path and does not exist.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{location}: is a file; give the directory that holds the {kind}'s config.json and weights")
    if location.startswith((".", "/", "~")) or location.count("/") != 1:
        raise UserError(f"{location}: no such directory; give the directory of a {kind} or a hub id such as owner/name")
    say(f"loading {location} from the Hugging Face hub or its cache")


def unreachable(location: str, kind: str, error: Exception) -> UserError:
    """Return the error for a ``kind`` that could not be loaded from ``location``."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if Path(location).expanduser().is_dir():
        return UserError(f"{location}: holds no readable {kind} ({reason})")
    return UserError(
        f"{location}: no such directory here, and the Hugging Face hub could not give it ({reason}); "
        f"download the {kind} on a connected machine and give its directory instead"
    )
