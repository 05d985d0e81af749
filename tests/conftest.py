"""Every test runs with shapes and types checked: jaxtyping with beartype, active under pytest only."""

import os

# Set before anything imports torch or a hub client: tests are CPU-only and offline.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck

install_import_hook("reals", f"{tests.typecheck.__name__}.check")


@pytest.fixture
def golden() -> Path:
    """The directory of values recorded from the original implementations."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def photos() -> Path:
    """A zip or folder of real photos in class folders; the tests that need it skip where it is not given."""
    location = os.environ.get("REALS_PHOTOS")
    if location is None:
        pytest.skip("REALS_PHOTOS is not set: give a zip or folder of photos in class folders")
    return Path(location)
