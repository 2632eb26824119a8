"""Interim: modules load when they are asked for, while the house is being built."""

import importlib

from keras_contrastive._version import __version__

_HOMES = {"ContrastiveModel": "model", "ContrastiveLossLayer": "layers"}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_contrastive.{_HOMES[name]}"), name)
    if name.startswith("__"):
        raise AttributeError(name)
    return importlib.import_module(f"keras_contrastive.{name}")
