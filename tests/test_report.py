"""What a run's table, verdict and page are made of."""

from __future__ import annotations

import html.parser
import io
import json
import re

import numpy as np
import pytest

import keras_contrastive as kc
from keras_contrastive import report


def source(per_class, classes=3):
    labels = np.repeat(np.arange(classes), per_class)
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    part = kc.data.Part(images, labels)
    return kc.data.Source("made", part, part)


def text_of(table, width=160) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_perfect_and_useless_features_get_what_they_deserve():
    data = source(12)
    perfect = np.eye(3)[data.train.labels]
    useless = np.ones((36, 3))
    measures = report.measure(
        data, {"perfect": (perfect, perfect), "useless": (useless, useless)}
    )
    assert measures["knn"]["perfect"] == 1
    assert measures["few_label"]["perfect"]["1"] == {"mean": 1.0, "std": 0.0}
    assert measures["few_label"]["useless"]["10"]["mean"] == pytest.approx(1 / 3)


def test_columns_that_need_more_images_than_there_are_stay_out():
    features = np.ones((18, 2))
    measures = report.measure(source(6), {"some": (features, features)})
    assert list(measures["few_label"]["some"]) == ["1", "5"]


def test_images_of_unknown_class_are_left_out():
    labels = np.repeat([0, 1, -1], 12)
    part = kc.data.Part(np.zeros((36, 4, 4, 1), np.uint8), labels)
    # The known ones tell their classes perfectly; counted as a class, the unknown would be as good as random.
    features = np.eye(2)[np.where(labels >= 0, labels, np.arange(36) % 2)]
    measures = report.measure(
        kc.data.Source("made", part, part), {"some": (features, features)}
    )
    assert measures["knn"]["some"] == 1
    assert list(measures["few_label"]["some"]) == ["1", "5", "10"]


def test_unlabelled_images_have_no_measures():
    part = kc.data.Part(np.zeros((5, 4, 4, 1), np.uint8))
    assert report.measure(kc.data.Source("made", part, part), {}) == {}


def test_table_shows_percent_of_every_representation():
    cell = {"mean": 0.8764, "std": 0.0123}
    measures = {"few_label": {"pixels": {"1": cell, "5": cell}}, "knn": {"pixels": 0.5}}
    shown = text_of(report.table(measures))
    assert "87.6 ± 1.2" in shown and "50.0" in shown and "1 label per class" in shown


# --- evaluate


def images_of(labels, rng):
    """Grey images in which the class is the brighter column, and that is easy to see."""
    images = rng.integers(0, 60, (len(labels), 8, 8, 1))
    for image, label in zip(images, labels):
        image[:, 2 * label : 2 * label + 2] += 150
    return images.astype(np.uint8)


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    train, test = np.arange(120) % 4, np.arange(80) % 4
    names = ["<b>bold</b>", 'a "quoted" & one', "</script><script>alert(1)", "plain"]
    return kc.data.Source(
        "made",
        kc.data.Part(images_of(train, rng), train, names),
        kc.data.Part(images_of(test, rng), test, names),
    )


def features_of(source, quality, seed=0):
    """Features that tell the classes apart with a noise of 1 / quality."""
    rng = np.random.default_rng(seed)

    def of(part):
        rows = quality * np.eye(4)[part.labels]
        return rows + rng.normal(size=rows.shape)

    return of(source.train), of(source.test)


def judged(source, trained=8.0, untrained=0.7, **more):
    features = {
        "pixels": features_of(source, 2.0, 1),
        "untrained": features_of(source, untrained, 2),
        "trained": features_of(source, trained, 3),
    }
    return report.evaluate(source, features, **more), features


def run_of(source, evaluation, features, **options):
    known = {
        "name": "a run",
        "row": "trained",
        "baseline": "untrained",
        "evaluation": evaluation,
        "config": {"method": "simclr", "epochs": 12, "train_images": 120},
        "history": {},
        "test": source.test,
        "features": {name: features[name][1] for name in ("untrained", "trained")},
    }
    return report.Run(**{**known, **options})


@pytest.fixture(scope="module")
def good(made):
    return judged(made)


def test_evaluation_measures_every_representation_in_every_way(made, good):
    measures = good[0].measures
    names = {"pixels", "untrained", "trained"}
    for key in (
        "few_label",
        "knn",
        "linear_probe",
        "retrieval",
        "clustering",
        "geometry",
    ):
        assert set(measures[key]) == names, key
    assert "knn_200" not in measures  # 120 images are too few for 200 neighbours
    for name in names:
        low, high = measures["intervals"]["knn"][name]
        assert low <= measures["knn"][name] <= high
    quick = report.measure(made, good[1])
    assert {key: measures[key] for key in quick} == quick
    json.dumps(measures)  # plain numbers


