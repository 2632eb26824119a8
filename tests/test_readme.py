"""The README: its code runs, its commands exist, its tables are the results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_contrastive as kc

ROOT = Path(kc.__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCKS = {
    f"{page.name}-{number}": block
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    )
}
# A few images in the place of a download.
STAND_IN = """
import keras, numpy
_rng = numpy.random.default_rng(0)
_images = lambda n: (_rng.integers(0, 256, (n, 28, 28), numpy.uint8), _rng.integers(0, 10, n))
keras.datasets.fashion_mnist.load_data = lambda: (_images(256), _images(64))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all blocks: one of them reads what another has written."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("block", BLOCKS)
def test_code_block_runs(block, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            STAND_IN * ("load_data" in BLOCKS[block]) + BLOCKS[block],
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_commands_and_files_that_it_names_exist():
    for page in PAGES:
        for script in set(re.findall(r"scripts/[\w/]+\.py", page.read_text())):
            assert (ROOT / script).is_file(), script
        for linked in re.findall(r"\]\(([\w/.-]+\.md)\)", page.read_text()):
            assert (page.parent / linked).is_file(), linked
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)(?=[\s`]*(?:#|`|\n))", README)):
        assert f"\n{target}:" in targets, target
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_tables_show_the_results():
    check = [sys.executable, "scripts/benchmarks/readme_tables.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_loss_is_in_the_tables():
    for name in kc.losses.__all__:
        assert re.search(rf"`{name}[`(]", README), name
        if name.endswith("Loss") and name != "MinedLoss":
            assert f"`{name}`" in kc.losses.__doc__, name
    for file in set(re.findall(r"`losses/(\w+)\.py`", README)):
        assert (ROOT / "keras_contrastive" / "losses" / f"{file}.py").is_file(), file
