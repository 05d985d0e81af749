import numpy as np
import pytest

from reals.evaluation.inception_score import inception_score
from tests.evaluation.cheap_inception import CheapInception


def _probabilities(count: int, seed: int = 0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(count, 6)) * 2
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)


def _adm(parts: list[np.ndarray]) -> float:
    """The evaluator's formula, in float32."""
    scores = []
    for part in parts:
        divergence = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return float(np.mean(scores))


def test_a_short_last_chunk_weighs_as_much_as_the_others() -> None:
    parts = [_probabilities(50, 0), _probabilities(50, 1), _probabilities(7, 2)]
    value, influence = inception_score(parts)
    assert value == pytest.approx(_adm(parts), rel=1e-6)
    assert value != pytest.approx(inception_score([np.concatenate(parts)])[0], rel=1e-3)
    assert influence.shape == (107,)
    assert influence.sum() == pytest.approx(0, abs=1e-9)


def test_a_network_scores_chunks_of_5000() -> None:
    network = CheapInception()
    pool = np.random.default_rng(0).random((5001, 2048), dtype=np.float32) * 20
    whole = inception_score([network.probabilities(pool[:5000])])[0]
    assert whole > 1.05
    # One image has its own distribution of classes for marginal, hence the score 1.
    assert network.score(pool)[0] == pytest.approx((whole + 1) / 2, rel=1e-6)
    assert network.score(pool[:5000])[0] == pytest.approx(whole)


def test_extremes_are_one_and_the_number_of_classes() -> None:
    assert inception_score([np.eye(6, dtype=np.float32)])[0] == pytest.approx(6)
    assert inception_score([np.full((9, 6), 1 / 6, np.float32)])[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one image"):
        inception_score([])


def test_influence_is_the_derivative_by_an_items_weight() -> None:
    parts = [_probabilities(40, 0), _probabilities(10, 1)]
    value, influence = inception_score(parts)
    repeated = 60
    parts[1] = np.concatenate([np.repeat(parts[1], repeated, axis=0), parts[1][3:4]])
    # One more copy among 60 of each: a small step of the item's weight in its chunk, 50 / 600 of one of all.
    step = inception_score(parts)[0] - value
    assert step == pytest.approx(influence[43] / 50 / repeated, rel=0.02)
