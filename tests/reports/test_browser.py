"""The page in headless Chromium: opens without errors or requests, its links land, it filters, compares, shows router
maps, exports its charts, fits screens of all widths, is dark when asked.

pytest tests/reports/test_browser.py        (skips where no Chromium is installed)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from reports.build import build_report
from reports.history import build_history
from reports.router import clearest
from reports.run_folder import read_run
from tests.reports.chromium import Browser, find_chromium
from tests.reports.fake_run import LAYERS, METHODS, PROMPTS, STEPS, SUBJECTS, gate, make_run

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(find_chromium()), tmp_path_factory.mktemp("profile")) as browser:
        browser.open(report)
        yield browser


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A page of two suites with the same subjects, prompts and seeds, nine people and ten methods."""
    people = [(f"m-{number}", "man") for number in range(9)]
    methods = [*METHODS, *(replace(METHODS[3], method=f"more-{n}", label=f"More {n}") for n in range(3))]
    root = tmp_path_factory.mktemp("large")
    run = make_run(
        root, suites=("again", "miniature"), subjects=people, prompts=PROMPTS[:2], seeds=[1], methods=methods
    )
    with Browser(str(find_chromium()), tmp_path_factory.mktemp("profile")) as browser:
        browser.open(build_report(run))
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


@pytest.mark.parametrize("target", ["suite0-results", "suite0-router", "suite1-grid", "training", "limits"])
def test_link_lands_on_its_section(large: Browser, target: str) -> None:
    large.run("scrollTo(0, 0)")
    landed = f"""new Promise(done => {{ document.querySelector('a[href="#{target}"]').click(); setTimeout(() =>
        done(document.getElementById('{target}').getBoundingClientRect().top), 400); }})"""
    end = "innerHeight + scrollY >= document.documentElement.scrollHeight - 1"
    top = large.run(landed)
    if target == "suite0-results":
        assert large.run("document.querySelector('.toc [aria-current=true]').hash") == "#suite0-results"
    assert 0 <= top < 100 or (0 <= top < 900 and large.run(end)), f"{top} px from the top"  # the last one cannot rise


def test_compare_keeps_to_the_suite_of_the_image(large: Browser) -> None:
    for suite, name in enumerate(("miniature", "again")):
        large.run(f"document.querySelector('#suite{suite}-grid .shot[data-method=moa] a').click()")
        for side in ("left", "right"):
            assert f"/evaluation/{name}/images/" in large.run(f"document.querySelector('#compare .{side}-link').href")
        press(large, "Escape")


def test_compare_shows_who_was_asked_for(large: Browser) -> None:
    for section, people in (("suite1-grid", 1), ("suite0-pairs", 2)):
        large.run(f"document.querySelector('#{section} .shot[data-method=moa] a').click()")
        names = large.run("[...document.querySelectorAll('#compare .people img')].map(image => image.alt)")
        title = large.run("document.querySelector('#compare .prompt').textContent")
        assert len(names) == people and all(name.split()[-1] in title for name in names)
        press(large, "Escape")


def test_every_one_of_ten_methods_has_its_button(large: Browser) -> None:
    for method in ("more-1", "more-2", "moa"):
        large.run(f"document.querySelector('#suite0-grid .methods input[value={method}]').click()")
        assert shown(large, f"#suite0-grid .shot[data-method={method}]") == shown(large, "#suite0-grid .shot") == 18


@pytest.mark.parametrize("width", [1280, 1440])
def test_results_are_whole_on_ordinary_screens(browser: Browser, width: int) -> None:
    browser.resize(width, 900)
    boxes = "[...document.querySelectorAll('#suite0-results .scroll')].map(box => [box.scrollWidth, box.clientWidth])"
    for inner, outer in browser.run(boxes):
        assert inner <= outer
    browser.resize(1280, 900)


def test_names_of_methods_stay_beside_the_figures_on_a_phone(browser: Browser) -> None:
    browser.resize(390, 844)
    scrolled = """(() => { const box = document.querySelector('#suite0-results .scroll'); box.scrollLeft = 200;
        const name = box.querySelector('tr.ours th').getBoundingClientRect();
        return [box.scrollLeft, name.left - box.getBoundingClientRect().left, name.width, box.clientWidth]; })()"""
    moved, left, width, whole = browser.run(scrolled)
    browser.resize(1280, 900)
    assert moved == 200 and left == 0 and width < 0.4 * whole


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


