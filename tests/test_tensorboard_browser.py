"""TensorBoard, looked at through a browser: whether what the callbacks write is shown."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.browser import machine, needs_browser, open_browser

pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = needs_browser

CLASSES = ["round", "square"]
PATIENCE = 180  # seconds; on a busy machine TensorBoard needs a minute to start

# TensorBoard nests its elements in shadow roots, which no selector looks into.
WALK = """
const nodes = [];
const walk = node => {
  if (["STYLE", "SCRIPT", "NOSCRIPT"].includes(node.nodeName)) return;
  nodes.push(node);
  if (node.nodeName === "IFRAME" && node.contentDocument) walk(node.contentDocument);
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.documentElement);
"""
TEXTS = (
    WALK
    + "return nodes.filter(n => n.nodeType === 3).map(n => n.data.trim()).filter(t => t);"
)
PICTURES = (
    WALK
    + """
return nodes.filter(n => n.nodeName === "IMG" && n.src.includes("/data/plugin/images/") && n.complete)
  .map(n => [n.naturalWidth, n.naturalHeight]);"""
)
OPEN_SECTIONS = (
    WALK
    + """
nodes.filter(n => n.nodeName === "TF-CATEGORY-PANE" && !n.opened).forEach(n => { n.opened = true; });"""
)
CHARTS = (
    WALK
    + 'return nodes.filter(n => n.nodeName === "VZ-HISTOGRAM-TIMESERIES" && n.isConnected).length;'
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What a short run leaves: 32 images of two classes, two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "a" / "tensorboard"
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = rng.integers(0, 100, (32, 8, 8, 3)).astype(np.uint8)
    images += (labels * 120)[:, None, None, None].astype(np.uint8)
    encoder = keras.Sequential(
        [
            keras.layers.Input((8, 8, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    model = kc.ContrastiveModel(
        encoder,
        kc.losses.NTXentLoss(),
        augment=kc.augment.Recipe([kc.augment.RandomFlip()]),
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(
        tf.data.Dataset.from_tensor_slices(images).batch(16),
        epochs=2,
        verbose=0,
        shuffle=False,
        callbacks=[
            kc.callbacks.KNNProbe(images, labels, images, labels, k=3),
            kc.callbacks.Geometry(images),
            kc.callbacks.CollapseWatch(images),
            kc.callbacks.LearningRate(),
            kc.callbacks.Throughput(16),
            keras.callbacks.TensorBoard(str(folder), write_graph=False),
            kc.callbacks.TensorBoardPictures(
                folder, images, labels=labels, class_names=CLASSES
            ),
            kc.callbacks.EmbeddingProjector(
                folder, images, labels, class_names=CLASSES
            ),
        ],
    )
    return folder


@pytest.fixture(scope="module")
def address(run_folder):
    """Of a TensorBoard that shows the run."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run_folder)]
    command += ["--port", "0", "--host", "127.0.0.1", "--load_fast=false"]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = threading.Timer(PATIENCE, server.kill)
    deadline.start()
    try:
        said = []
        for line in server.stderr:  # ends when the server does
            said.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            if found:
                break
        else:
            pytest.fail(
                f"TensorBoard did not start: exit code {server.wait()} ({machine()})\n"
                + "".join(said)
            )
        deadline.cancel()
        yield found.group()
    finally:
        deadline.cancel()
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def wait(browser, condition, what):
    """What the condition returns when it is at last true of the page."""
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, PATIENCE, poll_frequency=0.25)
    try:
        return wait.until(lambda _: condition())
    except Exception as error:
        texts = " | ".join(browser.execute_script(TEXTS))
        raise AssertionError(
            f"Not shown within {PATIENCE} s: {what}. Page: {texts}"
        ) from error


def open_tab(browser, address: str, name: str) -> None:
    browser.get("about:blank")  # another fragment alone would not load the page
    browser.get(f"{address}#{name}")


def wait_for_texts(browser, *texts: str) -> None:
    def shown():
        return set(texts) <= set(browser.execute_script(TEXTS))

    wait(browser, shown, texts)


def test_scalars_tab_shows_losses_and_what_the_callbacks_add(browser, address):
    open_tab(browser, address, "scalars")
    wait_for_texts(
        browser,
        "epoch_loss",
        "epoch_knn_accuracy",
        "epoch_learning_rate",
        "epoch_images_per_second",
        "epoch_effective_rank",
        "epoch_feature_rank",
        "train",
    )


def test_images_tab_shows_views_and_neighbours(browser, address):
    open_tab(browser, address, "images")
    wait_for_texts(browser, "views", "neighbours")
    browser.execute_script(OPEN_SECTIONS)

    def loaded():
        sizes = sorted(browser.execute_script(PICTURES))
        return sizes == [[3 * 68, 8 * 68], [7 * 84, 8 * 84]]

    wait(browser, loaded, "a sheet of views and one of neighbours")


def test_histograms_tab_shows_positive_and_negative_similarities(browser, address):
    open_tab(browser, address, "histograms")
    wait_for_texts(browser, "similarity/negative", "similarity/positive")
    wait(browser, lambda: browser.execute_script(CHARTS) == 2, "two charts")


def test_projector_tab_shows_both_embeddings_with_their_labels(browser, address):
    open_tab(browser, address, "projector")
    wait_for_texts(
        browser, "2 tensors found", "trained", "untrained", "32x5", "label", "image"
    )

    def points():
        return re.search(
            r"Points: 32\b.*Dimension: 5\b", " ".join(browser.execute_script(TEXTS))
        )

    wait(browser, points, "32 points of 5 dimensions")
