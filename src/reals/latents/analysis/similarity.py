"""Likeness of two representations of the same items (CKA), and of the cells of one latent (attention maps)."""

import numpy as np
from jaxtyping import Float


def linear_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]) -> float:
    """Return the linear centred kernel alignment of two representations of the same ``n`` items.

    1 for representations that differ by rotation and scale only (Kornblith et al., 1905.00414). The inner products are
    the unbiased ones of Song et al. (2012): with the usual ones, unrelated features of many dimensions look alike, and
    the more so the fewer items there are. Unrelated representations therefore scatter around 0 and may lie below.

    Raises:
        ValueError: fewer than four items, or a representation that does not vary.
    """
    if len(x) < 4:
        raise ValueError(f"the unbiased alignment needs at least four items, found {len(x)}")
    a, b = (_centred(values) for values in (x, y))
    norms = _unbiased_product(a, a) * _unbiased_product(b, b)
    if norms <= 0.0:
        raise ValueError("a representation does not vary enough to be compared")
    return float(_unbiased_product(a, b) / np.sqrt(norms))


def _centred(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    return wide - wide.mean(axis=0)


def _unbiased_product(a: np.ndarray, b: np.ndarray) -> float:
    """Return HSIC₁ of two centred feature matrices, from feature products alone: no n x n matrix is formed."""
    count = len(a)
    own_a, own_b = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
    # Sums over the rows of a kernel matrix without its diagonal; those of a centred one with it are zero.
    rows_a, rows_b = -own_a, -own_b
    trace = np.square(a.T @ b).sum() - own_a @ own_b
    totals = rows_a.sum() * rows_b.sum() / ((count - 1) * (count - 2))
    return float((trace + totals - 2.0 * (rows_a @ rows_b) / (count - 2)) / (count * (count - 3)))


def cell_similarity(latents: Float[np.ndarray, "n c h w"], row: int, column: int) -> Float[np.ndarray, "n h w"]:
    """Return the cosine similarity of the cell at (row, column) with every cell of the same latent, in [-1, 1].

    The paper's attention map (Figure 1). Give latents from which the template, the mean at each position, has been
    subtracted; else the map shows what all images share.
    """
    values = latents.astype(np.float64)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return np.einsum("nchw,nc->nhw", unit, unit[:, :, row, column])
