import pytest

from reals.evaluation.metric_kinds import KINDS, split_name

_LOWER = {"fid", "sfid", "fd", "fid_infinity", "fd_infinity", "kid", "kd", "cmmd", "copied", "lpips"}
_LOWER |= {f"r{name}" for name in ("fid", "sfid", "fd", "fid_infinity", "fd_infinity")}
_HIGHER = {"inception_score", "precision", "recall", "density", "coverage", "psnr", "ssim"}


def test_every_kind_has_a_direction() -> None:
    assert set(KINDS) == _LOWER | _HIGHER


@pytest.mark.parametrize("name", sorted(_LOWER | _HIGHER))
def test_a_metric_improves_in_its_own_direction(name: str) -> None:
    assert split_name(f"{name}/network")[0].higher_is_better == (name in _HIGHER)
