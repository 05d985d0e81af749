from pathlib import Path

import numpy as np

from reals.evaluation.frechet import gaussian_statistics
from reals.evaluation.reference import write_reference
from tests.evaluation.cheap_inception import CheapInception


def test_a_batch_holds_random_images_in_order_and_statistics_of_all(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "all.npz", arr_0=images)
    network = CheapInception()
    kept = {}
    for seed in range(2):
        output = tmp_path / f"{seed}.npz"
        assert write_reference(str(tmp_path / "all.npz"), output, network, size=8, kept=10, seed=seed) == 10
        with np.load(output, allow_pickle=False) as batch:
            places = [int(np.flatnonzero((images == one).all(axis=(1, 2, 3)))[0]) for one in batch["arr_0"]]
            kept[seed] = places
            expected = gaussian_statistics(network(images)[:, :2048])
            np.testing.assert_allclose(batch["mu"], expected.mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(batch["sigma"], expected.covariance, atol=1e-6)
        assert places == sorted(set(places))
        # Photos are often sorted by class, so the first ones will not do.
        assert max(places) >= 20
    assert kept[0] != kept[1]
