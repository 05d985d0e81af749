"""How well classes can be read from latents: nearest neighbours and a linear probe, one verdict per test item."""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Int

from reals.runtime.seed import derive_seed

NEIGHBOURS = 20
"""Voters of the nearest-neighbour probe, as DINO's evaluation uses (Caron et al., 2021)."""

REGULARISATION = 0.01
"""scikit-learn's ``C`` of the linear probe: the data's weight against the squared norm of the coefficients."""

_BLOCK = 1024


def flat(latents: Float[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n d"]:
    """Return every latent as one vector, positions kept apart."""
    return latents.reshape(len(latents), -1)


def pooled(latents: Float[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n c"]:
    """Return every latent averaged over positions: what the image shows, wherever it is."""
    return latents.mean(axis=(2, 3))


def knn_accuracy(
    train_x: Float[np.ndarray, "n d"],
    train_y: Int[np.ndarray, " n"],
    test_x: Float[np.ndarray, "m d"],
    test_y: Int[np.ndarray, " m"],
    *,
    neighbours: int = NEIGHBOURS,
) -> Bool[np.ndarray, " m"]:
    """Return whether the majority of each test item's nearest training items has its class.

    Nearest means the highest cosine similarity after the training mean has been subtracted (a mean that all latents
    share would make all of them alike). Every neighbour has one vote; a tie goes to the class whose voters are more
    similar in sum.

    Raises:
        ValueError: fewer training items than neighbours.
    """
    if len(train_x) < neighbours:
        raise ValueError(f"{neighbours} neighbours cannot be found among {len(train_x)} training items")
    mean = train_x.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, test = _unit(train_x - mean), _unit(test_x - mean)
    classes = int(max(train_y.max(), test_y.max(initial=0))) + 1
    correct = np.zeros(len(test), dtype=bool)
    for start in range(0, len(test), _BLOCK):
        similarity = test[start : start + _BLOCK] @ train.T
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        rows = np.arange(len(nearest))[:, None]
        votes = np.zeros((len(nearest), classes))
        # The sum of at most `neighbours` cosines, divided by 2k + 1, stays within one half of a vote.
        weight = 1.0 + similarity[rows, nearest] / (2 * neighbours + 1)
        np.add.at(votes, (rows, train_y[nearest]), weight)
        correct[start : start + _BLOCK] = votes.argmax(axis=1) == test_y[start : start + _BLOCK]
    return correct


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def linear_probe(
    train_x: Float[np.ndarray, "n d"],
    train_y: Int[np.ndarray, " n"],
    test_x: Float[np.ndarray, "m d"],
    test_y: Int[np.ndarray, " m"],
    *,
    maximum_train: int = 10_000,
    maximum_iterations: int = 200,
    seed: int = 0,
) -> Bool[np.ndarray, " m"]:
    """Return whether a linear classifier fitted to the training items finds each test item's class.

    Multinomial logistic regression on standardised features, fitted by L-BFGS with fixed :data:`REGULARISATION`.
    Work is bounded: ``maximum_train`` training items drawn by ``seed``, and ``maximum_iterations``, which belong to the
    probe's definition; all spaces that are compared get the same.

    Raises:
        ValueError: the training items have fewer than two classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train_x) > maximum_train:
        generator = np.random.default_rng(derive_seed("linear probe", seed, len(train_x), maximum_train))
        rows = np.sort(generator.choice(len(train_x), maximum_train, replace=False))
        train_x, train_y = train_x[rows], train_y[rows]
    if len(np.unique(train_y)) < 2:
        raise ValueError("a linear probe needs training items of at least two classes")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=maximum_iterations))
    with warnings.catch_warnings():
        # The iteration limit is part of the definition, so reaching it is not news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train_x.astype(np.float64), train_y)
    return np.asarray(probe.predict(test_x.astype(np.float64)) == test_y, dtype=bool)
