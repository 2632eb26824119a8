"""The examples in the docstrings of the losses give what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import keras_contrastive as kc

MODULES = [module.name for module in pkgutil.iter_modules(kc.losses.__path__)]
# A sketch of two towers, which the user brings.
SKETCHES = {"keras_contrastive.losses.symmetric.SymmetricInfoNCELoss"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_hold(name):
    module = importlib.import_module(f"keras_contrastive.losses.{name}")
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for example in doctest.DocTestFinder().find(module):
        if example.name not in SKETCHES:
            runner.run(example)
    assert runner.failures == 0


def test_every_function_and_class_of_the_losses_has_an_example_or_a_function_that_has():
    for name in kc.losses.__all__:
        if name == "mining":
            continue
        text = getattr(kc.losses, name).__doc__
        assert "Example:" in text or "` as a " in text, name
