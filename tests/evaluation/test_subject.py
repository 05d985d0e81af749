from collections.abc import Iterator

import numpy as np
import pytest

from reals.evaluation.image_sets import ImageSet
from reals.evaluation.subject import Subject, cautions
from tests.evaluation.cheap_inception import CheapInception


class Pretended(ImageSet):
    """Images that are only counted."""

    def _read(self, batch: int, first: int = 0, every: int = 1) -> Iterator[np.ndarray]:
        raise AssertionError

    def labels(self) -> None:
        return None

    def fingerprint(self) -> str:
        return str(len(self))


@pytest.mark.parametrize(
    ("count", "warned"),
    [(10_001, True), (10_999, True), (10_000, False), (11_000, False), (4_000, False), (300, False)],
)
def test_a_short_last_chunk_of_the_inception_score_is_told(count: int, warned: bool) -> None:
    subjects = {
        role: Subject(Pretended(number), "unknown", None, None, ())
        for role, number in (("reference", 15_001), ("samples", count))
    }
    lines = [line for line in cautions(subjects, [CheapInception()]) if "chunk" in line]
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith(f"samples: the last {count - 10_000} of {count} images are a chunk of their own")
