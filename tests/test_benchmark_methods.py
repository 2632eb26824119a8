"""The benchmarks of the methods, and of temperature and batch size: what they refuse, make, keep and show."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import keras
import numpy as np
import pytest

import keras_contrastive as kc
from keras_contrastive._compat import KERAS_3

pytestmark = pytest.mark.skipif(not KERAS_3, reason="benchmarks run on the main line")

ROOT = Path(kc.__file__).resolve().parents[1]
HELD_OUT = 40


class Modules(NamedTuple):
    judging: ModuleType
    training: ModuleType
    results: ModuleType
    methods: ModuleType
    tables: ModuleType
    points: ModuleType


@pytest.fixture(scope="module")
def modules():
    """The scripts, imported as they import each other."""
    before = list(sys.path)
    sys.path[:0] = [str(ROOT / "scripts" / "benchmarks"), str(ROOT / "scripts")]
    import _method_judging
    import _method_training
    import _results
    import methods
    import readme_tables
    import temperature_and_batch

    yield Modules(
        _method_judging,
        _method_training,
        _results,
        methods,
        readme_tables,
        temperature_and_batch,
    )
    sys.path[:] = before


def small_encoder(part, seed):
    keras.utils.set_random_seed(seed)
    return kc.encoders.small_conv_net(part.image_shape)


@pytest.fixture
def scripts(modules, tmp_path, monkeypatch):
    """The scripts with a folder of results of their own, and what compiles in a second: a small encoder, plain views."""
    judging, training, results, methods, _, points = modules
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(judging, "HELD_OUT", HELD_OUT)
    monkeypatch.setattr(training, "new_encoder", small_encoder)
    mirrored = kc.augment.Recipe([kc.augment.RandomFlip()])
    monkeypatch.setattr(training, "views_of", lambda *_: mirrored)
    monkeypatch.setattr(points, "PICTURE", tmp_path / "points.png")
    for script in (methods, points):
        monkeypatch.setattr(script, "import_quietly", lambda: None)
    return modules


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """300 training images: more than 256 for a batch, and than 200 for kNN, also when some are held out."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 300), ("test", 30)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 256, (count, 16, 16, 3)) // 2
        images[..., 0] += 60 * labels[:, None, None]  # a class has a colour
        arrays[f"x_{part}"] = images.astype(np.uint8)
        arrays[f"y_{part}"] = labels
    file = tmp_path_factory.mktemp("data") / "colours.npz"
    np.savez(file, **arrays)
    return f"npz:{file}"


def refusal(script, *words) -> str:
    """The one line that a script ends with."""
    from _console import Failure

    with pytest.raises((Failure, ValueError)) as error:
        script.main([*map(str, words)])
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--method", "byol", "--labels-per-class", 3],
            "is for simclr, supcon, supervised",
        ),
        (["--method", "supervised"], "supervised needs --labels-per-class"),
        (
            ["--method", "simclr", "--options", '{"temperature": 0.1}'],
            "--options is for --hold-out",
        ),
        (["--hold-out"], "--hold-out, --options and --seed need --method"),
        (["--seed", 0], "--hold-out, --options and --seed need --method"),
        (["--method", "simcler"], "--method must be one of pixels, untrained"),
        (
            ["--method", "simclr", "--hold-out", "--options", '{"temprature": 0.1}'],
            "simclr has no option 'temprature' that can be chosen here. It has: temperature",
        ),
        (
            ["--method", "simclr", "--hold-out", "--options", '{"seed": 1}'],
            "has no option 'seed'",
        ),
        (
            ["--method", "pixels", "--hold-out", "--options", '{"seed": 1}'],
            "It has: none",
        ),
        (
            ["--method", "simclr", "--hold-out", "--options", '{"optimizer": "lars"}'],
            "an optimizer needs a learning_rate beside it",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value)),
)
def test_what_does_not_go_together_is_refused(scripts, words, expected):
    methods = scripts.methods
    assert expected in refusal(methods, "--data", "npz:none.npz", *words)


