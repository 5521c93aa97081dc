"""Datasets, category counts and loading; importing this registers the built-in datasets."""

from eql_d2.data.box_centres import fractal_dimension

__all__ = ["fractal_dimension"]
