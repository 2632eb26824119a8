"""The README: its code runs, its commands exist, its tables are the results."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all blocks: one of them reads what another has written."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("block", BLOCKS)
def test_code_block_runs(block, folder, monkeypatch):
    """Each with names of its own, and in this process: to start TensorFlow takes longer than most of them."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", few_images)
    exec(compile(BLOCKS[block], block, "exec"), {"__name__": "__main__"})


def few_images():
    """In the place of a download."""
    rng = np.random.default_rng(0)
    counts = (256, 64)
    return tuple(
        (rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n))
        for n in counts
    )


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
