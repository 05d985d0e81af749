"""The run that many tests look at."""

from pathlib import Path

import pytest

from tests.recipes import runs


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of the recipe ``debug``; read only."""
    return runs.debug_run(tmp_path_factory)
