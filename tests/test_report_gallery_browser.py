"""A gallery, looked at through a browser: nothing is missing, nothing is loaded, nothing hangs over."""

from __future__ import annotations

import numpy as np
import pytest

from keras_contrastive import report
from tests.browser import needs_browser, open_browser

pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = needs_browser
MARKUP = "<script>document.title='taken'</script><img src='https://example.org/x.png'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    rng = np.random.default_rng(0)

    def picture(name, height, width, **options):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        return report.Picture(name, image, similarity=0.5, **options)

    found = [
        picture(MARKUP, 200, 90, class_name="a"),
        picture("x" * 300, 90, 400, class_name="x" * 300),
        picture("small", 8, 8, class_name="b"),
        report.Picture(f"gone/{MARKUP}", None, "b", 0.4),
    ]
    query = picture("q", 500, 400, class_name="a")
    html = report.neighbours_page([(query, found)], title=MARKUP, about="x" * 300)
    (folder / "page.html").write_text(html, encoding="utf-8")
    with open_browser(folder / "profile") as browser:
        browser.get((folder / "page.html").as_uri())
        yield browser


def test_gallery_shows_its_pictures_and_loads_nothing(browser):
    sizes = browser.execute_script(
        "return [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.width, i.height])"
    )
    assert len(sizes) == 4 and all(size[0] for size in sizes)
    shown = [tuple(size[1:]) for size in sizes]
    assert shown[0][0] > 200 and shown[3] == (128, 128)  # of 8 x 8
    assert browser.title == MARKUP.replace("\n", " ")
    assert browser.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert all(n.startswith("data:") for n in browser.execute_script(loaded))


@pytest.mark.parametrize("width", [1300, 600])
def test_gallery_fits_the_width_of_the_window(browser, width):
    browser.set_window_size(width, 900)
    over = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(over) == 0
    tiles = browser.execute_script(
        "return [...document.querySelectorAll('.tiles figure')].map(f => f.scrollWidth - f.clientWidth)"
    )
    assert len(tiles) == 4 and max(tiles) <= 0
