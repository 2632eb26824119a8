"""Judging finished runs: from their folders to a table, evaluation.json and report.html. Imported after TensorFlow."""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from _console import Failure, note, read_lines
from _run_folder import COLLAPSED
from _training import (
    features_of,
    judged_by,
    load_as,
    make_recipe,
    some_views,
    weights_file,
)
from rich.console import Console

import keras_contrastive as kc

SHARES = (0.01, 0.1, 1.0)  # of the labels, for fine-tuning
ALIGNED = 512  # how many test images give the alignment of views
MOST_PAIRED = 5  # of so many runs every pair is compared, of more each with the first
TITLES = {"knn": "kNN", "linear_probe": "linear probe"}


class Finished:
    """A finished run: its model, its configuration, and the images that it is judged by."""

    def __init__(self, folder, data: str | None, seed: int | None, sources: dict):
        self.folder, self.config = folder, folder.read("config.json")
        self.model = keras.models.load_model(folder.model_file())
        self.shape = tuple(self.config["image_shape"])
        size = self.config["image_size"] if data is None else self.shape[0]
        self.options = {**self.config, "image_size": size}
        if data not in (None, self.config["data"]):  # split alike for all runs
            seed = self.config["seed"] if seed is None else seed
            self.options |= {"data": data, "split": "examples", "seed": seed}
        self.source = self._source(sources)
        if self.source.train.image_shape != self.shape:
            raise Failure(
                f"The encoder of '{folder}' takes images of shape {self.shape}. "
                f"Received: {self.source.train.image_shape} from {self.options['data']}."
            )

    def _source(self, sources: dict) -> kc.data.Source:
        """The source, one and the same for all runs whose images are the same."""
        source = judged_by(load_as(self.options), self.options["data"])
        parts = (source.train, source.test)
        key = tuple(
            (part.fingerprint, None if part.labels is None else part.labels.tobytes())
            for part in parts
        )
        return sources.setdefault(key, source)

    @property
    def starts_from_weights(self) -> bool:
        """Whether the training went on from weights that are still there."""
        init = self.config.get("init")
        return init is not None and Path(init).exists()

    def before(self) -> keras.Model:
        """The encoder with the weights of before the training: random, or those it went on from."""
        keras.mixed_precision.set_global_policy(self.config["precision"])
        keras.utils.set_random_seed(self.config["seed"])
        encoder = kc.encoders.get(self.config["encoder"])(
            self.model.encoder.input_shape[1:]
        )
        if self.starts_from_weights:
            kc.encoders.load_weights(encoder, weights_file(self.config["init"]))
        return kc.ContrastiveModel(encoder, kc.losses.NTXentLoss())

    @property
    def recipe(self):
        """What draws the run's views; None where its version has no such recipe."""
        try:
            return make_recipe(self.config, self.shape[0])
        except ValueError:
            return None

    def aligned(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The features of two views of some test images."""
        if self.recipe is None:
            return None
        images = self.source.test.images
        some = np.random.default_rng(0).permutation(len(images))[:ALIGNED]
        features = []
        for step, rows in enumerate(np.array_split(some, -(-len(some) // 64))):
            views = kc.augment.views(
                images[rows], 2, self.recipe, self.config["seed"], step
            )
            views = views[0] if isinstance(views, tuple) else views
            if tuple(views.shape[2:4]) != self.shape[:2] or self.recipe.normalizes:
                return None
            both = views.numpy().reshape(-1, *self.shape)
            features.append(self.model.predict(both, batch_size=128, verbose=0))
        features = np.concatenate(features)
        return features[0::2], features[1::2]

    def shown_views(self) -> tuple | None:
        """Some images with the views of them that the run was trained on."""
        if self.recipe is None:
            return None
        return some_views(self.source.train, self.recipe, self.config["seed"])

    def history(self) -> dict:
        """Lists over the epochs by name."""
        if (self.folder / "metrics.json").is_file():
            return self.folder.read("metrics.json").get("history", {})
        return {}

    def seconds(self) -> float | None:
        if (self.folder / "metrics.json").is_file():
            return self.folder.read("metrics.json").get("seconds")
        return None

    def warnings(self) -> list[str]:
        """What the training had to say, and how many files it could not read."""
        found = []
        if (self.folder / "warnings.txt").is_file():
            found += read_lines(self.folder / "warnings.txt")
        if self.config.get("init") is not None and not self.starts_from_weights:
            found.append(
                f"The weights that the run went on from, '{self.config['init']}', are gone; it is compared with random ones."
            )
        if (self.folder / "skipped.txt").is_file():
            skipped = read_lines(self.folder / "skipped.txt")
            found.append(
                f"{len(skipped)} files or records could not be read; the first: {skipped[0]}"
            )
        return found


def judge(
    folders, *, data, out, sgd_probe: bool, fine_tune: bool, command: str
) -> None:
    """Judge runs, print the table, and write what the script promises."""
    sources: dict = {}
    runs = []
    for folder in folders:
        note(f"reading {folder}")
        seed = runs[0].config["seed"] if runs else None
        runs.append(Finished(folder, data, seed, sources))
    judged = {}
    for source, where in zip(sources.values(), _places(runs, sources)):
        together = [run for run in runs if run.source is source]
        judged |= _judge_together(together, runs, where, sgd_probe, fine_tune)
    reports = [judged[run] for run in runs]
    measures = _joined({id(each.evaluation): each.evaluation for each in reports})
    comparisons = _comparisons(reports)
    _show(measures, reports, comparisons)
    if out is None and len(runs) > 1:
        out = runs[0].folder.path.resolve().parent  # that of all
    if out is not None:
        _write(out, reports, measures, comparisons, command)
    for run, report in zip(runs, reports) if out is None or len(runs) > 1 else ():
        _write(
            run.folder.path,
            [report],
            _own_measures(report),
            _against_untrained(report),
            command,
        )
    last = out if out is not None else runs[0].folder.path
    print(f"\nIn {last}: report.html (open it in a browser), evaluation.json")


def _places(runs, sources: dict) -> list[str]:
    """What the rows of each source are marked with: nothing where there is one."""
    if len(sources) == 1:
        return [""]
    firsts = [
        next(run for run in runs if run.source is source) for source in sources.values()
    ]
    names = [f", {run.options['data']} {run.shape[0]}" for run in firsts]
    # Of one name, but split by other seeds.
    return [
        f"{name}, seed {run.options['seed']}" if names.count(name) > 1 else name
        for name, run in zip(names, firsts)
    ]


def _judge_together(runs, all_runs, where: str, sgd_probe, fine_tune) -> dict:
    """Runs on the same images, in one evaluation: by run, its report."""
    source, alone = runs[0].source, len(all_runs) == 1
    models: dict = {}
    rows, baselines = {}, {}
    for run in runs:
        baselines[run] = f"{_baseline(run, all_runs)}{where}"
        if baselines[run] not in models:
            models[baselines[run]] = run.before()
    for run, name in zip(runs, _names(runs, all_runs)):
        rows[run] = "trained" if alone else name
        models[rows[run]] = run.model
    features = {f"pixels{where}": (source.train.images, source.test.images)}
    for name, model in models.items():
        note(f"features of {name}")
        features[name] = features_of(model, source)
    views = {rows[run]: run.aligned() for run in runs}
    evaluation = kc.report.evaluate(
        source,
        features,
        views={name: both for name, both in views.items() if both is not None},
        progress=lambda measure: note(f"measuring {measure}"),
    )
    if sgd_probe:
        _add_sgd_probe(evaluation, source, models, runs[0])
    if fine_tune:
        _add_fine_tuning(evaluation, source, models, runs[0])
    reports = {}
    for run in runs:
        shown = {
            baselines[run]: features[baselines[run]][1],
            rows[run]: features[rows[run]][1],
        }
        warnings = run.warnings()
        reports[run] = kc.report.Run(
            name=_names([run], all_runs)[0],
            row=rows[run],
            baseline=baselines[run],
            pixels=f"pixels{where}",
            evaluation=evaluation,
            config=run.config,
            history=run.history(),
            test=source.test,
            features=shown,
            views=run.shown_views(),
            warnings=warnings,
            collapsed=any(line.startswith(COLLAPSED) for line in warnings),
            seconds=run.seconds(),
        )
    return reports


def _baseline(run, all_runs) -> str:
    """What the encoder of before the training is called: by all in which those of the runs differ."""
    differing = [
        f"{key} {run.config.get(key)}"
        for key in ("encoder", "seed", "precision", "init")
        if len({str(other.config.get(key)) for other in all_runs}) > 1
    ]
    name = "before" if run.starts_from_weights else "untrained"
    return ", ".join([name, *differing])


def _names(runs, all_runs) -> list[str]:
    """What runs are called: the names of their folders, or where two are the same their paths."""
    short = [run.folder.path.resolve().name for run in all_runs]
    taken = {
        "trained",
        "pixels",
        "untrained",
        *(n for n in short if short.count(n) > 1),
    }
    return [
        str(run.folder)
        if len(all_runs) > 1 and run.folder.path.resolve().name in taken
        else run.folder.path.resolve().name
        for run in runs
    ]


def _add_sgd_probe(evaluation, source, models, run) -> None:
    known = _labelled(source)
    if known is None:
        return
    for name, model in models.items():
        note(f"sgd probe of {name}")
        result = kc.evaluation.sgd_probe(model.encoder, *known, augment=_one_view(run))
        evaluation.measures.setdefault("sgd_probe", {})[name] = result.accuracy


def _add_fine_tuning(evaluation, source, models, run) -> None:
    known = _labelled(source)
    if known is None:
        return
    for name, model in models.items():
        for share in SHARES:
            note(f"fine-tuning {name} on {100 * share:g} % of the labels")
            result = kc.evaluation.fine_tune(
                model.encoder, *known, share=share, augment=_one_view(run)
            )
            found = evaluation.measures.setdefault("fine_tune", {})
            found.setdefault(name, {})[f"{share:g}"] = result.accuracy


def _one_view(run):
    """Weak augmentation for training with labels; digits are never mirrored."""
    weak = "digits" if run.config["augment"] == "digits" else "weak"
    return kc.augment.get(weak)(run.shape[0])


def _labelled(source) -> tuple | None:
    """Train and test images with their labels; None where none is known, or no class is in both parts."""
    arrays = []
    for part in (source.train, source.test):
        rows = kc.report.labelled_rows(part)
        if len(rows) == 0:
            return None
        arrays += [part.images[rows], part.labels[rows]]
    if len(np.unique(arrays[1])) < 2 or not np.isin(arrays[3], arrays[1]).any():
        note("There are no two classes to train a classifier on.")
        return None
    return tuple(arrays)


def _joined(evaluations: dict) -> dict:
    """The measures of several evaluations in one, as if of one."""
    if len(evaluations) == 1:
        return next(iter(evaluations.values())).measures
    joined: dict = {}
    for evaluation in evaluations.values():
        for measure, by_name in evaluation.measures.items():
            if measure == "protocol":  # of each set of images its own
                joined.setdefault(measure, []).append(by_name)
            elif measure == "intervals":
                for accuracy, intervals in by_name.items():
                    joined.setdefault(measure, {}).setdefault(accuracy, {}).update(
                        intervals
                    )
            else:
                joined.setdefault(measure, {}).update(by_name)
    return joined


def _own_measures(report) -> dict:
    """The measures of one run: its own rows and what it is judged beside."""
    names = {report.row, report.baseline, report.pixels}

    def own(by_name):
        return {name: value for name, value in by_name.items() if name in names}

    found = {}
    for measure, by_name in report.evaluation.measures.items():
        if measure == "protocol":
            found[measure] = by_name
        elif measure == "intervals":
            found[measure] = {accuracy: own(each) for accuracy, each in by_name.items()}
        else:
            found[measure] = own(by_name)
    return found


def _against_untrained(report) -> list:
    found = []
    for other in (report.baseline, report.pixels):
        for measure, comparison in report.evaluation.compare(other, report.row).items():
            found.append((other, report.row, TITLES[measure], comparison))
    return found


def _comparisons(reports) -> list:
    """Every pair of runs on the same images; of one run, it and what it is judged beside."""
    if len(reports) == 1:
        return _against_untrained(reports[0])
    pairs = list(itertools.combinations(reports, 2))
    if len(reports) > MOST_PAIRED:
        pairs = [(reports[0], other) for other in reports[1:]]
    found = []
    for first, second in pairs:
        if first.evaluation is not second.evaluation:
            note(f"{first.name} and {second.name}: other test images, so not compared")
        else:
            compared = first.evaluation.compare(first.row, second.row)
            found += [
                (first.row, second.row, TITLES[measure], each)
                for measure, each in compared.items()
            ]
    return found


def _show(measures, reports, comparisons) -> None:
    """The table, and in a line each what it says."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(kc.report.table(measures))
    for report in reports:
        found = kc.report.verdict(report)
        name = "" if len(reports) == 1 else f"{report.name}: "
        print(f"{name}{found.headline} {found.reason}")
        for line in kc.report.warnings(report):
            print(f"note: {line}", file=sys.stderr)
    if len(reports) > 1:
        for first, second, measure, found in comparisons:
            said = "more than chance" if found.significant else "within chance"
            print(
                f"{second} against {first} by {measure}: {100 * found.difference:+.1f} points "
                f"({100 * found.low:+.1f} to {100 * found.high:+.1f}), p = {found.p_value:.3f}: {said}"
            )


def _write(folder: Path, reports, measures, comparisons, command: str) -> None:
    """evaluation.json and report.html, each in one go."""
    about = _about(command)
    record = {
        "runs": {
            report.row: {"name": report.name, "config": dict(report.config)}
            for report in reports
        },
        **measures,
        "comparisons": [
            {"first": first, "second": second, "measure": measure, **found._asdict()}
            for first, second, measure, found in comparisons
        ],
        "verdicts": {
            report.row: kc.report.verdict(report).headline for report in reports
        },
        "warnings": {report.row: kc.report.warnings(report) for report in reports},
        **about,
    }
    title = reports[0].name if len(reports) == 1 else "Runs compared"
    html = kc.report.page(
        reports,
        measures=measures,
        title=title,
        comparisons=comparisons,
        about=f"Made by {about['command']} with keras_contrastive {kc.__version__}, "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {
            "evaluation.json": json.dumps(record, indent=2) + "\n",
            "report.html": html,
        }.items():
            new = folder / f"{name}.tmp"
            new.write_text(text, encoding="utf-8", errors="replace")
            os.replace(new, folder / name)
    except OSError as error:
        raise Failure(f"'{folder}' cannot be written: {error.strerror}.") from error


def _about(command: str) -> dict:
    """How the figures were made."""
    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    return {
        "command": command,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "machine": {"cpus": os.cpu_count(), "gpus": gpus},
    }