@pytest.mark.parametrize("text", ["{temperature: 1}", "[1]", "0.1"])
def test_options_that_are_no_json_object_are_refused_in_one_line(scripts, text, capsys):
    methods = scripts.methods
    with pytest.raises(SystemExit):
        methods.parse_args(["--data", "digits", "--hold-out", "--options", text])
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be a JSON object, as" in line


def test_options_of_the_wrong_value_are_refused(scripts, data):
    methods = scripts.methods
    words = [
        "--data",
        data,
        "--method",
        "simclr",
        "--hold-out",
        "--steps",
        2,
        "--options",
    ]
    for options, expected in (
        ('{"temperature": "warm"}', "`temperature` must be a finite number > 0"),
        ('{"learning_rate": 0}', "`learning_rate` must be"),
        ('{"warmup": null}', "--options: unsupported operand"),
    ):
        assert expected in refusal(methods, *words, options)


def test_too_few_images_to_hold_out_are_refused(scripts, data, monkeypatch):
    methods = scripts.methods
    judging = scripts.judging
    monkeypatch.setattr(judging, "HELD_OUT", 151)
    words = ["--data", data, "--hold-out", "--method", "pixels"]
    assert "needs 302 training images. Found: 300." in refusal(methods, *words)


def test_a_run_writes_its_result_once(scripts, data, tmp_path, capsys):
    methods = scripts.methods
    training = scripts.training
    words = ["--data", data, "--method", "simclr", "--steps", "3"]
    assert methods.main(words) == 0
    path = tmp_path / "methods" / "colours-simclr-3steps-seed0.json"
    result = json.loads(path.read_text())
    assert result["command"] == (
        "python scripts/benchmarks/methods.py --data npz:colours.npz --method simclr --steps 3"
    )
    assert (result["steps"], result["budget_seconds"]) == (3, None)
    assert (result["batch_size"], result["data"]) == (256, "npz:colours.npz")
    assert result["learning_rate"] == training.learning_rate("simclr", {})
    assert result["seconds"] > 0 and len(result["history"]["loss"]) == 1
    # Colours are what an encoder of almost no training tells apart; chance is a third.
    assert result["linear_probe"] > 0.8 and result["knn_200_whitened"] > 0.8
    # 100 images of each class are all there are.
    assert set(result["few_label"]) == {"1", "5", "10", "100"}
    assert set(result["few_label"]["5"]) == {"mean", "std"}
    capsys.readouterr()
    assert methods.main(words) == 0
    assert "is there already; --overwrite" in capsys.readouterr().out
    assert json.loads(path.read_text()) == result


def test_a_result_of_other_settings_is_made_again(scripts, tmp_path):
    methods = scripts.methods
    training = scripts.training
    (tmp_path / "methods").mkdir()

    def asked(*words):
        return methods.parse_args(["--data", "npz:b/a.npz", *words])

    def is_made(args, made: dict) -> bool:
        path = tmp_path / f"{methods.result_name(args)}.json"
        path.write_text(json.dumps(made))
        return methods.is_made(args)

    byol = asked("--method", "byol")
    assert not methods.is_made(byol)
    usual = methods.settings(byol)
    assert usual["data"] == "npz:a.npz" and usual["options"]["momentum"] == 0.99
    assert is_made(byol, usual)
    for name, other in (
        ("batch_size", 128),
        ("encoder", "other"),
        ("learning_rate", 0.1),
        ("options", {}),
        ("budget_seconds", 8.0),
        ("data", "npz:c.npz"),
    ):
        assert not is_made(byol, {**usual, name: other})
    for method, encoder in (("pixels", None), ("untrained", training.ENCODER)):
        args = asked("--method", method)
        assert is_made(args, {"data": "npz:a.npz", "encoder": encoder})
        assert not is_made(args, {"data": "npz:a.npz", "encoder": "other"})


def test_a_run_of_another_length_has_another_name(scripts):
    methods = scripts.methods
    for words, expected in (
        ([], "methods/a-byol-seed0"),
        (["--seconds", methods.SECONDS], "methods/a-byol-seed0"),
        (["--seconds", 9], "methods/a-byol-9s-seed0"),
        (["--steps", 9, "--seed", 1], "methods/a-byol-9steps-seed1"),
        (["--hold-out", "--steps", 9], "methods/hold_out/a-byol-9steps-seed0"),
    ):
        words = ["--data", "npz:a.npz", "--method", "byol", *map(str, words)]
        assert methods.result_name(methods.parse_args(words)) == expected


