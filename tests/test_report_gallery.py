"""`keras_contrastive.report.gallery`: pages of neighbours and groups, and the pictures in them."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from keras_contrastive import report
from keras_contrastive.report.gallery import cut_in_the_middle

MARKUP = "<img src=x onerror=alert(1)>&\"'"


def image(height=20, width=30, channels=3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def picture(name="a", similarity=0.5, **options) -> report.Picture:
    options = {"image": image(), **options}
    return report.Picture(name, similarity=similarity, **options)


def images_in(html: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def figures(html: str) -> list[str]:
    return re.findall("<figure.*?</figure>", html, re.DOTALL)


def test_neighbours_stand_beside_their_query_in_order():
    queries = [
        (picture("first", None), [picture("near", 0.9), picture("far", 0.1)]),
        (picture("second", None), [picture("only", -0.25)]),
    ]
    html = report.neighbours_page(queries, title="T", lead="L", about="A")
    titles = re.findall('<figure title="([^"]+)"', html)
    assert titles == ["first", "near", "far", "second", "only"]
    assert re.findall(r"<b>([^<]+)</b>", html) == ["0.900", "0.100", "-0.250"]
    assert html.startswith("<!doctype html>") and html.count("<section") == 2


@pytest.mark.parametrize("of", ["neighbours", "groups"])
def test_whatever_anything_is_called_is_escaped(of):
    one = picture(MARKUP, class_name=MARKUP, image=None)
    if of == "neighbours":
        html = report.neighbours_page(
            [(one, [one])], title=MARKUP, lead=MARKUP, about=MARKUP
        )
    else:
        html = report.groups_page([[one, one]], title=MARKUP, lead=MARKUP, about=MARKUP)
    assert "<img" not in html and "<script" not in html
    # Title twice, lead and footer, and of each picture tooltip, tile and class.
    assert html.count("&lt;img src=x onerror=alert(1)&gt;&amp;") >= 4 + 2 * 3
    policy = re.search('Security-Policy" content="([^"]+)"', html)[1]
    assert "default-src &#x27;none&#x27;" in policy and "script" not in policy


def test_names_that_are_no_text_can_be_written():
    one = picture("caf\udce9.jpg", class_name="\udce9")
    html = report.neighbours_page([(one, [one])], title="\udce9")
    assert "caf?.jpg" in html and html.encode("utf-8")


def test_marks_say_what_is_of_the_same_class_where_that_is_known():
    query = picture("q", None, class_name="cat")
    found = [
        picture("itself", class_name="cat", itself=True),
        picture("same", class_name="cat"),
        picture("other", class_name="dog"),
        picture("unknown"),
    ]
    html = report.neighbours_page([(query, found)], title="T")
    marks = [re.search(r'<figure class="(\w+)"', each) for each in figures(html)]
    assert [mark and mark[1] for mark in marks] == [None, None, "same", "other", None]
    signs = [re.search(r"<i>(.)</i>", each) for each in figures(html)]
    assert [sign and sign[1] for sign in signs] == [None, None, "=", "≠", None]
    assert "of another class" in html and "<b>itself</b>" in html
    assert "of another class" not in report.neighbours_page(
        [(query, found[3:])], title="T"
    )


def test_image_that_cannot_be_shown_is_a_tile_with_its_name():
    html = report.neighbours_page(
        [(picture("q", None), [picture("gone.jpg", image=None)])], title="T"
    )
    assert '<div class="missing">gone.jpg</div>' in html
    assert len(images_in(html)) == 1


def test_group_shows_its_lowest_similarity_and_so_many_images():
    group = [
        picture("first", None),
        *(picture(f"{k}", 0.9 - k / 100) for k in range(9)),
    ]
    html = report.groups_page([group, group[:2]], title="T", most=4)
    assert "1: 10 images" in html and "2: 2 images" in html
    assert "Similarity to the first: 0.820 or more" in html and "And 6 more." in html
    assert len(figures(html)) == 4 + 2 and "<b>first</b>" in html


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_thumbnail_keeps_the_shape_and_the_colours(channels):
    whole = np.full((300, 600, channels), 70, np.uint8)
    small = report.thumbnail(whole)
    assert small.shape == (80, 160, channels if channels in (1, 3) else 1)
    assert small.dtype == np.uint8 and (small == 70).all()
    assert report.thumbnail(whole[:50, :40]).shape[:2] == (50, 40)
    assert report.thumbnail(whole[:1]).shape[:2] == (1, 160)


def test_pictures_carry_their_pixels_the_query_larger():
    large = picture("q", None, image=np.full((400, 800, 3), 90, np.uint8))
    small = image(8, 8, 1)
    html = report.neighbours_page([(large, [large, picture(image=small)])], title="T")
    query, near, digit = images_in(html)
    assert (query.size, near.size, digit.size) == ((320, 160), (160, 80), (8, 8))
    assert abs(np.asarray(near).astype(int) - 90).max() <= 2  # JPEG
    np.testing.assert_array_equal(np.asarray(digit), small[..., 0])  # every pixel
    assert html.count('class="pixels"') == 1


def test_long_names_lose_their_middle():
    assert cut_in_the_middle("short", 5) == "short"
    assert cut_in_the_middle("a/long/name.jpg", 10) == "a/l…me.jpg"
    for limit in range(2, 15):
        assert len(cut_in_the_middle("a/long/name.jpg", limit)) == limit
