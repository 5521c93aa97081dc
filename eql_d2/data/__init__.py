"""Datasets, category counts and loading; importing this registers the built-in datasets."""
