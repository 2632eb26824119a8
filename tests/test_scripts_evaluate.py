"""`scripts/evaluate.py` as people type it: one run, several, other data, classes never seen, no labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_contrastive as kc
from tests.test_scripts import QUICK, ROOT, call, write_quarters


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return write_quarters(tmp_path_factory.mktemp("data") / "quarters.npz")


def trained(npz, out, *options):
    assert call("train", "--data", f"npz:{npz}", *QUICK, "--out", out, *options) == 0
    return out


@pytest.fixture(scope="module")
def runs(npz, tmp_path_factory):
    """Two runs on the same images, one in a folder with a name that is markup."""
    folder = tmp_path_factory.mktemp("runs")
    first = trained(npz, folder / "first")
    return first, trained(npz, folder / "<b>second", "--seed", "1")


def evaluation_in(folder):
    return json.loads((folder / "evaluation.json").read_text())


def report_in(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_evaluation_of_a_run_is_written_beside_its_table(runs, capsys):
    first, _ = runs
    assert call("evaluate", first) == 0
    shown = capsys.readouterr()
    found = evaluation_in(first)
    metrics = json.loads((first / "metrics.json").read_text())
    assert found["few_label"] == metrics["few_label"]  # measured again, equal
    assert found["knn"] == metrics["knn"]
    for measure in ("linear_probe", "retrieval", "clustering", "geometry"):
        assert set(found[measure]) == {"pixels", "untrained", "trained"}
    assert found["geometry"]["trained"]["alignment"] > 0
    low, high = found["intervals"]["linear_probe"]["trained"]
    assert 0 <= low <= found["linear_probe"]["trained"] <= high <= 1
    against = {(each["first"], each["second"]) for each in found["comparisons"]}
    assert against == {("untrained", "trained"), ("pixels", "trained")}
    assert found["command"] == f"python scripts/evaluate.py {first}"
    assert set(found["versions"]) == {"python", "tensorflow", "keras"}
    assert found["verdicts"]["trained"] in shown.out
    assert f"{100 * found['linear_probe']['trained']:.1f}" in shown.out
    assert "report.html" in shown.out


def test_report_of_a_run_shows_what_it_was(runs):
    html = report_in(runs[0])
    for text in (
        "simclr",
        "conv_net",
        "48 images",
        "Map of the test images",
        "Training",
    ):
        assert text in html, text
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", html)


def test_several_runs_are_reported_in_their_folder_without_alarming(runs):
    """In a process of its own, as a user sees it."""
    command = [sys.executable, "scripts/evaluate.py", *map(str, runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alarming = r"(?i)warning|error|traceback|deprecat|could not|failed|unable|retrac"
    assert not re.search(alarming, done.stdout + done.stderr), done.stderr
    assert (runs[0].parent / "report.html").is_file()
    assert set(evaluation_in(runs[0].parent)["runs"]) == {"first", "<b>second"}


def test_several_runs_are_compared_in_one_table(runs, tmp_path, capsys):
    assert call("evaluate", *runs, "--out", tmp_path / "both") == 0
    shown = capsys.readouterr().out
    found = evaluation_in(tmp_path / "both")
    starts = ["untrained, seed 0", "untrained, seed 1"]
    assert list(found["knn"]) == ["pixels", *starts, "first", "<b>second"]
    for each in found["comparisons"]:
        assert (each["first"], each["second"]) == ("first", "<b>second")
        knn = found[{"kNN": "knn", "linear probe": "linear_probe"}[each["measure"]]]
        difference = knn["<b>second"] - knn["first"]
        assert each["difference"] == pytest.approx(difference)
        assert each["low"] <= each["difference"] <= each["high"]
    assert {each["measure"] for each in found["comparisons"]} == {"kNN", "linear probe"}
    assert "<b>second against first by kNN" in shown
    html = report_in(tmp_path / "both")
    assert "<b>second" not in html and "&lt;b&gt;second" in html
    # Each run has a report of its own as well.
    for run, name, start in zip(runs, ("first", "<b>second"), starts):
        own = evaluation_in(run)
        assert list(own["knn"]) == ["pixels", start, name]
        assert own["knn"][name] == found["knn"][name]


def test_runs_that_held_out_other_images_share_the_table_and_are_not_compared(
    npz, runs, tmp_path, capsys
):
    whole = tmp_path / "whole.npz"
    arrays = np.load(npz)
    np.savez(whole, x_train=arrays["x_train"], y_train=arrays["y_train"])
    seeds = [
        trained(whole, tmp_path / f"seed{seed}", "--seed", seed) for seed in (0, 1)
    ]
    assert call("evaluate", *seeds) == 0
    assert "other test images, so not compared" in capsys.readouterr().err
    found = evaluation_in(tmp_path)
    assert {"seed0", "seed1"} < set(found["knn"]) and len(found["knn"]) == 6
    assert len({name for name in found["knn"] if name.startswith("pixels")}) == 2
    assert found["comparisons"] == []
    # On other images both are judged by the same ones.
    assert call("evaluate", *seeds, "--data", f"npz:{npz}") == 0
    assert len(evaluation_in(tmp_path)["comparisons"]) == 2


def test_run_that_went_on_from_weights_is_compared_with_them(npz, runs, tmp_path):
    run = trained(npz, tmp_path / "run", "--init", runs[0])
    assert call("evaluate", run) == 0
    found = evaluation_in(run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(found["knn"]) == {"pixels", "before", "trained"}
    assert found["few_label"] == metrics["few_label"]
    start = keras.models.load_model(runs[0] / "model.keras")
    rows = start.predict(np.load(npz)["x_test"][..., None], verbose=0)
    uniformity = found["geometry"]["before"]["uniformity"]
    assert uniformity == pytest.approx(kc.evaluation.uniformity(rows), abs=1e-4)


def test_classes_never_seen_are_judged_by_search(npz, tmp_path, capsys):
    run = trained(npz, tmp_path / "run", "--split", "classes")
    assert "precision@1" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert "knn" not in metrics
    assert call("evaluate", run) == 0
    found = evaluation_in(run)
    assert found["retrieval"] | metrics["retrieval"] == found["retrieval"]
    assert "knn" not in found
    # Other data come with a split of their own.
    other = shutil.copy(npz, tmp_path / "other.npz")
    assert call("evaluate", run, "--data", f"npz:{other}") == 0
    assert "knn" in evaluation_in(run)


def test_run_without_labels_is_reported_with_its_geometry(npz, tmp_path, capsys):
    arrays = dict(np.load(npz))
    unlabelled = tmp_path / "unlabelled.npz"
    np.savez(unlabelled, x_train=arrays["x_train"], x_test=arrays["x_test"])
    run = trained(unlabelled, tmp_path / "run")
    assert call("evaluate", run) == 0
    assert "There are no labels to judge it by." in capsys.readouterr().out
    assert set(evaluation_in(run)["geometry"]) == {"pixels", "untrained", "trained"}
    assert "Map of the test images" in report_in(run)


def test_fine_tuning_and_the_sgd_probe_come_when_asked_for(
    runs, tmp_path, capsys, monkeypatch
):
    given = []

    def quick(name):
        original = getattr(kc.evaluation, name)

        def replaced(encoder, *arguments, **options):
            given.append((name, options.get("share"), len(arguments[0])))
            return original(encoder, *arguments, **options, epochs=1)

        monkeypatch.setattr(kc.evaluation, name, replaced)

    quick("fine_tune")
    quick("sgd_probe")
    options = ("--fine-tune", "--sgd-probe", "--out", tmp_path)
    assert call("evaluate", runs[0], *options) == 0
    found = evaluation_in(tmp_path)
    assert set(found["fine_tune"]["trained"]) == {"0.01", "0.1", "1"}
    assert (
        set(found["sgd_probe"]) == set(found["fine_tune"]) == {"untrained", "trained"}
    )
    assert f"{100 * found['sgd_probe']['trained']:.1f}" in capsys.readouterr().out
    assert ("fine_tune", 0.1, 48) in given and ("sgd_probe", None, 48) in given


def test_collapse_in_training_is_told_in_the_report(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    line = "The representation collapsed in epoch 1: projection_rank is 1.02."
    (run / "warnings.txt").write_text(f"{line}\n")
    assert call("evaluate", run) == 0
    assert line in evaluation_in(run)["warnings"]["trained"]
    assert line in report_in(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{first}", "{first}/"], "named twice"),
        (["{first}", "nowhere"], "'nowhere' is not a run folder"),
        (["{first}", "--out", "{npz}"], "is a file"),
        (["{first}", "{copy}"], "say with --out where to write"),
        (["{first}", "--data", "npz:{coloured}"], "takes images of shape"),
    ],
    ids=["twice", "no run", "out", "parents", "shape"],
)
def test_bad_use_gives_one_line_and_exit_code_2(
    runs, npz, arguments, message, tmp_path, capsys
):
    coloured = tmp_path / "coloured.npz"
    np.savez(coloured, x_train=np.zeros((9, 8, 8, 3), np.uint8))
    copy = tmp_path / "copy"
    if "{copy}" in arguments:
        shutil.copytree(runs[0], copy)
    known = {"first": runs[0], "npz": npz, "coloured": coloured, "copy": copy}
    assert call("evaluate", *(each.format(**known) for each in arguments)) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert message in last and last.startswith("error: ")
