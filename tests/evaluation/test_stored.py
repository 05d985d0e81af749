from pathlib import Path

import numpy as np
import pytest

from reals.evaluation.stored import stored_statistics
from reals.runtime.errors import UserError


@pytest.mark.golden
def test_statistics_are_read_beside_images(golden: Path) -> None:
    path = golden / "metrics" / "layout_ref.npz"
    recorded = np.load(path, allow_pickle=False)
    found = stored_statistics(path, pool=8, spatial=7)
    assert found is not None
    assert found.spatial is not None
    assert np.array_equal(found.pool.mean, recorded["mu"])
    assert np.array_equal(found.spatial.covariance, recorded["sigma_s"])
    assert found.pool.count is None
    assert stored_statistics(golden / "metrics" / "layout_sample.npz", pool=8, spatial=7) is None
    assert stored_statistics(golden / "metrics", pool=8, spatial=7) is None


def test_the_hash_is_of_the_numbers(tmp_path: Path) -> None:
    arrays = {"mu": np.arange(3.0), "sigma": np.eye(3)}
    np.savez(tmp_path / "a.npz", **arrays)  # pyright: ignore[reportArgumentType]
    images = {"arr_0": np.zeros((1, 2, 2, 3), np.uint8)}
    np.savez_compressed(tmp_path / "b.npz", **(arrays | images))  # pyright: ignore[reportArgumentType]
    np.savez(tmp_path / "c.npz", mu=np.ones(3), sigma=np.eye(3))
    found = [stored_statistics(tmp_path / f"{name}.npz", pool=3, spatial=2) for name in "abc"]
    hashes = [one.sha256 for one in found if one is not None]
    assert hashes[0] == hashes[1] != hashes[2]
    assert found[0] is not None
    assert found[0].spatial is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "has 'mu' but not 'sigma'"),
        ({"mu_s": np.zeros(2), "sigma_s": np.eye(2)}, "has mu_s, sigma_s but not mu, sigma"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"'mu' is float64 \[4\], not floating-point \[3\]"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "'sigma' is not finite"),
        ({"mu": np.array([{}, {}, {}]), "sigma": np.eye(3)}, "cannot be read"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=message) as caught:
        stored_statistics(tmp_path / "set.npz", pool=3, spatial=2)
    assert "\n" not in str(caught.value)
