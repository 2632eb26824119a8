"""A headless browser for tests of pages; they are skipped with a reason where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="chromium or chromedriver is not installed",
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1600,1200"
)
_STARTS = 3


def machine() -> str:
    """What a program that did not start may have lacked."""
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.exists() else []
    available = [line for line in lines if line.startswith("MemAvailable")]
    free = f"disk: {shutil.disk_usage('/tmp').free >> 10} kB"
    return "; ".join([f"load: {os.getloadavg()[0]:.1f}", free, *available])


@contextlib.contextmanager
def open_browser(profile):
    """Chromium with an empty profile in this folder; keeps what pages write to the console."""
    from selenium import webdriver
    from selenium.common.exceptions import SessionNotCreatedException
    from selenium.webdriver.chrome.service import Service

    def start(number: int):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}-{number}"]:
            options.add_argument(flag)
        return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))

    for number in range(_STARTS):
        try:
            driver = start(number)
            break
        except SessionNotCreatedException as error:
            said = f"{(error.msg or 'no message').splitlines()[0]} ({machine()})"
    else:
        pytest.fail(f"Chromium did not start: {said}")
    try:
        yield driver
    finally:
        driver.quit()
