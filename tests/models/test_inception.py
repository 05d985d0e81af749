"""The FID Inception network against values recorded from torch-fidelity's, with weights drawn per name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reals.models.inception import INCEPTION_SHA256, INCEPTION_URL, Inception, InceptionNetwork, resize_tf1
from reals.runtime.errors import UserError
from reals.runtime.io import save_state
from tests.evaluation.seeded_inception import GOLDEN, SHAPES, seeded_network, seeded_weights


@pytest.fixture(scope="module")
def network() -> InceptionNetwork:
    return seeded_network()


@pytest.mark.golden
@pytest.mark.parametrize("case", ["a64", "b256", "c299", "d40x100"])
def test_activations_and_probabilities_are_the_recorded_ones(network: InceptionNetwork, case: str) -> None:
    recorded = np.load(GOLDEN / "inception_seeded.npz", allow_pickle=False)
    found = network(torch.from_numpy(recorded[f"{case}/img"]))
    np.testing.assert_allclose(found.pool.numpy(), recorded[f"{case}/pool3"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.spatial.numpy(), recorded[f"{case}/spatial"], rtol=1e-4, atol=1e-4)
    probabilities = network.probabilities(found.pool).numpy()
    np.testing.assert_allclose(probabilities, recorded[f"{case}/softmax"], rtol=1e-3, atol=1e-6)
    # With the bias, as usual elsewhere, they would be others: the comparison above can tell.
    assert np.abs(probabilities - recorded[f"{case}/softmax_biased_WRONG"].astype(np.float32)).max() > 1e-3


@pytest.mark.golden
def test_parameters_have_the_published_names_and_shapes_in_order(network: InceptionNetwork) -> None:
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == SHAPES
    assert list(network.state_dict()) == list(SHAPES)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_resizing_reads_at_corners_and_repeats_the_border() -> None:
    ramp = torch.tensor([0.0, 10.0, 20.0]).reshape(1, 1, 1, 3).expand(1, 1, 3, 3)
    np.testing.assert_allclose(resize_tf1(ramp, 6)[0, 0, 0], [0, 5, 10, 15, 20, 20], atol=1e-5)
    wide = torch.arange(8.0).reshape(1, 1, 1, 8).expand(1, 1, 8, 8)
    # Shrinking by four takes every fourth pixel: nothing is smoothed.
    assert resize_tf1(wide, 2)[0, 0, 0].tolist() == [0.0, 4.0]
    assert resize_tf1(ramp, 3) is ramp


def test_the_published_file_is_named_by_its_hash() -> None:
    assert INCEPTION_URL.endswith(f"-{INCEPTION_SHA256[:8]}.pth")
    assert Inception().sha256 == INCEPTION_SHA256


def test_other_files_are_refused(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in seeded_weights().items() if name.startswith("Conv2d_1a")}
    save_state(tmp_path / "some.pth", state)
    with pytest.raises(UserError, match="has the SHA-256"):
        Inception(weights=str(tmp_path / "some.pth")).build("cpu")
    with pytest.raises(UserError, match=r"has no tensor 'Conv2d_2a_3x3\.conv\.weight'.*FID Inception network"):
        Inception(weights=str(tmp_path / "some.pth"), sha256=None).build("cpu")


def test_weights_from_a_file_give_the_same_network(network: InceptionNetwork, tmp_path: Path) -> None:
    save_state(tmp_path / "inception.pth", seeded_weights())
    loaded = Inception(weights=str(tmp_path / "inception.pth"), sha256=None).build("cpu")
    assert loaded.fingerprint == network.fingerprint
