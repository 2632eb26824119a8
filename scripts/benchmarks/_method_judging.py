"""How methods.py judges features: on the test part or on held-out images, by all labels and by a few."""

from __future__ import annotations

from _console import Failure

HELD_OUT = 5_000
LABELS_PER_CLASS = (1, 5, 10, 100)
K, TEMPERATURE = 200, 0.1  # of kNN
# Thousands of pixels on all images take the probe half an hour. The penalty is the strongest that the probe tries.
PIXEL_PROBE_IMAGES, PIXEL_PROBE_STRENGTH = 10_000, 0.001


def parts_of(source, spec: str, hold_out: bool) -> tuple:
    """What is trained on, and what is judged by: the test part, or some of the training part, always the same."""
    from keras_contrastive.data import part

    if source.train.labels is None or source.test.labels is None:
        raise Failure(f"'{spec}' has no labels to judge by.")
    if not hold_out:
        return source.train, source.test
    if len(source.train) < 2 * HELD_OUT:
        raise Failure(
            f"--hold-out needs {2 * HELD_OUT:,} training images. Found: {len(source.train):,}."
        )
    return part.hold_out(source.train, 0, HELD_OUT)


def flat_pixels(images):
    """Pixels as features, float32 in 0..1 `(n, h * w * c)`."""
    return images.reshape(len(images), -1).astype("float32") / 255


def judged(args, features, train, test) -> dict:
    """Accuracies of the features on what is judged, by the labels of all training images and by a few of them."""
    import numpy as np

    import keras_contrastive as kc

    labels = train.labels, test.labels
    arrays = (features[0], train.labels, features[1], test.labels)
    found = {
        f"knn_{K}": knn_accuracy(features, labels),
        "known_labels": known_labels(args, train, *arrays),
    }
    if args.hold_out or args.labels_per_class:
        return found
    found[f"knn_{K}_whitened"] = knn_accuracy(whitened(*features), labels)
    few_label = {
        str(count): kc.evaluation.few_label_accuracy(
            *arrays, labels_per_class=count
        )._asdict()
        for count in LABELS_PER_CLASS
        if count <= np.bincount(train.labels).min()
    }
    return {
        **found,
        **linear_probe(args.method, *arrays),
        "few_label": few_label,
    }


def knn_accuracy(features, labels) -> float:
    """Of the second features by the first."""
    import keras_contrastive as kc

    (bank, queries), (known, expected) = features, labels
    return kc.evaluation.knn_accuracy(
        bank, known, queries, expected, k=K, temperature=TEMPERATURE
    )


def whitened(features, others) -> list:
    """Both whitened by the mean and the covariance of the first."""
    import keras_contrastive as kc

    layer = kc.FeatureWhitening()
    layer.build(features.shape)
    layer.observe(features)
    return [layer(rows).numpy() for rows in (features, others)]


def linear_probe(method: str, features, labels, *test) -> dict:
    """The linear probe's accuracy, and how many images it is fitted on."""
    import numpy as np

    import keras_contrastive as kc

    options = {}
    if method == "pixels":
        some = np.random.default_rng(0).permutation(len(labels))[:PIXEL_PROBE_IMAGES]
        features, labels = features[some], labels[some]
        options = {"strengths": (PIXEL_PROBE_STRENGTH,)}
    found = kc.evaluation.linear_probe(features, labels, *test, **options)
    return {
        "linear_probe": found.accuracy,
        "linear_probe_images": len(labels),
        "linear_probe_strength": found.strength,
    }


def known_labels(args, part, train, labels, test, expected) -> float | None:
    """Accuracy of logistic regression on the very images whose labels --labels-per-class keeps."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    import keras_contrastive as kc

    if args.labels_per_class is None:
        return None
    scale = train.std(axis=0) + 1e-6
    few = kc.data.keep_labels(part, args.labels_per_class, seed=args.seed)
    rows = np.flatnonzero(few.labels >= 0)
    probe = LogisticRegression(C=1.0, max_iter=1000)
    probe.fit(train[rows] / scale, labels[rows])
    return float(np.mean(probe.predict(test / scale) == expected))
