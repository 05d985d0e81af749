"""Settings of arithmetic are made and left as they were, whichever of PyTorch's two ways a program sets them."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from reals.evaluation.float32 import _operations, coarse_products, true_float32


def _state() -> list[object]:
    cudnn = torch.backends.cudnn
    return [cudnn.enabled, cudnn.benchmark, *(operation.fp32_precision for operation in _operations())]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    places: list[Any] = [torch.backends.mkldnn, torch.backends, torch.backends.cudnn] if _operations() else []
    before = [(place, place.fp32_precision) for place in (*places, *_operations())]
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place, value in before:
        place.fp32_precision = value


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_true_float32_forbids_tf32_and_nothing_else(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    before = _state()
    with true_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        assert _state()[:2] == before[:2]
        with coarse_products():
            assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32
    assert _state() == before


@pytest.mark.skipif(not _operations(), reason="this PyTorch has one setting for all products")
@pytest.mark.parametrize("place", ["", "cuda.matmul", "cudnn", "cudnn.conv", "mkldnn", "mkldnn.matmul"])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_programs_may_set_operations_singly(place: str, precision: str) -> None:
    """After that PyTorch refuses to tell the setting for all of them."""
    found: Any = torch.backends
    for name in filter(None, place.split(".")):
        found = getattr(found, name)
    found.fp32_precision = precision
    before = _state()
    with true_float32():
        assert not {"tf32", "bf16"} & {operation.fp32_precision for operation in _operations()}
        with coarse_products():
            assert "bf16" in {operation.fp32_precision for operation in _operations()}
    assert _state() == before


def test_threads_leave_the_settings_as_they_were() -> None:
    before = _state()
    items, product = torch.ones(64, 64), []

    def compute() -> None:
        for _ in range(100):
            with true_float32(), coarse_products():
                product.append(items @ items)

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(product) == 400
    assert torch.get_float32_matmul_precision() == "highest"
    assert _state()[:2] == before[:2]
