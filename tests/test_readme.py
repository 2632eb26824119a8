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
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all blocks: one of them reads what another has written."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_block_runs(number, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_commands_and_files_that_it_names_exist():
    for script in set(re.findall(r"scripts/[\w/]+\.py", README)):
        assert (ROOT / script).is_file(), script
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)(?=[\s`]*(?:#|`|\n))", README)):
        assert f"\n{target}:" in targets, target
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_tables_show_the_results():
    check = [sys.executable, "scripts/benchmarks/readme_tables.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_loss_is_in_the_table():
    for name in kc.losses.__all__:
        assert f"`{name}`" in README
