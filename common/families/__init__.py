"""Tiny random models of the decoder families that transformers has, and the table of which method works on which.

    build("granite")          the stock architecture with a family's properties switched on, and weights large enough for an error to show
    python -m common.families (`make families`)   every method of every paper on every family, into docs/families.md
"""

from .pictures import with_pictures
from .tiny import FAMILIES, Family, build, text_ids

__all__ = ["FAMILIES", "Family", "build", "text_ids", "with_pictures"]