def test_the_rates_are_the_best_on_held_out_images(modules):
    results, training = modules.results, modules.training
    judged = {name: "knn_200" for name in kc.recipes.RECIPES if name != "fast"}
    judged["supervised-10"] = "known_labels"
    folder = results.RESULTS / "methods" / "hold_out"
    rates = {}
    for name, judge in judged.items():
        accuracies = {}
        for rate in (0.001, 0.003):
            file = f"cifar10_jpeg-{name}-learning_rate={rate}-120steps-seed0.json"
            result = json.loads((folder / file).read_text())
            assert result["encoder"] == training.ENCODER, file
            accuracies[rate] = result[judge]
        rates[name.partition("-")[0]] = max(accuracies, key=accuracies.get)
    assert training.LEARNING_RATES == rates


def test_seconds_give_the_steps(scripts, data, tmp_path, monkeypatch):
    methods = scripts.methods
    training = scripts.training
    monkeypatch.setattr(training, "TIMED_SECONDS", 0.1)
    words = ["--data", data, "--method", "supcon", "--seconds", "0.5", "--hold-out"]
    options = '{"temperature": 0.3, "learning_rate": 0.01}'
    # Of the 300 images 40 are held out, and 260 are one batch.
    assert methods.main([*words, "--options", options]) == 0
    name = "colours-supcon-learning_rate=0.01-temperature=0.3-0.5s-seed0.json"
    result = json.loads((tmp_path / "methods" / "hold_out" / name).read_text())
    assert result["steps"] == max(2, 2 * round(0.25 / result["step_seconds"]))
    assert result["budget_seconds"] == 0.5 and len(result["history"]["loss"]) == 2
    assert result["judged_on"] == "40 held-out training images"
    assert result["learning_rate"] == 0.01
    assert "few_label" not in result and "linear_probe" not in result


@pytest.mark.parametrize("method", ["pixels", "untrained"])
def test_what_is_not_trained_has_no_steps(scripts, data, tmp_path, method):
    methods = scripts.methods
    assert methods.main(["--data", data, "--method", method]) == 0
    result = json.loads(
        (tmp_path / "methods" / f"colours-{method}-seed0.json").read_text()
    )
    assert (result["steps"], result["seconds"]) == (0, 0)
    assert not {"batch_size", "learning_rate"} & set(result)
    assert result["linear_probe"] > 0.8


def test_few_labels_are_all_that_training_is_told(scripts, data, tmp_path, monkeypatch):
    methods = scripts.methods
    training = scripts.training
    batches = []

    def fit(model, dataset, steps):
        batches.append([array.numpy() for array in next(iter(dataset))])
        return {"loss": [0.0]}

    monkeypatch.setattr(training, "fit", fit)
    words = ["--data", data, "--labels-per-class", "2", "--steps", "2"]
    for method in ("supcon", "supervised"):
        assert methods.main([*words, "--method", method]) == 0
        file = tmp_path / "few_labels" / f"colours-{method}-2-2steps-seed0.json"
        result = json.loads(file.read_text())
        assert result["labels_per_class"] == 2
        assert result["known_labels"] > 0.6  # chance is a third
    (images, ids), (_, codes) = batches
    assert len(images) == 256 and np.count_nonzero(ids >= 0) >= 64
    assert len(np.unique(images[ids >= 0], axis=0)) == 6
    # 63 images, two views of each.
    assert np.bincount(codes).tolist() == [42, 42, 42]


