"""The report, looked at through a browser: nothing is missing, nothing fails, and the map answers."""

from __future__ import annotations

import numpy as np
import pytest

import keras_contrastive as kc
from keras_contrastive import report
from tests.browser import needs_browser, open_browser

pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = needs_browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page about a run on 60 images of three classes with names that are markup."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
    names = ["</script><script>document.title='taken'</script>", "<b>b</b>", "c"]
    part = kc.data.Part(images, labels, names)
    rows = 3 * np.eye(3)[labels] + rng.normal(size=(60, 3))
    features = {name: (rows, rows) for name in ("pixels", "untrained", "trained")}
    evaluation = report.evaluate(kc.data.Source("made", part, part), features)
    run = report.Run(
        name="<i>run</i>",
        row="trained",
        baseline="untrained",
        evaluation=evaluation,
        config={"method": "simclr", "data": "made", "epochs": 3},
        history={"loss": [3.0, 2.0, 1.0]},
        test=part,
        features={name: features[name][1] for name in ("untrained", "trained")},
        views=(images[:2], images[:4].reshape(2, 2, 8, 8, 3)),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    html = report.page([run], measures=evaluation.measures, title=run.name)
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.get(address)
        yield browser


def test_page_shows_its_pictures_and_runs_without_a_complaint(browser):
    sizes = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth])"
    )
    assert len(sizes) == 3 and all(done and width > 100 for done, width in sizes)
    assert browser.title == "<i>run</i>"
    assert browser.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert all(n.startswith("data:") for n in browser.execute_script(loaded))


def test_page_fits_the_width_of_the_window(browser):
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) == 0


def test_map_answers_the_pointer_with_the_image_and_its_neighbours(browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    look = browser.find_element(By.CLASS_NAME, "looked-at")
    assert "Point at a dot" in look.text
    dot = browser.find_elements(By.CSS_SELECTOR, ".panel circle[data-i='4']")[1]
    ActionChains(browser).scroll_to_element(dot).move_to_element(dot).click().perform()
    shown = browser.find_element(By.CLASS_NAME, "looked-at")
    at = browser.find_elements(By.CSS_SELECTOR, "circle.hit")[0].get_attribute("data-i")
    name = ["</script>", "<b>b</b>", "c"][int(at) % 3]
    assert name in shown.text and "Most similar" in shown.text
    assert len(shown.find_elements(By.CLASS_NAME, "small")) == 8
    assert len(browser.find_elements(By.CSS_SELECTOR, "circle.hit")) == 2  # both maps


def test_legend_keeps_one_class_in_sight(browser):
    from selenium.webdriver.common.by import By

    button = browser.find_elements(By.CSS_SELECTOR, ".legend button")[2]
    browser.execute_script("arguments[0].click()", button)
    assert len(browser.find_elements(By.CSS_SELECTOR, "circle.kept")) == 40
    browser.execute_script("arguments[0].click()", button)
    assert browser.find_elements(By.CSS_SELECTOR, "svg.faded") == []