def test_evaluation_predicts_what_its_accuracies_say(made, good):
    evaluation, _ = good
    for measure in ("knn", "linear_probe"):
        right = evaluation.right(measure, "untrained")
        assert right.mean() == evaluation.measures[measure]["untrained"]
        assert 0.2 < right.mean() < 0.95
    found = evaluation.compare("untrained", "trained")["knn"]
    knn = evaluation.measures["knn"]
    assert found.difference == pytest.approx(knn["trained"] - knn["untrained"])
    assert found.significant


def test_evaluation_without_labels_has_the_geometry_alone():
    part = kc.data.Part(np.zeros((9, 4, 4, 1), np.uint8))
    rows = np.random.default_rng(0).normal(size=(9, 3))
    evaluation = report.evaluate(
        kc.data.Source("made", part, part), {"trained": (rows, rows)}
    )
    assert set(evaluation.measures) == {"protocol", "intervals", "geometry"}
    assert len(evaluation.labels) == 0


@pytest.fixture(scope="module")
def by_classes(made):
    """Two classes to train on, the other two to judge by."""
    train, test = made.train.labels < 2, made.test.labels >= 2
    return kc.data.Source(
        "made",
        made.train.take(np.flatnonzero(train)),
        made.test.take(np.flatnonzero(test)),
    )


def test_evaluation_of_classes_never_seen_is_by_search(by_classes):
    evaluation, _ = judged(by_classes)
    assert {"retrieval", "clustering", "geometry"} < set(evaluation.measures)
    assert not {"knn", "few_label", "linear_probe"} & set(evaluation.measures)
    measures = report.measure(by_classes, judged(by_classes)[1])
    assert set(measures) == {"retrieval"}
    assert "precision@1" in text_of(report.table(measures))


def test_alignment_comes_with_views(made):
    rows = np.eye(4)[:3]
    evaluation, _ = judged(made, views={"trained": (rows, -rows)})
    geometry = evaluation.measures["geometry"]
    assert geometry["trained"]["alignment"] == pytest.approx(4)  # opposite unit rows
    assert geometry["untrained"]["alignment"] is None


# --- verdict and advice


def test_good_run_is_called_good_with_its_figures(made, good):
    found = report.verdict(run_of(made, *good))
    assert found.level == "good"
    knn = good[0].measures["knn"]
    assert (
        f"{100 * knn['trained']:.1f} % ({100 * knn['untrained']:.1f} %)" in found.reason
    )


@pytest.mark.parametrize(
    ("trained", "untrained", "level", "headline"),
    [
        (0.7, 0.7, "unsure", "Not shown to have worked"),
        (0.0, 2.0, "bad", "made the features worse"),
        (1.0, 0.0, "unsure", "raw pixels are still better"),
    ],
    ids=["no better", "worse", "pixels better"],
)
def test_verdict_of_runs_that_have_not_worked(
    made, trained, untrained, level, headline
):
    found = report.verdict(run_of(made, *judged(made, trained, untrained)))
    assert (found.level, headline in found.headline) == (level, True), found


def test_verdict_of_a_collapse_comes_before_all_else(made):
    run = run_of(made, *judged(made, 0.7, 0.7), collapsed=True)
    assert report.verdict(run).level == "bad"
    assert "collapsed" in report.verdict(run).headline
    assert "More negatives" in report.advice(run)[0]


def test_alarm_that_the_figures_do_not_bear_out_is_no_collapse(made, good):
    run = run_of(made, *good, collapsed=True)
    assert report.verdict(run).level == "good"
    assert not any("negatives" in line for line in report.advice(run))


def test_verdict_without_labels_is_to_look(made, good):
    part = kc.data.Part(made.test.images)
    unlabelled = kc.data.Source("made", part, part)
    features = {name: (rows[1], rows[1]) for name, rows in good[1].items()}
    run = run_of(unlabelled, report.evaluate(unlabelled, features), features)
    assert report.verdict(run).level == "unknown"
    assert any("no labels" in line for line in report.warnings(run))


@pytest.mark.parametrize(
    ("trained", "level"), [(8.0, "good"), (0.7, "unsure")], ids=["better", "no better"]
)
def test_verdict_of_classes_never_seen_is_by_search(by_classes, trained, level):
    run = run_of(by_classes, *judged(by_classes, trained))
    assert report.verdict(run).level == level
    assert any("no class in common" in line for line in report.warnings(run))


