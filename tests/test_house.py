"""The house: what imports what, what is public, and how long the import takes."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_contrastive as kc

PACKAGE = Path(kc.__file__).parent
FLOORS = [
    ["_compat", "_checks", "_random", "_numerics", "_batch_norm", "_version"],
    ["losses", "augment", "data", "encoders", "heads", "optimizers", "evaluation"],
    ["layers", "targets", "negatives", "whitening", "pictures"],
    ["model"],
    ["export", "search", "callbacks", "report"],
    ["recipes"],
]
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"
)


def own_imports(path: Path) -> set[str]:
    """The modules directly under the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "keras_contrastive"
        ):
            parts = node.module.split(".")
            found |= (
                {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            )
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {n[1] for n in names if n[0] == "keras_contrastive" and len(n) > 1}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_from_lower_floors_alone(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for imported in own_imports(path) - {own}:
        assert FLOOR_OF[imported] < FLOOR_OF[own], f"{own} must not import {imported}"


def test_only_compat_asks_for_the_keras_version():
    asks = re.compile(r"\b(keras|tf|tensorflow)\.__version__")
    asking = {path.name for path in FILES if asks.search(path.read_text())}
    assert asking == {"_compat.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_path_of_tensorflow_or_keras_is_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith(
                ("tensorflow.python", "keras.src")
            )


def public_objects():
    for name in ("augment", "callbacks", "data", "evaluation", "losses", "search"):
        module = importlib.import_module(f"keras_contrastive.{name}")
        for public in module.__all__:
            yield f"{name}.{public}", getattr(module, public)
    yield from [
        ("ContrastiveModel", kc.ContrastiveModel),
        ("Layer", kc.ContrastiveLossLayer),
        ("FeatureWhitening", kc.FeatureWhitening),
    ]


@pytest.mark.parametrize(
    "thing",
    [
        pytest.param(thing, id=name)
        for name, thing in public_objects()
        if callable(thing)
    ],
)
def test_public_name_has_a_docstring(thing):
    assert inspect.getdoc(thing)


@pytest.mark.parametrize(
    "family",
    [kc.encoders.ENCODERS, kc.recipes.RECIPES, kc.augment.RECIPES],
    ids=["e", "r", "a"],
)
def test_unknown_name_is_answered_with_the_nearest(family):
    get = {
        id(kc.encoders.ENCODERS): kc.encoders.get,
        id(kc.recipes.RECIPES): kc.recipes.get,
    }
    name = next(iter(family))
    with pytest.raises(ValueError, match=f"Did you mean .*'{name}'"):
        get.get(id(family), kc.augment.get)(name + "x")


def test_import_loads_neither_matplotlib_nor_scikit_learn_nor_pillow():
    code = (
        "import sys, tensorflow, keras; before = set(sys.modules); import keras_contrastive;"
        "print(sorted({'matplotlib', 'sklearn', 'PIL', 'rich'} & (set(sys.modules) - before)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "make", [kc.encoders.conv_net, kc.encoders.small_resnet, kc.encoders.resnet18]
)
def test_encoder_is_a_functional_model_of_features(make):
    model = make((16, 16, 3))
    assert isinstance(model, keras.Model)
    assert len(model.output_shape) == 2
