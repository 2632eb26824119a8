"""`keras_contrastive.pictures`: what stands where on a figure, and that a saved one shows something."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from keras_contrastive import pictures

RIGHT, WRONG = "#009e73", "#d55e00"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def shown(figure) -> list[np.ndarray]:
    """The pictures of a contact sheet, row by row."""
    return [np.asarray(image.get_array()) for image in figure.axes[0].get_images()]


def frames(figure) -> list[str]:
    return [to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def legend_texts(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_embedding_map_keeps_clusters_apart_in_every_panel(rng):
    labels = np.arange(60) % 3
    embeddings = np.eye(5)[labels] + 0.05 * rng.normal(size=(60, 5))
    lengths = rng.uniform(
        0.01, 100, (60, 1)
    )  # by cosine, the length of a row is nothing
    figure = pictures.embedding_map(
        {"untrained": embeddings, "trained": embeddings * lengths},
        labels=labels,
        class_names=["cat", "dog", "owl"],
    )
    assert [axes.get_title() for axes in figure.axes] == ["untrained", "trained"]
    assert legend_texts(figure) == ["cat", "dog", "owl"]
    for axes in figure.axes:
        clouds = [np.asarray(dots.get_offsets()) for dots in axes.collections]
        assert [len(cloud) for cloud in clouds] == [20, 20, 20]
        centres = np.array([cloud.mean(axis=0) for cloud in clouds])
        widest = max(
            np.linalg.norm(cloud - cloud.mean(axis=0), axis=1).max() for cloud in clouds
        )
        gaps = [
            np.linalg.norm(centres[i] - centres[j]) for i in range(3) for j in range(i)
        ]
        assert min(gaps) > 2 * widest


def test_embedding_map_of_classes_colours_each_differently(rng):
    labels = np.arange(20)
    figure = pictures.embedding_map({"a": rng.normal(size=(20, 4))}, labels=labels)
    looks = {
        (to_hex(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
        for dots in figure.axes[0].collections
    }
    assert len(looks) == 20
    assert legend_texts(figure) == [str(label) for label in labels]


def test_embedding_map_of_many_classes_says_so_instead_of_a_legend(rng):
    figure = pictures.embedding_map(
        {"a": rng.normal(size=(60, 4))}, labels=np.arange(60) // 2
    )
    assert len(figure.axes[0].collections) == 30
    assert not figure.legends
    assert "30 of them" in figure.get_supxlabel()


def test_embedding_map_without_labels_is_of_one_colour(rng):
    figure = pictures.embedding_map({"a": rng.normal(size=(12, 4))})
    assert [len(dots.get_offsets()) for dots in figure.axes[0].collections] == [12]
    assert not figure.legends


def test_embedding_map_of_many_points_shows_the_same_sample_in_every_panel(
    rng, monkeypatch
):
    monkeypatch.setattr(pictures.maps, "_MAX_POINTS", 30)
    embeddings = rng.normal(size=(100, 3))
    labels = np.arange(
        100
    )  # every point its own class, so that a panel tells which it shows
    figure = pictures.embedding_map({"a": embeddings, "b": embeddings}, labels=labels)
    names = [[dots.get_label() for dots in axes.collections] for axes in figure.axes]
    assert len(set(names[0])) == 30
    assert names[0] == names[1]
    assert "30 of 100 images" in figure.get_supxlabel()


@pytest.mark.parametrize(
    "embeddings",
    [np.ones((40, 8)), np.arange(1.0, 41.0)[:, None], np.eye(3), np.zeros((20, 4))],
    ids=["collapsed", "one dimension", "few points", "zeros"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_embedding_map_of_degenerate_embeddings_is_drawn(embeddings):
    figure = pictures.embedding_map({"a": embeddings})
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert points.shape == (len(embeddings), 2)
    assert np.isfinite(points).all()


def test_neighbours_shows_each_query_with_its_nearest_in_order(rng):
    angles = np.array([0, 10, 25, 90, 104, 122])  # degrees: two groups on the circle
    embeddings = np.stack(
        [np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], axis=1
    )
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 4, 4, 1), np.uint8
    )
    labels = np.array([0, 0, 1, 1, 1, 1])
    figure = pictures.neighbours(
        images,
        embeddings * [[2.0], [3.0], [1.0], [9.0], [4.0], [5.0]],
        labels=labels,
        class_names=["cat", "dog"],
        queries=6,
        k=2,
    )
    found = np.array([picture[0, 0, 0] for picture in shown(figure)]).reshape(6, 3)
    by_query = {query: list(others) for query, *others in found}
    assert by_query == {
        0: [1, 2],
        1: [0, 2],
        2: [1, 0],
        3: [4, 5],
        4: [3, 5],
        5: [4, 3],
    }
    for query, row in zip(found[:, 0], np.array(frames(figure)).reshape(6, 3)):
        expected = [
            RIGHT if labels[i] == labels[query] else WRONG for i in by_query[query]
        ]
        assert list(row[1:]) == expected
    assert texts(figure)[:2] == ["cat", "cat"]  # queries of a class stand together
    assert sorted(texts(figure)[2:6]) == ["dog"] * 4


def test_neighbours_never_shows_the_query_even_among_copies():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 3), np.uint8
    )
    figure = pictures.neighbours(images, np.ones((5, 3)), queries=5, k=4)
    found = np.array([picture[0, 0, 0] for picture in shown(figure)]).reshape(5, 5)
    for row in found:
        assert sorted(row) == [0, 1, 2, 3, 4]


def test_neighbours_spreads_the_queries_over_classes(rng):
    labels = np.repeat([0, 1, 2, 3], [94, 2, 2, 2])
    figure = pictures.neighbours(
        rng.random((100, 2, 2, 1)),
        rng.normal(size=(100, 3)),
        labels=labels,
        queries=4,
        k=1,
    )
    assert texts(figure)[:4] == ["0", "1", "2", "3"]


def test_neighbours_of_fewer_images_than_asked_for_shows_all_there_are(rng):
    figure = pictures.neighbours(rng.random((3, 2, 2, 3)), rng.normal(size=(3, 4)))
    assert len(shown(figure)) == 3 * (1 + 2)
    assert not figure.legends  # no labels, nothing to explain


def test_views_shows_grey_floats_and_bytes_alike(rng):
    images = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    views = np.stack([images / 255, 1 - images / 255], axis=1).astype(np.float32)
    figure = pictures.views(images, views)
    pictured = shown(figure)
    assert len(pictured) == 9
    for row in range(3):
        image, same, inverted = pictured[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(image, images[row].repeat(3, axis=-1))
        np.testing.assert_array_equal(same, image)
        np.testing.assert_array_equal(inverted, 255 - image)
    assert {image.get_interpolation() for image in figure.axes[0].get_images()} == {
        "nearest"
    }


def test_save_writes_a_picture_with_the_images_in_it(tmp_path, rng):
    from PIL import Image

    images = np.full(
        (2, 8, 8, 3), [255, 0, 255], np.uint8
    )  # a colour that nothing else on the sheet has
    pictures.save(pictures.views(images, images[:, None] / 255), tmp_path / "views.png")
    pixels = np.asarray(Image.open(tmp_path / "views.png").convert("RGB")).astype(int)
    magenta = (pixels == [255, 0, 255]).all(axis=-1).mean()
    white = (pixels == 255).all(axis=-1).mean()
    assert (
        0.3 < magenta < 0.9
    )  # four tiles fill most of the sheet, margins and headings the rest
    assert white > 0.1


def test_pictures_leave_pyplot_alone(rng):
    """pyplot would choose a backend, and hold on to every figure that it made."""
    loaded = "matplotlib.pyplot" in sys.modules
    pictures.neighbours(rng.random((9, 2, 2, 3)), rng.normal(size=(9, 4)))
    pictures.embedding_map({"a": rng.normal(size=(9, 4))})
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda e: pictures.embedding_map({}), "`panels` must hold at least one"),
        (
            lambda e: pictures.embedding_map({"a": e, "b": e[:5]}),
            r"`panels\['b'\]` must have one entry .* 5 entries for 9",
        ),
        (
            lambda e: pictures.embedding_map({"a": e}, labels=[1, 2]),
            "`labels` must have one entry .* 2 entries for 9",
        ),
        (
            lambda e: pictures.embedding_map({"a": e * np.nan}),
            r"`panels\['a'\]` must be finite",
        ),
        (
            lambda e: pictures.neighbours(np.zeros((9, 4, 4)), e),
            r"`images` must have shape .*\(9, 4, 4\)",
        ),
        (
            lambda e: pictures.neighbours(np.zeros((8, 4, 4, 3)), e),
            "`embeddings` must have one entry",
        ),
        (
            lambda e: pictures.neighbours(np.zeros((9, 4, 4, 3)), e, k=0),
            "`k` must be an integer >= 1",
        ),
        (
            lambda e: pictures.views(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3))),
            r"`views` must have shape \(n, views,",
        ),
        (
            lambda e: pictures.views(np.zeros((2, 4, 4, 3)), np.zeros((3, 2, 4, 4, 3))),
            "n as in `images`",
        ),
    ],
    ids=[
        "no panel",
        "lengths",
        "labels",
        "nan",
        "rank",
        "embeddings",
        "k",
        "views rank",
        "views length",
    ],
)
def test_pictures_of_what_does_not_fit_are_refused(rng, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(rng.normal(size=(9, 4)))


def test_curves_draw_the_epochs_that_have_a_value():
    figure = pictures.curves(
        {"Loss": {"a": [3.0, 2.0, 1.0], "b": [4.0, None, 2.0]}, "Rate": {"": [0.1]}}
    )
    loss, rate, *spare = figure.axes
    a, b = loss.lines
    np.testing.assert_array_equal(a.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(b.get_xydata(), [[1, 4], [3, 2]])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["a", "b"]
    assert rate.get_legend() is None and not spare
    assert a.get_color() != b.get_color()


def test_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="`panels` must hold at least one title"):
        pictures.curves({})


def test_project_is_what_the_map_draws(rng):
    rows = rng.normal(size=(30, 5))
    (axes,) = pictures.embedding_map({"map": rows}, seed=3).axes
    np.testing.assert_allclose(
        pictures.project(rows, seed=3), axes.collections[0].get_offsets()
    )


def test_project_of_one_row_is_refused():
    with pytest.raises(ValueError, match=r"`rows` must have one entry .* at least 2"):
        pictures.project(np.ones((1, 3)))


def test_odd_names_are_shown_as_they_are():
    images = np.zeros((4, 8, 8, 1), np.uint8)
    names = ["$\\x$", "_hidden_"]
    labels = np.array([0, 0, 1, 1])
    sheet = pictures.neighbours(
        images, np.eye(4), labels=labels, class_names=names, queries=4
    )
    map_ = pictures.embedding_map(
        {"$\\m$": np.eye(4)}, labels=labels, class_names=names
    )
    lines = pictures.curves({"Loss": {"$\\q$": [1.0, 2.0], "_b": [2.0, 1.0]}})
    for figure in (sheet, map_, lines):
        figure.savefig(io.BytesIO(), format="png", dpi=40)  # where formulas are parsed
    assert [t.get_text().strip() for t in map_.legends[0].get_texts()][1] == "_hidden_"
    assert len(lines.axes[0].get_legend().get_texts()) == 2


def test_neighbours_of_unknown_class_have_no_frame():
    images = np.zeros((4, 8, 8, 1), np.uint8)

    def frames(labels):
        axes = pictures.neighbours(images, np.eye(4), labels=labels, queries=4).axes[0]
        return sum(patch.get_linewidth() == 3 for patch in axes.patches)

    assert frames(np.array([0, 0, 1, 1])) == 12
    assert frames(np.array([0, 0, -1, -1])) == 2
