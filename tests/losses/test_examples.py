"""The examples in the losses' docstrings."""

import doctest
import importlib

import pytest
import torch

from eql_d2.losses import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_has_an_example_that_is_right(name):
    loss_class = METHODS[name].loss_class
    names = {**vars(importlib.import_module(loss_class.__module__)), "torch": torch}
    (example,) = doctest.DocTestFinder(recurse=False).find(loss_class, globs=names)
    assert example.examples
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert results.failed == 0
