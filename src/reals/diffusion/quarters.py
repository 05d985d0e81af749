"""The share of a loss in each quarter of a process: what both objectives log beside their mean."""

from jaxtyping import Float, Int
from torch import Tensor

QUARTERS = 4


def quarter_shares(errors: Float[Tensor, " b"], quarter: Int[Tensor, " b"], name: str) -> dict[str, Float[Tensor, ""]]:
    """Return ``{name}0.00`` to ``{name}0.75``: each quarter's part of the mean of ``errors``, times four, no gradient.

    The four average to the mean, and each is finite even for a batch without a sample in that quarter.

    Args:
        errors: of each sample.
        quarter: which quarter each sample lies in, 0 to 3.
        name: what the shares are called.
    """
    errors = errors.detach()
    shares = errors.new_zeros(QUARTERS).index_add_(0, quarter, errors) * (QUARTERS / len(errors))
    return {f"{name}{index / QUARTERS:.2f}": share for index, share in enumerate(shares)}
