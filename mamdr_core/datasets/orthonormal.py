"""Random matrices with orthonormal columns, and products with them that do not depend on the number of rows."""

import numpy as np

from mamdr_core.datasets.counters import Singles, normal


def orthonormal(seed: int, stream: str, rows: int, columns: int) -> Singles:
    """[rows, columns <= rows] a uniformly distributed matrix with orthonormal columns (QR of a normal matrix)."""
    drawn = normal(seed, stream, np.arange(rows), columns).astype(np.float64)
    q, r = np.linalg.qr(drawn)
    # q is uniformly distributed only if the diagonal of r is positive (Mezzadri 2007).
    uniform: Singles = (q * np.where(np.diag(r) < 0, -1.0, 1.0)).astype(np.float32)
    return uniform


def multiply(vectors: Singles, matrix: Singles) -> Singles:
    """[..., J] the product of vectors [..., I] and a small matrix [I, J], row by row.

    BLAS may round a row differently depending on the number of rows; this product does not.
    """
    product: Singles = vectors[..., :1] * matrix[0]
    for column in range(1, len(matrix)):
        product += vectors[..., column, None] * matrix[column]
    return product