def test_filters_cannot_contradict_each_other(browser: Browser) -> None:
    choose(browser, "prompt", "sketch")
    choose(browser, "category", "context")
    assert browser.run("document.querySelector('[data-filter=prompt]').value") == ""
    offered = "[...document.querySelector('[data-filter=prompt]').options].filter(o => !o.disabled).map(o => o.value)"
    assert browser.run(offered) == ["", "beach", "snow"]
    choose(browser, "prompt", "sketch")  # as a browser does that restores a form
    assert shown(browser, ".nothing") == 1 and shown(browser, ".tall") == 0
    browser.run("document.querySelector('.nothing button').click()")
    assert shown(browser, ".nothing") == 0 and shown(browser, ".grid .shot") == 16
    assert len(browser.run(offered)) == 5


def test_navigation_marks_the_section_it_led_to(browser: Browser) -> None:
    browser.run("document.querySelectorAll('#suite0-pairs > *:not(h2)').forEach(part => { part.hidden = true; })")
    for target, width, height in (("suite0-pairs", 390, 844), ("reproduce", 1280, 2600), ("limits", 390, 844)):
        browser.resize(width, height)  # a short section, then two that cannot rise to the top
        marked = f"""new Promise(done => {{ document.querySelector('.toc a[href="#{target}"]').click(); setTimeout(() =>
            done(document.querySelector('.toc [aria-current=true]').hash), 600); }})"""
        assert browser.run(marked) == f"#{target}"
        box = "(b => [b.left, b.right])(document.querySelector('.toc [aria-current=true]').getBoundingClientRect())"
        left, right = browser.run(box)
        assert 0 <= left < right <= width  # the bar has followed
    browser.resize(1280, 900)
    browser.run("document.querySelectorAll('#suite0-pairs > *').forEach(part => { part.hidden = false; })")


def test_claims_keep_their_headings_and_words_on_every_screen(browser: Browser) -> None:
    wordless = "[...document.querySelectorAll('.chips .what')].filter(e => e.getBoundingClientRect().width < 2).length"
    assert shown(browser, ".claims thead") == 1 and shown(browser, ".claims .label") == 0
    assert browser.run(wordless) == 0
    browser.resize(390, 844)
    labels = shown(browser, ".claims .label")
    hidden = browser.run(wordless)
    browser.resize(1280, 900)
    assert labels == 20 and hidden == 7  # of the claims that were found true, a phone names the number alone


def press(browser: Browser, key: str) -> None:
    """A key of the keyboard, sent to what has the focus."""
    code = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}[key]
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def test_click_compares_with_the_prior(browser: Browser) -> None:
    browser.run("document.querySelector('.hero .shot[data-method=moa] a').click()")
    assert browser.run("document.querySelector('#compare').open") is True
    assert browser.run("document.querySelector('#compare .left').value") == "prior"
    assert browser.run("document.querySelector('#compare .right').value") == "moa"
    assert browser.run("document.querySelector('#compare .left').length") == 7
    browser.run("(s => { s.value = 20; s.dispatchEvent(new Event('input')); })(document.querySelector('.slide input'))")
    assert browser.run("document.querySelector('.stage').style.getPropertyValue('--cut')") == "20%"
    assert browser.run("document.activeElement === document.querySelector('.slide input')")
    press(browser, "ArrowRight")
    assert browser.run("document.querySelector('.stage').style.getPropertyValue('--cut')") == "21%"
    press(browser, "Escape")
    assert browser.run("document.querySelector('#compare').open") is False
    assert browser.problems() == []


