"""Double precision all the way down, for equalities of two computations."""

from tests.numerics import float64 as Double  # noqa: F401
