"""The page in headless Chromium: opens without errors or requests, filters, compares, fits a phone, is dark when asked.

pytest tests/reports/test_browser.py        (skips where no Chromium is installed)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from reports.build import build_report
from tests.reports.chromium import Browser, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(complete_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    page = build_report(complete_run)
    with Browser(str(find_chromium()), tmp_path_factory.mktemp("profile")) as browser:
        browser.open(page)
        yield browser


def shown(browser: Browser, selector: str) -> int:
    """How many elements of a selector have a box."""
    script = f"[...document.querySelectorAll({selector!r})].filter(e => e.getClientRects().length).length"
    return browser.run(script)


def choose(browser: Browser, name: str, value: str) -> None:
    script = f"""(() => {{ const select = document.querySelector('[data-filter={name}]'); select.value = {value!r};
        select.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"""
    browser.run(script)


def test_opens_without_errors_and_without_network(browser: Browser) -> None:
    assert browser.problems() == []
    assert browser.requests() and all(url.startswith(("file:", "data:")) for url in browser.requests())
    assert browser.run("document.title") == "week-01 · MoA report"
    broken = "[...document.images].filter(i => i.getAttribute('src') && i.complete && !i.naturalWidth).length"
    assert browser.run(broken) == 0


def test_method_switch_shows_one_image_per_cell(browser: Browser) -> None:
    assert shown(browser, ".grid .shot") == 16
    assert shown(browser, ".grid .shot[data-method=moa]") == 16
    browser.run("document.querySelector('.methods input[value=prior]').click()")
    assert shown(browser, ".grid .shot[data-method=prior]") == shown(browser, ".grid .shot") == 16


def test_filters_narrow_rows_and_columns(browser: Browser) -> None:
    choose(browser, "subject", "m-000002")
    choose(browser, "category", "context")
    assert shown(browser, ".grid .shot") == 2
    assert browser.run("document.querySelector('.filters output').textContent") == "1 × 2 shown"
    choose(browser, "prompt", "snow")
    assert shown(browser, ".grid .shot") == 1
    for name in ("subject", "category", "prompt"):
        choose(browser, name, "")
    assert shown(browser, ".grid .shot") == 16


def test_click_compares_with_the_prior(browser: Browser) -> None:
    browser.run("document.querySelector('.hero .shot[data-method=moa] a').click()")
    assert browser.run("document.querySelector('#compare').open") is True
    assert browser.run("document.querySelector('#compare .left').value") == "prior"
    assert browser.run("document.querySelector('#compare .right').value") == "moa"
    assert browser.run("document.querySelector('#compare .left').length") == 3
    browser.run(
        "(s => { s.value = 20; s.dispatchEvent(new Event('input')); })(document.querySelector('#compare input'))"
    )
    assert browser.run("document.querySelector('.stage').style.getPropertyValue('--cut')") == "20%"
    browser.run("document.querySelector('#compare').close()")
    assert browser.problems() == []


def test_phone_and_dark(complete_run: Path, tmp_path: Path) -> None:
    with Browser(str(find_chromium()), tmp_path / "profile", width=390, height=844, dark=True) as phone:
        phone.open(complete_run / "report" / "index.html")
        assert phone.run("document.documentElement.scrollWidth") <= 390
        phone.screenshot(tmp_path / "phone.png")
    with Image.open(tmp_path / "phone.png") as image:
        assert max(image.convert("RGB").getpixel((2, 840))) < 60  # the page's background
