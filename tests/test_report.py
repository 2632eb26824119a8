"""What a run's table is made of."""

import numpy as np
import pytest

import keras_contrastive as kc


def source(per_class, classes=3):
    labels = np.repeat(np.arange(classes), per_class)
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    part = kc.data.Part(images, labels)
    return kc.data.Source("made", part, part)


def test_perfect_and_useless_features_get_what_they_deserve():
    data = source(12)
    perfect = np.eye(3)[data.train.labels]
    useless = np.ones((36, 3))
    measures = kc.report.measure(
        data, {"perfect": (perfect, perfect), "useless": (useless, useless)}
    )
    assert measures["knn"]["perfect"] == 1
    assert measures["few_label"]["perfect"]["1"] == {"mean": 1.0, "std": 0.0}
    assert measures["few_label"]["useless"]["10"]["mean"] == pytest.approx(1 / 3)


def test_columns_that_need_more_images_than_there_are_stay_out():
    features = np.ones((18, 2))
    measures = kc.report.measure(source(6), {"some": (features, features)})
    assert list(measures["few_label"]["some"]) == ["1", "5"]


def test_images_of_unknown_class_are_left_out():
    labels = np.repeat([0, 1, -1], 12)
    part = kc.data.Part(np.zeros((36, 4, 4, 1), np.uint8), labels)
    # The known ones tell their classes perfectly; counted as a class, the unknown would be as good as random.
    features = np.eye(2)[np.where(labels >= 0, labels, np.arange(36) % 2)]
    measures = kc.report.measure(
        kc.data.Source("made", part, part), {"some": (features, features)}
    )
    assert measures["knn"]["some"] == 1
    assert list(measures["few_label"]["some"]) == ["1", "5", "10"]


def test_unlabelled_images_have_no_measures():
    part = kc.data.Part(np.zeros((5, 4, 4, 1), np.uint8))
    assert kc.report.measure(kc.data.Source("made", part, part), {}) == {}


def test_table_shows_percent_of_every_representation():
    from rich.console import Console

    cell = {"mean": 0.8764, "std": 0.0123}
    measures = {"few_label": {"pixels": {"1": cell, "5": cell}}, "knn": {"pixels": 0.5}}
    console = Console(width=100, record=True, file=open("/dev/null", "w"))
    console.print(kc.report.table(measures))
    shown = console.export_text()
    assert "87.6 ± 1.2" in shown and "50.0" in shown and "1 label per class" in shown
