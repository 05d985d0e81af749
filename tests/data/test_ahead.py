"""Images are loaded by threads somewhat ahead of use, in order, and no further."""

import os
import threading
from itertools import count, islice

import pytest

from reals.data.ahead import cores, load_ahead


def test_items_come_in_order_although_threads_finish_in_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reals.data.ahead.cores", lambda: 4)
    second = threading.Event()

    def load(index: int) -> int:
        if index == 0:
            assert second.wait(10)
        if index == 1:
            second.set()
        return index * index

    assert list(load_ahead(load, range(9), ahead=3)) == [index * index for index in range(9)]
    assert list(load_ahead(load, [], ahead=3)) == []


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_no_more_is_loaded_than_asked_for(ahead: int) -> None:
    asked: list[int] = []

    def load(index: int) -> int:
        asked.append(index)
        return index

    # Endless, so that only the bound ends it.
    items = load_ahead(load, count(), ahead)
    assert list(islice(items, 3)) == [0, 1, 2]
    items.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(asked) <= 3 + ahead
    assert sorted(asked) == list(range(len(asked)))


def test_what_goes_wrong_is_raised_where_its_item_would_be() -> None:
    def load(index: int) -> int:
        if index == 2:
            raise ValueError("item two")
        return index

    items = load_ahead(load, range(5), ahead=4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="item two"):
        next(items)


def test_closing_early_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reals.data.ahead.cores", lambda: 1)
    begun: list[int] = []
    started, go = threading.Event(), threading.Event()

    def load(index: int) -> int:
        begun.append(index)
        if index == 1:
            started.set()
            assert go.wait(10)
        return index

    items = load_ahead(load, range(50), ahead=20)
    assert next(items) == 0
    assert started.wait(10)
    # Closing cancels before it waits for the item under way, so the release may come a little later.
    release = threading.Timer(0.2, go.set)
    release.start()
    items.close()  # pyright: ignore[reportAttributeAccessIssue]
    release.join()
    assert begun == [0, 1]


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "process_cpu_count" if hasattr(os, "process_cpu_count") else "cpu_count"
    monkeypatch.setattr(os, name, lambda: 64)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 64
    for processes, each in ((4, 16), (64, 1), (100, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert cores() == each