RISING = [None, 0.5, 0.6, None, 0.7, 0.72, 0.8, 0.82, 0.85]
NOISE = [0.8, 0.79, 0.81, 0.8, 0.8, 0.78, 0.81, 0.79, 0.8]
PEAKED = [0.5, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ({"knn_accuracy": RISING}, "Train longer: kNN was still rising"),
        ({"knn_accuracy": PEAKED}, r"kNN was best in epoch 2 \(80.0 %\)"),
        ({"accuracy": [0.5, 0.97]}, "Make the task harder: .* 97.0 %"),
        ({"accuracy": [0.01, 0.05]}, "Make the task easier: .* 5.0 %"),
        ({}, "More images: 120 are few"),
    ],
    ids=["rising", "peaked", "too easy", "too hard", "few images"],
)
def test_advice_follows_what_the_run_shows(made, good, history, said):
    advice = report.advice(run_of(made, *good, history=history))
    assert any(re.search(said, line) for line in advice), advice
    assert len(advice) <= 4


@pytest.mark.parametrize("epochs", [6, 600], ids=["few", "many"])
def test_run_of_few_steps_that_has_not_worked_is_advised_to_go_on(made, epochs):
    config = {"method": "byol", "train_images": 480, "batch_size": 128}
    run = run_of(made, *judged(made, 0.7, 0.7), config={**config, "epochs": epochs})
    assert any("18 steps in all are few" in x for x in report.advice(run)) == (
        epochs == 6
    )


def test_noise_of_the_knn_is_no_advice(made, good):
    advice = report.advice(run_of(made, *good, history={"knn_accuracy": NOISE}))
    assert not any("kNN was" in line for line in advice), advice


def test_digits_are_never_advised_to_be_mirrored(made, good):
    config = {"method": "simclr", "epochs": 9, "augment": "digits"}
    for accuracy in (0.01, 0.99):
        run = run_of(made, *good, config=config, history={"accuracy": [accuracy]})
        (line,) = [x for x in report.advice(run) if "Make the task" in x]
        assert "--augment" not in line


def test_one_class_is_nothing_to_tell_apart():
    part = kc.data.Part(np.zeros((20, 8, 8, 1), np.uint8), np.zeros(20, int))
    data = kc.data.Source("made", part, part)
    rows = np.random.default_rng(0).normal(size=(20, 3))
    features = {name: (rows, rows) for name in ("pixels", "untrained", "trained")}
    run = run_of(data, report.evaluate(data, features), features)
    assert report.verdict(run).level == "unknown"
    assert "one class" in report.verdict(run).headline


def test_classes_that_nothing_can_be_said_of_have_no_measures():
    """Test classes of one image each that training does not have."""
    train = kc.data.Part(np.zeros((6, 8, 8, 1), np.uint8), np.zeros(6, int))
    test = kc.data.Part(np.zeros((2, 8, 8, 1), np.uint8), np.array([1, 2]))
    rows = np.ones((6, 3)), np.eye(3)[:2]
    assert report.measure(kc.data.Source("made", train, test), {"some": rows}) == {}


@pytest.mark.parametrize("method", ["byol", "vicreg", "supcon", "siamese"])
def test_accuracy_of_a_method_to_which_it_means_nothing_gives_no_advice(
    made, good, method
):
    config = {"method": method, "epochs": 12, "train_images": 10**6}
    run = run_of(made, *good, config=config, history={"accuracy": [0.01, 0.02]})
    assert not any("Make the task" in line for line in report.advice(run))


def test_advice_names_the_classes_that_are_mixed_up(made):
    evaluation, features = judged(made)
    mixed = evaluation.predictions["linear_probe"]["trained"]
    mixed[:] = np.where(evaluation.labels == 3, 0, evaluation.labels)
    (line,) = [x for x in report.advice(run_of(made, evaluation, features)) if "“" in x]
    assert "“<b>bold</b>” and “plain” are mixed up most (20 of 40 images)" in line


def test_few_test_images_are_warned_of(made):
    evaluation, features = judged(made, trained=1.0)
    lines = report.warnings(run_of(made, evaluation, features, warnings=["odd thing"]))
    assert lines[0] == "odd thing"
    assert any("Only 80 test images" in line for line in lines)


