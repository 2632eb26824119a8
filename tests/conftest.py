"""Set-up of every test: quiet TensorFlow, two threads, our own warnings as errors, no state left behind."""

from __future__ import annotations

import os

# Before the first import of TensorFlow, whoever does it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")

import keras
import pytest


def pytest_configure(config):
    # A warning belongs to the module it points at: ours, or (with a `stacklevel`) the test that called us.
    config.addinivalue_line("filterwarnings", "error:::keras_contrastive")
    config.addinivalue_line("filterwarnings", "error:::tests")


@pytest.fixture(autouse=True)
def fresh_keras():
    """Each test starts in float32 with the same initial weights, whatever ran before it."""
    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")