def test_all_runs_what_has_no_result_and_names_what_failed(
    scripts, tmp_path, monkeypatch
):
    methods = scripts.methods
    from _console import Failure

    calls = []

    def fake(words):
        calls.append(words[2:])
        return subprocess.CompletedProcess(words, 2 if "byol" in words else 0)

    monkeypatch.setattr(methods.subprocess, "run", fake)
    (tmp_path / "methods").mkdir()
    asked = ["--data", "npz:a/b.npz", "--method", "dcl", "--seconds", "9"]
    made = methods.settings(methods.parse_args(asked))
    (tmp_path / "methods" / "b-dcl-9s-seed0.json").write_text(json.dumps(made))
    with pytest.raises(Failure, match=r"No result of: byol, seed 0\.$") as failure:
        methods.main(["--data", "npz:a/b.npz", "--seconds", "9"])
    assert failure.value.code == 1
    runs = [(words[3], words[5]) for words in calls]
    assert runs[:4] == [("pixels", "0"), *(("untrained", seed) for seed in "012")]
    assert {method for method, _ in runs[4:]} == {*kc.recipes.RECIPES} - {"dcl"}
    assert [seed for method, seed in runs if method == "simclr"] == ["0", "1", "2"]
    assert [seed for method, seed in runs if method == "swav"] == ["0"]
    assert all(words[6:] == ["--seconds", "9"] for words in calls)


def test_points_are_kept_and_only_new_ones_measured(
    scripts, data, tmp_path, capsys, monkeypatch
):
    points = scripts.points
    training = scripts.training
    words = ["--data", data, "--images", "64", "--temperatures", "0.2", "--batch-sizes"]
    assert points.main([*words, "32"]) == 0
    file = tmp_path / "temperature_and_batch.json"
    (first,) = json.loads(file.read_text())["points"]
    assert (first["temperature"], first["batch_size"], first["steps"]) == (0.2, 32, 2)
    rate = training.learning_rate("simclr", {})
    assert first["learning_rate"] == pytest.approx(rate / np.sqrt(8))
    monkeypatch.setattr(training, "fit", lambda *untrained: {})
    assert points.main([*words, "32", "64"]) == 0
    result = json.loads(file.read_text())
    assert result["points"][0] == first
    assert [point["batch_size"] for point in result["points"]] == [32, 64]
    assert (result["held_out"], result["data"]) == (HELD_OUT, "npz:colours.npz")
    assert not list(tmp_path.glob("*.new*"))
    capsys.readouterr()
    assert points.main([*words, "64"]) == 0
    assert "has all these points" in capsys.readouterr().out
    other = ["--data", data, "--images", "65", "--batch-sizes", "64"]
    assert "have images 64, not 65" in refusal(points, *other)
    other = ["--data", data, "--images", "64", "--seed", "1"]
    assert "have seed 0, not 1" in refusal(points, *other)


def test_points_without_results_are_not_drawn(scripts):
    points = scripts.points
    assert "no results yet" in refusal(points, "--plot")
    assert "--plot takes no other" in refusal(points, "--plot", "--seed", "1")


def test_points_are_drawn_and_tabulated(scripts, tmp_path):
    tables, points = scripts.tables, scripts.points
    assert tables.temperature_and_batch().startswith("Not measured: `python scripts/")
    found = [
        {
            "temperature": t,
            "batch_size": n,
            "learning_rate": 1e-3,
            "steps": 100,
            "knn_200": accuracy,
        }
        for t, n, accuracy in ((0.5, 64, 0.4), (0.1, 64, 0.5), (0.1, 1024, 0.45))
    ]
    values = {"data": "npz:a.npz", "encoder": "e", "images": 64, "held_out": 40}
    points._results.write("temperature_and_batch", {**values, "points": found})
    assert points.main(["--plot"]) == 0
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")
    rows = tables.temperature_and_batch().splitlines()
    assert rows[2:4] == [
        "| 64 | 0.001 | 100 | **50.0** | 40.0 |",
        "| 1,024 | 0.001 | 100 | **45.0** |  |",
    ]


