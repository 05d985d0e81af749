"""Ranks come from the launcher's environment."""

import pytest

from reals.runtime import dist


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (dist.rank(), dist.world_size(), dist.is_main(), dist.local_world_size()) == (0, 1, True, 1)
    dist.barrier()


def test_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (dist.rank(), dist.world_size(), dist.is_main(), dist.local_world_size()) == (3, 8, False, 4)