# --- page


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, run and show."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self._open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "meta", "circle"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag  # nothing ends what it has not begun

    def handle_data(self, data):
        (self.scripts if self._open[-1:] == ["script"] else self.text).append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def page(made, good):
    evaluation, features = good
    history = {
        "loss": [3.0, 2.0, 1.5],
        "knn_accuracy": [None, 0.5, 0.6],
        "positive_similarity": [0.1, 0.5, 0.6],
        "negative_similarity": [0.1, 0.05, 0.0],
    }
    config = {
        "method": "simclr",
        "encoder": "conv_net",
        "data": "folder:<i>photos</i>",
        "epochs": 3,
        "train_images": 120,
        "image_shape": [8, 8, 1],
    }
    images = made.train.images[:3]
    run = run_of(
        made,
        evaluation,
        features,
        name="runs/<img src=x>",
        config=config,
        history=history,
        views=(images, np.stack([images, images], axis=1)),
        warnings=["1 file could not be read: <script>x</script>.png"],
        seconds=75.0,
    )
    compared = evaluation.compare("untrained", "trained")
    return report.page(
        [run],
        measures=evaluation.measures,
        title=run.name,
        comparisons=[("untrained", "trained", "kNN", compared["knn"])],
        about="made here",
    )


def test_page_is_whole_and_needs_no_network(page):
    reader = Reader(page)
    assert reader._open == []
    for tag, attributes in reader.tags:
        assert not {"href", "srcset", "action", "onload", "onerror"} & set(attributes)
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/"), tag
    assert len(reader.all("img")) == 3  # curves, neighbours, views
    assert not re.search(r"url\((?!\$)", page)


def test_page_answers_the_questions_in_their_order(page):
    shown = " ".join(Reader(page).text)
    questions = (
        "It worked",
        "What to try next",
        "Warnings",
        "What the features are worth",
        "Is the difference more than chance?",
        "Training",
        "Map of the test images",
        "What it finds alike",
        "What the linear probe mixes up",
        "What it was trained on",
        "Configuration",
    )
    places = [shown.index(each) for each in questions]
    assert places == sorted(places)
    assert "3 epochs in 75 s" in shown and "made here" in shown


def test_page_shows_names_as_they_are_and_never_as_markup(page, made):
    reader = Reader(page)
    shown = " ".join(reader.text)
    for name in (
        "runs/<img src=x>",
        "folder:<i>photos</i>",
        "<script>x</script>.png",
        *made.test.class_names,
    ):
        assert name in shown, name
    assert not reader.all("b:") and not reader.all("i:")
    assert all(
        "alert(1)" not in script or "u003c" in script for script in reader.scripts
    )
    assert len(reader.all("script")) == 2  # the map's data, and the page's own


def test_map_data_are_of_the_points_on_the_map(page, made, good):
    reader = Reader(page)
    data = json.loads(next(text for text in reader.scripts if text.startswith("{")))
    assert data["classes"] == made.test.class_names
    assert data["labels"] == made.test.labels.tolist()
    points = [int(each["data-i"]) for each in reader.all("circle")]
    assert sorted(points) == sorted(2 * list(range(80)))  # before and after
    rows = good[1]["trained"][1]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similar = rows @ rows.T - 2 * np.eye(80)
    for row, near in enumerate(data["near"]):
        assert len(near) == 8
        np.testing.assert_allclose(
            similar[row, near], np.sort(similar[row])[:-9:-1], atol=1e-5
        )


def test_page_of_several_runs_tells_of_each(made, good):
    evaluation, features = good
    runs = [
        run_of(made, evaluation, features, name=name, history={"loss": [2.0, 1.0]})
        for name in ("first", "second")
    ]
    reader = Reader(report.page(runs, measures=evaluation.measures, title="Two"))
    shown = " ".join(reader.text)
    assert "2 runs: first, second." in shown
    assert "first in detail" in shown and "second in detail" in shown
    assert len(reader.all("details")) == 2
    ids = [each["id"] for each in reader.all("script") if "id" in each]
    assert ids == ["map-0", "map-1"]


def test_page_of_many_classes_lists_the_pairs_that_are_mixed_up():
    labels = np.arange(60) % 30
    part = kc.data.Part(np.zeros((60, 8, 8, 3), np.uint8), labels)
    data = kc.data.Source("made", part, part)
    rows = np.eye(30)[labels] + 0.3 * np.random.default_rng(0).normal(size=(60, 30))
    features = {name: (rows, rows) for name in ("pixels", "untrained", "trained")}
    evaluation = report.evaluate(data, features)
    evaluation.predictions["linear_probe"]["trained"][labels == 7] = 9
    run = run_of(data, evaluation, features)
    reader = Reader(report.page([run], measures=evaluation.measures, title="Many"))
    shown = " ".join(reader.text)
    assert "7 taken for 9" in shown and "2 of 2" in shown
    assert not [
        each for each in reader.all("table") if each.get("class") == "confusion"
    ]