def test_table_of_methods_has_the_best_above_and_the_untrained_below(scripts, tmp_path):
    methods, tables = scripts.methods, scripts.tables
    assert tables.methods().startswith("Not measured: `python scripts/")
    (tmp_path / "methods").mkdir()

    def write(method, seed, knn, **others):
        few = {str(count): {"mean": 0.2} for count in (1, 5, 10, 100)}
        values = {
            "method": method,
            "encoder": "e",
            "steps": 0,
            "seconds": 0.0,
            "knn_200": knn,
            "knn_200_whitened": knn + 0.05,
            "linear_probe": knn + 0.1,
            "linear_probe_images": 10_000,
            "few_label": few,
            **others,
        }
        name = f"methods/cifar10_jpeg-{method}-seed{seed}"
        methods._results.write(name, values, seed=seed)

    trained = {
        "steps": 10,
        "seconds": 150.0,
        "batch_size": 256,
        "learning_rate": 0.003,
        "budget_seconds": methods.SECONDS,
    }
    write("simclr", 0, 0.50, **trained)
    write("simclr", 1, 0.52, **trained)
    write("bad", 0, 0.20, **trained)
    write("pixels", 0, 0.60, encoder=None)
    write("untrained", 0, 0.30)
    rows = tables.methods().splitlines()
    few = "20.0 | 20.0 | 20.0 | 20.0"
    of_two = few.replace("20.0", "20.0 ± 0.0")
    assert rows[2:6] == [
        f"| simclr | 0.003 | 51.0 ± 1.0 | 56.0 ± 1.0 | 61.0 ± 1.0 | {of_two} | 150 | 10 |",
        f"| bad | 0.003 | 20.0 | 25.0 | 30.0 | {few} | 150 | 10 |",
        f"| untrained |  | 30.0 | 35.0 | 40.0 | {few} |  |  |",
        f"| pixels |  | 60.0 | 65.0 | 70.0 | {few} |  |  |",
    ]
    assert "over seeds (simclr: 2), one seed elsewhere" in rows[-1]
    assert "steps as 120 seconds have" in rows[-1] and "of 10,000, with" in rows[-1]
    write("other", 0, 0.4, **{**trained, "budget_seconds": 9.0})  # has no place here
    assert tables.methods().splitlines() == rows
    write("bad", 0, 0.20, **{**trained, "batch_size": 128})
    with pytest.raises(ValueError, match="one batch_size"):
        tables.methods()


def test_table_of_few_labels_compares_runs_of_the_same_length(scripts, tmp_path):
    methods, tables = scripts.methods, scripts.tables
    assert tables.semi_labelled().startswith("Not measured: `python scripts/")
    (tmp_path / "few_labels").mkdir()

    def write(method, known_labels, steps=390):
        values = {
            "method": method,
            "encoder": "e",
            "steps": steps,
            "learning_rate": 0.003,
            "knn_200": 0.5,
            "known_labels": known_labels,
        }
        name = f"few_labels/cifar10_jpeg-{method}-10-{steps}steps-seed0"
        methods._results.write(name, values)

    write("simclr", 0.3)
    write("supcon", 0.4)
    write("supervised", 0.2)
    row = "| 10 | CIFAR-10, JPEG re-encoded | 30.0 / 50.0 | 40.0 / 50.0 | 20.0 / 50.0 |"
    assert row in tables.semi_labelled()
    assert "--steps 390`" in tables.semi_labelled()
    (tmp_path / "few_labels" / "cifar10_jpeg-simclr-10-390steps-seed0.json").unlink()
    write("simclr", 0.3, steps=400)
    assert tables.semi_labelled().startswith("Not measured")


def test_points_train_at_their_temperature(scripts, data, monkeypatch):
    training, points = scripts.training, scripts.points
    temperatures = []
    monkeypatch.setattr(
        training,
        "fit",
        lambda model, *_: temperatures.append(model.loss_layer.loss.temperature),
    )
    words = ["--data", data, "--images", "64", "--batch-sizes", "32"]
    assert points.main([*words, "--temperatures", "0.07", "0.7"]) == 0
    assert temperatures == pytest.approx([0.07, 0.7])


def test_views_of_fast_are_timed_at_both_their_sizes(modules):
    part = kc.data.Part(np.zeros([2, 32, 32, 3], np.uint8), np.zeros(2, np.int64))
    for steps, side in ((1000, 16), (1, 24)):
        recipe = modules.training.views_of(part, "fast", steps)
        views = kc.augment.views(part.images, 2, recipe, seed=0, step=0)
        assert views.shape == (2, 2, side, side, 3)
