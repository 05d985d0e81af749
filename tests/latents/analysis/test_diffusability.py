import pytest

from reals.latents.analysis.diffusability import COMPONENTS, Component, component_values, diffusability

BETTER = {
    "interpolation_fd/classifier": 3.0,
    "interpolation_fd/efficientnet-lite0": 9.0,
    "interpolation_fd_random/classifier": 0.0,
    "spectrum/high_share_centred": 0.3,
    "equivariance_centred/half": 0.4,
    "semantic_consistency/all/centred": 0.5,
    "latents/knn_accuracy": 0.6,
    "latents/dead_share": 0.0,
}
WORSE = {
    "interpolation_fd/classifier": 5.0,
    "interpolation_fd/efficientnet-lite0": 4.0,
    "interpolation_fd_random/classifier": 0.0,
    "spectrum/high_share_centred": 0.5,
    "equivariance_centred/half": 0.9,
    "semantic_consistency/all/centred": 0.3,
    "latents/knn_accuracy": 0.4,
    "latents/dead_share": 0.4,
}


def test_a_space_that_is_better_in_everything_scores_one() -> None:
    result = diffusability({"a": WORSE, "b": BETTER})
    assert result is not None
    assert result.score == {"a": 0.0, "b": 1.0}
    assert result.left_out == ()
    assert set(result.points) == {component.name for component in COMPONENTS}


def test_ties_count_half_and_points_are_shares_of_others_beaten() -> None:
    components = (Component("x", "higher", ""), Component("y", "lower", ""))
    result = diffusability({"a": {"x": 1, "y": 5}, "b": {"x": 2, "y": 5.0001}, "c": {"x": 3, "y": 1}}, components)
    assert result is not None
    assert result.points == {"x": {"a": 0.0, "b": 0.5, "c": 1.0}, "y": {"a": 0.25, "b": 0.25, "c": 1.0}}
    assert result.score == {"a": 0.125, "b": 0.375, "c": 1.0}


def test_networks_that_alignment_did_not_see_come_first() -> None:
    distance = COMPONENTS[0]
    assert component_values({"a": WORSE, "b": BETTER}, distance) == {"a": 5.0, "b": 3.0}
    without = {name: value for name, value in BETTER.items() if "classifier" not in name}
    assert component_values({"a": WORSE, "b": without}, distance) == {"a": 4.0, "b": 9.0}


def test_what_one_space_lacks_counts_for_none() -> None:
    unlabelled = {name: value for name, value in BETTER.items() if name != "latents/knn_accuracy"}
    result = diffusability({"a": WORSE, "b": unlabelled})
    assert result is not None
    assert result.left_out == ("latents/knn_accuracy",)
    assert result.score["b"] == pytest.approx(1.0)
    assert diffusability({"a": BETTER}) is None
    assert diffusability({"a": {}, "b": {}}) is None