def test_compare_turns_swaps_and_shows_the_difference(browser: Browser) -> None:
    browser.run("document.querySelector('.hero .shot[data-method=moa] a').click()")
    before = browser.run("document.querySelector('#compare .prompt').textContent")
    browser.run("document.querySelector('#compare .next').focus()")
    press(browser, "ArrowRight")
    assert browser.run("document.querySelector('#compare .turn output').textContent") == "3 of 12"
    assert browser.run("document.querySelector('#compare .prompt').textContent") != before
    press(browser, "ArrowLeft")
    assert browser.run("document.querySelector('#compare .prompt').textContent") == before
    browser.run("document.querySelector('#compare .swap').click()")
    assert browser.run("document.querySelector('#compare .left').value") == "moa"
    browser.run("document.querySelector('#compare [value=beside]').click()")
    left, right = (
        browser.run(f"document.querySelector('.stage {name}').getBoundingClientRect().left")
        for name in (".over", ".under")
    )
    assert left < right and shown(browser, ".slide") == 0
    browser.run("document.querySelector('#compare [value=difference]').click()")
    assert browser.run("getComputedStyle(document.querySelector('.stage .over')).mixBlendMode") == "difference"
    browser.run("document.querySelector('#compare [value=slide]').click()")
    browser.run("document.querySelector('#compare .close').click()")
    assert browser.run("document.querySelector('#compare').open") is False


def test_router_map_opens_at_the_clearest_and_follows_pointer_and_sliders(browser: Browser, complete_run: Path) -> None:
    router = read_run(complete_run).evaluations[0].router
    assert router is not None
    place = clearest(router)
    opened = browser.run("document.querySelector('.router output').textContent")
    assert opened == f"Layer {LAYERS[place[0]]}, t = {STEPS[place[1]]}"  # not a map that is dark all over
    browser.run("document.querySelector('.router').scrollIntoView({ behavior: 'instant', block: 'center' })")
    box = browser.run(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('.sheet').getBoundingClientRect())"
    )
    left, top, width, height = box  # 6 steps x 5 layers
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + width * 1.5 / 6, y=top + height * 0.5 / 5)
    assert browser.run("document.querySelector('.router output').textContent") == "Layer down 0, t = 750"
    assert browser.run("document.querySelector('.router .map').style.backgroundPosition") == "20% 0%"
    browser.run("document.querySelector('.router .layer').focus()")
    press(browser, "ArrowRight")
    assert browser.run("document.querySelector('.router output').textContent") == "Layer down 1, t = 750"
    assert browser.run("document.activeElement.getAttribute('aria-valuetext')") == "down 1"
    assert browser.run("document.querySelectorAll('.router .map:not([hidden])').length") == 2


def test_pictures_are_large_enough_to_know_a_face_again(browser: Browser) -> None:
    widths = "[...document.querySelectorAll({!r})].map(e => e.offsetWidth).filter(Boolean)"
    for selector, least in ((".cards img", 150), (".ablation:not(.pairs) .shot img", 190), (".hero .shot img", 180)):
        assert min(browser.run(widths.format(selector))) >= least, selector
    browser.run("document.querySelector('.hero .shot[data-method=moa] a').click()")
    assert browser.run("document.querySelector('#compare .people img').offsetWidth") >= 110
    assert browser.run("(d => d.scrollHeight <= d.clientHeight)(document.querySelector('#compare'))")  # at 1280 x 900
    browser.run("document.querySelector('#compare').close()")


def test_charts_export_with_the_colours_of_the_page(browser: Browser) -> None:
    browser.run(
        """(() => { window.saved = []; URL.createObjectURL = blob => { saved.push(blob); return 'blob:none'; };
        HTMLAnchorElement.prototype.click = function () { saved.push(this.download); }; })()"""
    )
    browser.run("document.querySelector('#training [data-export=svg]').click()")
    assert browser.run("saved[1]") == "loss-over-training-steps.svg"
    text = browser.run("saved[0].text()")
    assert text.startswith("<svg") and "#2f5bd0" in text and "var(" not in text
    browser.run("document.querySelector('#training [data-export=png]').click()")
    browser.run("new Promise(done => setInterval(() => saved.length > 3 && done(), 20))")
    assert browser.run("saved[3]") == "loss-over-training-steps.png"
    size = browser.run("createImageBitmap(saved[2]).then(image => [image.width, image.height])")
    assert size[0] > 1000 and size[1] > 300
    assert browser.problems() == []


