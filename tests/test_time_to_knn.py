"""The benchmark of accuracy against time: what it refuses, that a short run of each framework gives a result."""

import json
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_contrastive as kc
from keras_contrastive._compat import KERAS_3

pytestmark = pytest.mark.skipif(not KERAS_3, reason="benchmarks run on the main line")

ROOT = Path(kc.__file__).resolve().parents[1]
PEERS = ROOT / ".venv-benchmarks" / "bin" / "python"


@pytest.fixture(scope="module")
def scripts():
    folders = [str(ROOT / "scripts" / "benchmarks"), str(ROOT / "scripts")]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture
def benchmark(scripts, tmp_path, monkeypatch):
    """The script, quick, with results in a folder of the test's own."""
    import _results
    import time_to_knn

    monkeypatch.setattr(_results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(time_to_knn, "MARKS", (0, 0.2))
    monkeypatch.setattr(time_to_knn, "TIMED_SECONDS", 0.1)
    monkeypatch.setattr(time_to_knn, "import_quietly", lambda: None)
    return time_to_knn


@pytest.fixture
def spec(tmp_path):
    """Random images, just enough of them for 200 neighbours."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 240), ("test", 20)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 2, (count, 1))
    np.savez(tmp_path / "tiny.npz", **arrays)
    return f"npz:{tmp_path / 'tiny.npz'}"


def in_this_process(benchmark, monkeypatch):
    """To start TensorFlow in another process takes longer than the run."""

    import _simclr_keras

    monkeypatch.setattr(_simclr_keras, "import_quietly", lambda: None)

    def ask(job, folder):
        (folder / "job.json").write_text(json.dumps(job))
        return _simclr_keras.work(json.loads((folder / "job.json").read_text()), folder)

    monkeypatch.setattr(benchmark, "ask", ask)


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "--data and --run are needed"),
        (["--data", "cifar10", "--run", "simclr"], "must be npz:FILE"),
        (["--data", "npz:a.npz", "--run", "simsiam"], "invalid choice"),
        (
            ["--data", "npz:a.npz", "--run", "simclr", "--seconds", "0.5"],
            "must be >= 1",
        ),
        (["--data", "npz:a.npz", "--run", "simclr", "--workers", "1"], "--workers is"),
        (
            ["--data", "npz:a.npz", "--speed", "--run", "simclr"],
            "or --data and --speed",
        ),
        (["--data", "npz:a.npz", "--speed", "--hold-out"], "--speed goes with --data"),
        (
            ["--data", "npz:a.npz", "--speed", "--precision", "bfloat16"],
            "--speed goes with --data",
        ),
        (
            ["--data", "npz:a.npz", "--run", "fast", "--variant", "no_growth"],
            "--variant is for --run fast with --hold-out",
        ),
        (
            ["--data", "npz:a.npz", "--run", "lightly", "--min-area", "0.2"],
            "--min-area: settings are chosen on held-out images",
        ),
        (
            "--data npz:a.npz --run lightly_defaults --hold-out --strength 1".split(),
            "lightly_defaults has settings of its own",
        ),
    ],
)
def test_wrong_options_are_refused_in_one_line(benchmark, capsys, options, said):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(options)
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1


def test_settings_on_held_out_images_are_part_of_the_name(benchmark):
    options = "--data npz:/a/b.npz --run lightly --seconds 90 --hold-out --temperature 0.1 --optimizer sgd"
    name = benchmark.result_name(benchmark.parse_args(options.split()))
    assert name == "time_to_knn/tuning/b-lightly-temperature0.1-sgd-90s-seed0"


def test_precision_is_part_of_the_name_where_it_is_not_the_usual_one(benchmark):
    options = "--data npz:/a/b.npz --run simclr --precision".split()
    names = [
        benchmark.result_name(benchmark.parse_args([*options, precision]))
        for precision in ("float32", "bfloat16")
    ]
    assert names == [
        "time_to_knn/b-simclr-600s-seed0",
        "time_to_knn/b-simclr-bfloat16-600s-seed0",
    ]


def test_result_that_is_there_is_not_made_again(benchmark, spec, tmp_path, capsys):
    there = tmp_path / "results" / "time_to_knn" / "tiny-simclr-600s-seed0.json"
    there.parent.mkdir(parents=True)
    there.write_text("{}")
    assert benchmark.main(["--data", spec, "--run", "simclr"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert there.read_text() == "{}"


def test_worker_that_fails_leaves_one_line_and_no_result(
    benchmark, tmp_path, monkeypatch
):
    worker = tmp_path / "_simclr_keras.py"
    worker.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(benchmark, "HERE", tmp_path)
    job = {"run": "simclr", "threads": 2}
    with pytest.raises(benchmark.Failure, match=r"^simclr: .* exit code 3\.$"):
        benchmark.ask(job, tmp_path)


def test_run_that_needs_a_compiler_says_so(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark._workers, "PEERS", Path(sys.executable))
    monkeypatch.setattr(benchmark.shutil, "which", lambda name: None)
    job = {"run": "pytorch_compiled", "threads": 2}
    with pytest.raises(benchmark.Failure, match=r"^pytorch_compiled needs g\+\+\.$"):
        benchmark.ask(job, tmp_path)


@pytest.mark.parametrize("name", ["simclr", "fast"])
def test_short_run_gives_a_result(benchmark, spec, tmp_path, monkeypatch, name):
    in_this_process(benchmark, monkeypatch)
    options = ["--run", name, "--seconds", "1", "--batch-size", "16"]
    assert benchmark.main(["--data", spec, *options]) == 0
    check_result(tmp_path / f"results/time_to_knn/tiny-{name}-batch16-1s-seed0.json")


def test_short_run_in_bfloat16_computes_in_it(benchmark, spec, tmp_path, monkeypatch):
    in_this_process(benchmark, monkeypatch)
    import _simclr_keras

    seen = []
    make = _simclr_keras._simclr

    def noted(*args):
        model = make(*args)
        seen.append(model.encoder.layers[1].compute_dtype)
        return model

    monkeypatch.setattr(_simclr_keras, "_simclr", noted)
    options = "--run simclr --seconds 1 --batch-size 16 --precision bfloat16"
    try:
        assert benchmark.main(["--data", spec, *options.split()]) == 0
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert set(seen) == {"bfloat16"}
    name = "tiny-simclr-bfloat16-batch16-1s-seed0.json"
    assert check_result(tmp_path / "results/time_to_knn" / name)["precision"] == (
        "bfloat16"
    )


def test_convolutions_alone_are_timed(benchmark, spec, monkeypatch, tmp_path):
    """Three passes of all four, less the gradient of the inputs of the first."""
    in_this_process(benchmark, monkeypatch)
    import _simclr_keras

    times, forward_seconds = {}, _simclr_keras.forward_seconds

    def noted(job, shape, depth):
        times[depth] = forward_seconds(job, shape, depth)
        return times[depth]

    monkeypatch.setattr(_simclr_keras, "forward_seconds", noted)
    options = ["--data", spec, "--speed"]
    job = benchmark.new_job(
        benchmark.parse_args(options), "convolutions", {}, "float32"
    )
    found = benchmark.ask(job, tmp_path)
    assert times.keys() == {1, 4} and min(times.values()) > 0
    assert found == {"seconds_per_step": 3 * times[4] - times[1]}


@pytest.mark.skipif(not PEERS.exists(), reason="needs `make venv-benchmarks`")
@pytest.mark.parametrize(
    "precision, part", [("float32", ""), ("bfloat16", "-bfloat16")]
)
def test_short_run_of_lightly_gives_a_result(
    benchmark, spec, tmp_path, precision, part
):
    options = "--run lightly --seconds 1 --batch-size 16 --workers 0 --hold-out"
    options += f" --temperature 0.3 --precision {precision}"
    assert benchmark.main(["--data", spec, *options.split()]) == 0
    name = f"tiny-lightly{part}-temperature0.3-batch16-workers0-1s-seed0.json"
    result = check_result(tmp_path / "results/time_to_knn/tuning" / name)
    assert result["settings"]["temperature"] == 0.3
    assert result["peers"].keys() == {"torch", "torchvision", "lightly"}


def check_result(path) -> dict:
    result = json.loads(path.read_text())
    first, last = result["marks"][0], result["marks"][-1]
    if not result["hold_out"]:  # there the end alone is looked at
        assert (first["seconds"], first["step"], first["loss"]) == (0, 0, None)
    assert last["step"] == result["steps"] and last["seconds"] == result["seconds"]
    # The largest that NT-Xent of 32 views can be, whatever the features are; `fast` has its own temperature.
    temperature = result["settings"].get("temperature", 0.2)
    assert 0 < last["loss"] < math.log(31) + 2 / temperature
    assert 0 <= last["knn_200"] <= 1
    seen = 2 * 16 * result["steps"]
    assert result["views_per_second"] == pytest.approx(seen / result["seconds"])
    return result


def test_held_out_images_are_a_tenth_and_not_trained_on(scripts, tmp_path):
    import _fixed_time

    number = np.arange(100, dtype=np.uint8)
    images = np.broadcast_to(number[:, None, None, None], (100, 4, 4, 3))
    path = tmp_path / "numbers.npz"
    np.savez(path, x_train=images, y_train=number, x_test=images, y_test=number)
    found = _fixed_time.load(str(path), hold_out=True)
    assert len(found.queries) == 10
    assert {*found.train_labels, *found.query_labels} == {*range(100)}
    np.testing.assert_array_equal(found.train[:, 0, 0, 0], found.train_labels)


def test_learning_rate_of_the_peers_is_that_of_the_recipes(scripts):
    import _fixed_time

    ours = kc.optimizers.WarmupCosine(0.002, 100, warmup_steps=5)
    for step in range(101):
        expected = float(ours(step))
        found = _fixed_time.learning_rate(step, 100, 0.002)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_encoders_of_both_frameworks_have_the_same_parameters(benchmark):
    import _fixed_time
    import _simclr_keras

    encoder = _simclr_keras.shared_encoder((32, 32, 3))
    ours = sum(int(np.prod(weight.shape)) for weight in encoder.trainable_weights)
    # 9 (3 32 + 32 64 + 64 128 + 128 256) kernels, and 2 (32 + 64 + 128 + 256) of the normalisations.
    assert ours == _fixed_time.encoder_parameters() == 387_936 + 960
    if not PEERS.exists():
        pytest.skip("ours is right; PyTorch's needs `make venv-benchmarks`")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts' / 'benchmarks')!r})\n"
        "import _simclr_torch as s; print(sum(p.numel() for p in s.shared_encoder().parameters()))"
    )
    found = subprocess.run([PEERS, "-c", code], capture_output=True, text=True)
    assert int(found.stdout) == ours


@pytest.mark.skipif(not PEERS.exists(), reason="needs `make venv-benchmarks`")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_of_the_peers_compute_in_the_precision(precision):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts" / "benchmarks")!r})
import _simclr_torch, torch
settings = dict(hidden_dim=8, optimizer="adam", learning_rate=0.1, temperature=0.1)
for form in (_simclr_torch.Lightly, _simclr_torch.Fast):
    trainer = form(dict(run="pytorch", seed=0, precision={precision!r}, settings=settings), 1)
    hook = lambda layer, inputs, outputs: print(outputs.dtype)
    trainer.encoder[0].register_forward_hook(hook)
    print(trainer.project(torch.rand(4, 3, 16, 16)).dtype)
"""
    done = subprocess.run([PEERS, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == 2 * [f"torch.{precision}", "torch.float32"]


def test_picture_is_drawn_of_the_results_that_are_there(
    benchmark, tmp_path, monkeypatch
):
    folder = tmp_path / "results" / "time_to_knn"
    folder.mkdir(parents=True)
    # One is of another batch size, which is not drawn.
    for name in (
        "a-simclr-60s-seed0",
        "a-simclr-60s-seed1",
        "a-lightly-30s-seed0",
        "a-simclr-batch64-60s-seed0",
        "a-simclr-bfloat16-60s-seed0",
    ):
        marks = [{"seconds": s, "knn_200": s / 100} for s in (0, 30, 61)]
        (folder / f"{name}.json").write_text(json.dumps({"marks": marks}))
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(benchmark, "PICTURE", picture)
    assert benchmark.main(["--plot"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    figure = benchmark.drawn(benchmark.results("a"), dashed=", bfloat16")
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    styles = [line.get_linestyle() for line in thick]
    assert styles == ["-", "--", "-"]
    colours = [line.get_color() for line in thick]
    assert colours[0] == colours[1] != colours[2]
    found = benchmark.results("a")
    assert [*found] == ["simclr", "simclr, bfloat16", "lightly"]
    assert [len(found["simclr"][60.0]), len(found["lightly"][30.0])] == [2, 1]


def test_speeds_are_taken_in_turns(benchmark, spec, tmp_path, monkeypatch):
    asked = []

    def ask(job, folder):
        asked.append((job["run"], job["precision"]))
        assert job["only_speed"]
        return {"seconds_per_step": 0.5 * len(asked)}

    monkeypatch.setattr(benchmark, "ask", ask)
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark._workers, "peer_versions", lambda *names: {})
    (tmp_path / "results").mkdir()
    assert benchmark.main(["--data", spec, "--speed"]) == 0
    names = [*(name for name in benchmark.RUNS if name != "fast"), "convolutions"]
    forms = [(name, p) for p in ("float32", "bfloat16") for name in names]
    assert asked == 2 * forms
    result = json.loads((tmp_path / "results" / "views_per_second.json").read_text())
    # 512 views in a step of half a second, and so on.
    assert result["views_per_second"]["simclr"] == [
        1024,
        512 / (0.5 * (len(forms) + 1)),
    ]
    assert "PyTorch, compiled, bfloat16" in result["views_per_second"]


def test_tables_of_the_readme_show_the_results(benchmark, tmp_path):
    import readme_tables as tables

    assert tables.time_to_knn().startswith("Not measured: `python scripts/")
    assert tables.tuning().startswith("Not measured: `python scripts/")
    assert tables.fast().startswith("Not measured: `python scripts/")
    assert tables.views_per_second().startswith("Not measured: `python scripts/")
    folder = tmp_path / "results" / "time_to_knn" / "tuning"
    folder.mkdir(parents=True)

    def write(name, run, **others):
        marks = [
            {"seconds": s, "knn_200": accuracy} for s, accuracy in ((0, 0.1), (65, 0.5))
        ]
        values = {"run": run, "seconds": 65.0, "steps": 9, "marks": marks}
        tables._results.write(f"time_to_knn/{name}", {**values, **others})

    settings = {**benchmark.SHARED, "temperature": 0.4}
    write("tuning/cifar10_jpeg-lightly-a-60s-seed0", "lightly", settings=settings)
    sgd = {**settings, "optimizer": "sgd"}
    write("tuning/cifar10_jpeg-simclr-b-60s-seed0", "simclr", settings=sgd)
    halves = {"settings": settings, "precision": "bfloat16"}
    write("tuning/cifar10_jpeg-simclr-bfloat16-c-60s-seed0", "simclr", **halves)
    assert tables.tuning().splitlines()[2:4] == [
        "| 0.4 | 0.003 | 30 % |  | 50.0 (65 s) |",
        "",
    ]
    write("tuning/cifar10_jpeg-fast-60s-seed0", "fast")
    assert "| `fast` | 50.0 | 9 | 65 |" in tables.fast()
    write(
        "cifar10_jpeg-fast-60s-seed0",
        "fast",
        views_per_second=2000.0,
        batch_size=256,
        threads=2,
    )
    assert "| fast | 65 | 2,000 |  |  |  | **50.0** |" in tables.time_to_knn()
    write(
        "cifar10_jpeg-fast-bfloat16-60s-seed0",
        "fast",
        views_per_second=3000.0,
        batch_size=256,
        threads=2,
        precision="bfloat16",
        marks=[{"seconds": 0, "knn_200": 0.3}, {"seconds": 65, "knn_200": 0.6}],
    )
    table = tables.time_to_knn()
    assert "| fast, bfloat16 | 65 | 3,000 |  |  |  | **60.0** |" in table
    assert "untrained, `fast` has 10.0," in table  # in float32
    speeds = {
        "simclr": [200.0, 300.0, 400.0],
        "lightly": [100.0, 100.0, 100.0],
        "simclr, bfloat16": [400.0, 900.0, 1200.0],
    }
    tables._results.write("views_per_second", {"views_per_second": speeds})
    table = tables.views_per_second()
    assert "| lightly | 100 | 3.00 | 9.00 |" in table
    assert "| simclr | 300 |  | 3.00 |" in table