def test_without_scripts_everything_is_there(report: Path, tmp_path: Path) -> None:
    with Browser(str(find_chromium()), tmp_path / "profile") as plain:
        plain.call("Emulation.setScriptExecutionDisabled", value=True)
        plain.open(report)
        plain.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert shown(plain, ".sheet img") == 2 and shown(plain, ".plot svg") >= 9
        assert shown(plain, ".knobs, .cursor, .filters, [data-export]") == 0
        plain.run("document.querySelector('.methods input[value=prior]').click()")  # the switch is style alone
        assert shown(plain, ".grid .shot[data-method=prior]") == shown(plain, ".grid .shot") == 16


@pytest.fixture(scope="module")
def history(complete_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of twenty runs that were rejected for long reasons."""
    folder = tmp_path_factory.mktemp("history")
    for number in range(20):
        name, pictures = f"photographs-week-{number:02d}", shutil.ignore_patterns("*.png")  # an index opens none
        run = shutil.copytree(complete_run, folder / name, ignore=pictures)
        (run / "gate.json").write_text(json.dumps(gate(*["IP: the low end of its interval is not above -0.02."] * 3)))
    return build_history(folder)[0]


def test_index_of_many_runs_is_compact_and_keeps_its_heads_in_sight(history: Path, tmp_path: Path) -> None:
    with Browser(str(find_chromium()), tmp_path / "profile", width=1280) as browser:
        browser.open(history)
        rows = "[...document.querySelectorAll('.runs')[0].tBodies[0].rows].map(row => row.offsetHeight)"
        assert len(browser.run(rows)) == 20 and max(browser.run(rows)) <= 64
        scrolled = "document.querySelector('.scroll.tall')"
        browser.run(f"{scrolled}.scrollTop = 1e6")
        head = f"{scrolled}.querySelector('thead th').getBoundingClientRect().top"
        assert abs(browser.run(f"{head} - {scrolled}.getBoundingClientRect().top")) <= 2
        browser.run("document.querySelector('.reasons summary').click()")
        assert browser.run(rows)[0] > 100 and browser.problems() == []
        browser.resize(390, 844)
        assert browser.run("document.documentElement.scrollWidth") <= 390


def test_words_without_a_break_do_not_widen_the_page(tmp_path: Path) -> None:
    prompts = [("p", "context", "a {word} " + 300 * "no"), ("q", "context", "a {word}")]
    page = build_report(make_run(tmp_path, prompts=prompts, subjects=SUBJECTS[:2], methods=METHODS[:3]))
    with Browser(str(find_chromium()), tmp_path / "profile", width=1280) as browser:
        browser.open(page)
        for width in (1280, 390):
            browser.resize(width, 844)
            assert browser.run("document.documentElement.scrollWidth") <= width


def test_phone_and_dark(report: Path, tmp_path: Path) -> None:
    with Browser(str(find_chromium()), tmp_path / "profile", width=390, height=844, dark=True) as phone:
        phone.open(report)
        assert phone.run("document.documentElement.scrollWidth") <= 390
        phone.screenshot(tmp_path / "phone.png")
    with Image.open(tmp_path / "phone.png") as image:
        assert max(image.convert("RGB").getpixel((2, 840))) < 60  # the page's background


def test_paper_cuts_nothing_off_and_holds_nothing_that_only_a_screen_can_do(report: Path, tmp_path: Path) -> None:
    with Browser(str(find_chromium()), tmp_path / "profile", width=1003, height=700) as paper:  # Letter, its long side
        paper.open(report)
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        paper.call("Emulation.setEmulatedMedia", media="print", features=[dark])
        shade, ink = (
            f"getComputedStyle(document.querySelector('.numbers tbody th')).{name}"
            for name in ("backgroundColor", "color")
        )
        assert paper.run(shade) == "rgb(255, 255, 255)" and paper.run(ink) == "rgb(29, 31, 35)"  # whatever the screen
        wide = "[...document.querySelectorAll('table, svg')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        assert paper.run(f"{wide}.map(e => e.className)") == []
        assert shown(paper, ".export, .filters, .knobs, .only-script, .toc, .view .map") == 0
        assert shown(paper, ".methods label") == 1  # whose images the grid shows
        assert shown(paper, ".claims thead") == 1  # a table, as on a wide screen
        dot = "getComputedStyle(document.querySelector('.key'), '::before').content"
        assert paper.run(dot).startswith('"●')  # a printer leaves backgrounds out
