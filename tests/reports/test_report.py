"""The report of a run: complete, true to its files, escaped, offline, accessible; missing parts said, broken typed.

pytest tests/reports/test_report.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from PIL import Image

from reports.__main__ import main
from reports.build import build_report
from reports.errors import CorruptFileError, RunNotFoundError
from reports.run_folder import read_run
from reports.size import NOTE, Room
from tests.reports.fake_drawing import draw
from tests.reports.fake_run import METHODS, PROMPTS, make_run, write_json
from tests.reports.page_reader import Page

EVALUATION = "evaluation/miniature"


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report)


def test_every_section_is_there_and_reached_from_the_navigation(page: Page) -> None:
    sections = {element.attributes.get("id") for element in page.all("section")}
    expected = {
        f"suite0-{name}"
        for name in (
            "results",
            "claims",
            "swaps",
            "grid",
            "ablation",
            "pairs",
            "router",
            "gallery",
            "failures",
            "tables",
        )
    }
    assert expected | {"training", "data", "card", "reproduce", "limits"} <= sections
    links = [a.attributes["href"][1:] for a in page.all("a") if a.inside("nav")]
    assert len(links) == 15 and set(links) <= sections
    for heading in ("Best", "Median", "Worst", "Random", "By category", "By prompt", "By subject"):
        assert heading in page.text


def test_title_names_run_dataset_and_adapter(page: Page) -> None:
    assert page.all("h1")[0].text == "week-01"
    facts = {dt.text: dd.text for dt, dd in zip(page.all("dt"), page.all("dd"), strict=True)}
    assert facts["Dataset"] == "small"
    assert facts["Adapter"].startswith("step 120 · 5f5f5f")
    assert facts["Suite"] == "miniature v1 · 192 images"


def test_table_numbers_are_those_of_the_summary(page: Page, complete_run: Path) -> None:
    summary = json.loads((complete_run / EVALUATION / "summary.json").read_text())
    for method in summary["methods"]:
        shown = [data for data in page.all("data") if data.inside("tr", **{"data-method": method["method"]})]
        names = ["ip", "pc", "followed", "item_shown", "scene_shown", "detection_rate", "context_change_outside"]
        expected = [method[name]["mean"] for name in names if method[name] is not None]
        assert [float(data.attributes["value"]) for data in shown] == expected
        assert shown[0].text == f"{method['ip']['mean']:.3f}"
        row = next(tr for tr in page.all("tr") if tr.attributes.get("data-method") == method["method"])
        assert f"{method['ip']['low']:.3f} – {method['ip']['high']:.3f}" in row.text
        assert f"{method['detection_rate']['mean'] * 100:.1f} %" in row.text
        others = {method[name]["n"] for name in names if method[name] is not None} - {method["n"]}
        assert {
            int(span.text.removeprefix("n = "))
            for span in page.all("span")
            if row in span.parents and span.attributes.get("class") == "n"
        } == others


def test_published_rows_are_marked_and_kept_apart(page: Page) -> None:
    rows = [tr for tr in page.all("tr") if "published" in tr.text and tr.inside("table")]
    assert len(rows) == 1
    assert "0.555" in rows[0].text and "arXiv 2404.11565" in rows[0].text
    assert rows[0].inside("table", **{"class": "numbers published"})
    measured = page.by_id("suite0-table")
    assert measured is not None and "Measured here" in measured.text and "paper" not in measured.text
    assert "do not compare" in page.text


def test_finding_follows_from_the_numbers(page: Page) -> None:
    lede = next(p for p in page.all("p") if p.attributes.get("class") == "lede")
    assert "Identity (IP) is 0." in lede.text and ", higher by 0." in lede.text
    assert "Beside “Without MoA layers”, scene change is 0." in lede.text


def test_figures_stand_before_the_pictures_and_say_what_they_are_of(page: Page) -> None:
    top = page.by_id("suite0-top")
    assert top is not None
    told = "Measured here on 4 people x 4 prompts x 2 seeds; small figures are 95\xa0% intervals over people"
    assert top.text.index("Is it the person?") < top.text.index(told) < top.text.index("Every picture of a row")
    assert "no figure here compares with a published one" in top.text
    assert "#limits" in [a.attributes["href"] for a in page.all("a") if top in a.parents]
    ends = [p.text for p in page.all("p") if p.attributes.get("class") == "ends"]
    assert len(ends) == 4 and ends[0] == "01" and ends[2] == "0 %100 %"


def test_hero_shows_the_same_prompts_and_seed_for_all_its_columns(page: Page) -> None:
    shots = [figure for figure in page.all("figure") if figure.inside("table", **{"class": "hero"})]
    assert [shot.attributes["data-method"] for shot in shots] == [
        "prior",
        "moa",
        "moa",
        "moa",
        "no-moa",
        "no-spacetime",
    ] * 2
    keys = [shot.attributes["data-key"].split("|") for shot in shots]
    assert {key[0] for key in keys} == {"miniature"} and {key[3] for key in keys} == {"11"}
    assert len({key[2] for key in keys[:5]}) == 1 and len({key[2] for key in keys}) == 2
    assert len({key[1] for key in keys[1:4]}) == 3
    captions = [caption.text for caption in page.all("figcaption") if caption.inside("table", **{"class": "hero"})]
    assert "IP" not in captions[0] + captions[6]  # the prior was given nobody
    assert all("PC" in caption for caption in captions) and "IP" in shots[0].attributes["data-scores"]


def test_grid_holds_every_subject_prompt_and_method_once(page: Page) -> None:
    keys = [
        (figure.attributes["data-method"], figure.attributes["data-key"])
        for figure in page.all("figure")
        if figure.inside("table", **{"class": "grid"})
    ]
    assert len(keys) == len(set(keys)) == 7 * 4 * 4


def test_opens_without_network(page: Page, complete_run: Path) -> None:
    folder = complete_run / "report"
    for element in page.elements:
        for name in ("src", "href", "srcset", "poster", "action"):
            value = element.attributes.get(name, "")
            if value and not value.startswith(("data:", "#")):
                assert "://" not in value and not value.startswith("//"), f"<{element.tag} {name}={value[:80]}>"
                assert (folder / unquote(value)).exists(), f"{value} leads nowhere"
    style = page.all("style")[0].text
    assert "url(" not in style and "@import" not in style
    policy = next(m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_spaces_are_spaces_and_intervals_what_they_are(page: Page, complete_run: Path) -> None:
    assert "&amp;nbsp;" not in (complete_run / "report" / "index.html").read_text()
    results = page.by_id("suite0-results")
    assert results is not None and "t intervals whose standard error is bootstrapped over people" in results.text


def test_each_prompt_of_the_hero_is_a_group_of_rows(page: Page) -> None:
    groups = [body for body in page.all("tbody") if body.inside("table", **{"class": "hero"})]
    heads = [th for th in page.all("th") if th.attributes.get("scope") == "rowgroup"]
    assert len(groups) == len(heads) == 2 and all(g in h.parents for g, h in zip(groups, heads, strict=True))


def test_page_is_small(complete_run: Path) -> None:
    assert (complete_run / "report" / "index.html").stat().st_size < 2_500_000


def test_small_images_stay_sharp_and_large_ones_are_shrunk(page: Page, tmp_path: Path) -> None:
    assert all("pixelated" in img.attributes.get("class", "") for img in page.all("img") if img.attributes.get("src"))
    large = make_run(tmp_path, prompts=PROMPTS[:1], seeds=[1], draw=_large)
    found = [img for img in Page(build_report(large)).all("img") if img.attributes.get("src")]
    small = ("suite0-pairs", "suite0-failures")  # those of two people are drawn small
    images = [
        img
        for img in found
        if not img.inside("div", **{"class": "sheet"}) and not any(img.inside("section", id=name) for name in small)
    ]
    assert images and not any("pixelated" in img.attributes.get("class", "") for img in images)
    assert max(int(img.attributes["width"]) for img in images) == 320


def _large(method: str, subject: str, word: str, prompt: str, seed: int) -> Image.Image:
    return draw(method, subject, word, prompt, seed).resize((512, 512))


def test_sensible_for_keyboard_and_screen_reader(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(tag)) == 1, tag
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for img in page.all("img"):
        assert "alt" in img.attributes
        assert img.attributes["alt"] or img.inside("dialog")
    assert all(th.attributes.get("scope") in ("col", "row", "colgroup", "rowgroup") for th in page.all("th"))
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img" and svg.attributes["aria-label"]
    regions = [element for element in page.elements if element.attributes.get("role") == "region"]
    assert regions and all(r.attributes["tabindex"] == "0" and r.attributes["aria-label"] for r in regions)


def test_readable_without_javascript(page: Page) -> None:
    filters = next(form for form in page.all("form") if form.attributes.get("class") == "filters")
    assert "hidden" in filters.attributes  # the script shows it
    links = [a for a in page.all("a") if a.inside("figure") and a.attributes["href"].endswith(".png")]
    assert len(links) > 48  # each image leads to its original


def test_markup_in_names_and_prompts_shows_as_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    run = make_run(
        tmp_path,
        "a&b <i>run",
        subjects=[("<b>bold", "man"), ("x\" onerror='alert(2)'", "man")],
        prompts=[("p", "c<u>", f"a {{word}} {bad}"), ("q#?&1", "c<u>", "a {word} {{ 7 * 7 }}")],
        methods=[
            METHODS[0],
            replace(METHODS[1], label="<em>MoA</em>"),
            replace(METHODS[3], method="<s>", label="A & B"),
        ],
    )
    (run / "metrics.jsonl").unlink()
    page = Page(build_report(run))
    assert len(page.all("script")) == 1
    assert not [tag for tag in ("em", "s", "u") if page.all(tag)]
    assert not [element for element in page.all("b") + page.all("i") if element.text.startswith(("bold", "run"))]
    assert not [e for e in page.elements if any(name.startswith("on") for name in e.attributes)]
    for text in (bad, "<b>bold", "<em>MoA</em>", "a&b <i>run", "{{ 7 * 7 }}"):
        assert text in page.text
    for a in page.all("a"):
        href = a.attributes.get("href", "")
        if href and not href.startswith(("#", "data:")):
            assert (run / "report" / unquote(href)).is_file(), href


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("evaluation", "There is no evaluation yet"),
        ("metrics.jsonl", "Training has not logged a step"),
        ("export", "No adapter was exported"),
        ("publication.json", "Nothing was published"),
        (f"{EVALUATION}/summary.json", "Evaluation miniature is not finished"),
        (f"{EVALUATION}/suite.json", ""),
        (f"{EVALUATION}/references", "image file missing"),
        (f"{EVALUATION}/images/moa", "image file missing"),
        ("../../data/small", "training data was not found"),
        ("../../data/small/quality.json", "quality.json is absent or empty"),
    ],
)
def test_missing_part_is_said_plainly(run: Path, lost: str, said: str) -> None:
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(build_report(run))
    gaps = " ".join(element.text for element in page.elements if element.attributes.get("class") == "gap")
    assert said in page.text + gaps
    # what is wholly absent has no section: one line among what is missing says so
    assert (page.by_id("training") is None) == (lost == "metrics.jsonl")
    assert (page.by_id("card") is None) == (lost == "export")
    assert (page.by_id("data") is None) == (lost == "../../data/small")
    assert all(page.by_id(a.attributes["href"][1:]) for a in page.all("a") if a.inside("nav"))


def test_scores_as_csv_are_enough(run: Path) -> None:
    before = Page(build_report(run)).text
    (run / EVALUATION / "scores.parquet").unlink()
    assert Page(build_report(run)).text == before
    (run / EVALUATION / "scores.csv").unlink()
    page = Page(build_report(run))
    assert "has no scores.parquet or scores.csv" in page.text and page.by_id("suite0-grid") is None


def test_without_an_ablation_there_is_no_ablation_grid(tmp_path: Path) -> None:
    page = Page(build_report(make_run(tmp_path, methods=METHODS[:2])))
    assert page.by_id("suite0-ablation") is None
    assert page.by_id("suite0-grid") is not None


def test_unreadable_image_is_named_and_the_rest_is_shown(run: Path) -> None:
    (run / EVALUATION / "images/moa/m-000001/beach/11.png").write_bytes(b"not an image")
    page = Page(build_report(run))
    gaps = [e for e in page.elements if e.attributes.get("class") == "gap" and "unreadable" in e.text]
    assert gaps and "m-000001" in gaps[0].attributes["aria-label"]


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        (f"{EVALUATION}/summary.json", "{", ""),
        (f"{EVALUATION}/summary.json", '{"format": "moa-adapter/1"}', "format"),
        (f"{EVALUATION}/router.json", '{"layers": []}', "layers"),
        (f"{EVALUATION}/pairs.parquet", "PAR1", ""),
        (f"{EVALUATION}/summary.json", "[1]", ""),
        (f"{EVALUATION}/scores.parquet", "PAR1", ""),
        ("metrics.jsonl", '{"step": 1}\n{"step": "x"}\n', "line 2.step"),
        ("metrics.jsonl", '{"step": 1, "loss": NaN}\n', "line 1"),
        ("export/manifest.json", '{"format": "moa-adapter/1"}', "digest"),
        ("config.json", "[]", ""),
    ],
)
def test_corrupt_file_is_named(run: Path, file: str, content: str, field: str, capsys: pytest.CaptureFixture) -> None:
    (run / file).write_text(content)
    with pytest.raises(CorruptFileError) as caught:
        build_report(run)
    assert caught.value.path == run / file
    assert caught.value.field == field
    assert main([str(run)]) == 1
    assert file in capsys.readouterr().err
    assert not (run / "report" / "index.html").exists()


def test_evaluation_begun_again_keeps_its_section_with_a_caution(run: Path, page: Page) -> None:
    said = "Evaluation miniature is being evaluated again, or was interrupted (it has no manifest.json)"
    assert said not in page.text
    (run / EVALUATION / "manifest.json").unlink()
    page = Page(build_report(run))
    assert said in "".join(li.text for li in page.all("li") if li.inside("aside"))
    top, results = page.by_id("suite0-top"), page.by_id("suite0-results")
    assert top is not None and said in top.text and results is not None  # where its figures are, too


def test_evaluation_of_another_format_leaves_the_rest_of_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, suites=("miniature", "old"), prompts=PROMPTS[:1], seeds=[1])
    path = run / "evaluation/old/summary.json"
    path.write_text(path.read_text().replace("moa-evaluation/5", "moa-evaluation/4"))
    said = (
        "Evaluation old has format moa-evaluation/4, and this report reads moa-evaluation/5: move evaluation/old out "
        "of the run and evaluate again."
    )
    page = Page(build_report(run))
    assert said in page.text and page.by_id("suite0-results") is not None and page.by_id("suite1-top") is None
    for part in ("lifecycle.json", "config.json", "metrics.jsonl"):
        (run / part).unlink()
    for part in ("export", "evaluation/miniature"):
        shutil.rmtree(run / part)
    assert said in Page(build_report(run)).text  # though the old evaluation is all there is


def test_a_path_that_is_no_utf8_is_shown_as_far_as_it_can_be(run: Path) -> None:
    """Names on a disk may be any bytes, and a page is UTF-8."""
    write_json(run / "lifecycle.json", {"preprocess": {"source_root": os.fsdecode(b"/photos/caf\xe9")}})
    assert "/photos/caf?" in Page(build_report(run)).text


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="holds no run"):
        build_report(tmp_path)
    assert main([str(tmp_path / "nowhere")]) == 1


def test_page_that_cannot_be_written_is_told_without_a_traceback(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "report").write_text("a file where the folder goes")
    assert main([str(run)]) == 1
    assert f"{run / 'report'}" in capsys.readouterr().err


def test_same_files_give_the_same_page(run: Path) -> None:
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first
    assert [path.name for path in (run / "report").iterdir()] == ["index.html"]


def test_evaluation_of_another_adapter_is_noticed(run: Path) -> None:
    path = run / "export/manifest.json"
    path.write_text(path.read_text().replace("5f" * 32, "6e" * 32))
    assert "which is not the one in export/ now" in Page(build_report(run)).text


def test_a_dataset_that_was_made_anew_after_the_training_is_said(run: Path) -> None:
    said = "was made anew after the training"
    assert said not in Page(build_report(run)).text
    dataset = read_run(run).dataset
    assert dataset is not None
    manifest = dataset.folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"digest": "sha256:" + "9" * 64}))
    assert said in Page(build_report(run)).text


def test_command_is_printed_as_one_would_type_it(page: Page) -> None:
    assert any("python -m moa.evaluation.run 'runs/a b'" in pre.text for pre in page.all("pre"))
    assert any("git checkout c0ffee" in pre.text for pre in page.all("pre"))


def test_reports_need_no_torch(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from reports.__main__ import main; status = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    page = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, cwd=tmp_path, env=os.environ
    )
    assert page.returncode == 0, page.stderr
    assert page.stdout.strip().endswith("index.html")


def test_method_without_rows_leaves_the_hero_out(run: Path) -> None:
    folder = run / EVALUATION
    rows = pd.read_parquet(folder / "scores.parquet")
    rows[rows["method"] != "moa"].to_parquet(folder / "scores.parquet")
    page = Page(build_report(run))
    assert not [table for table in page.all("table") if table.attributes.get("class") == "hero"]
    assert "nothing to rank" in page.text and page.by_id("suite0-grid") is not None


def test_large_grids_are_thinned_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "reports.size.ROOMS", (Room(70, 1.0, NOTE),)
    )  # of 112: all 4 prompts, then as many subjects as fit
    page = Page(build_report(make_run(tmp_path, seeds=[1])))
    grid = [f for f in page.all("figure") if f.inside("table", **{"class": "grid"})]
    assert len(grid) == 56
    assert "2 of 4 subjects and 4 of 4 prompts are shown" in page.text and NOTE in page.text


def test_two_suites_have_sections_of_their_own(tmp_path: Path) -> None:
    page = Page(build_report(make_run(tmp_path, suites=("miniature", "again"), prompts=PROMPTS[:1], seeds=[1])))
    assert page.by_id("suite0-grid") is not None and page.by_id("suite1-grid") is not None
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    nav, local = page.all("nav")
    assert [a.attributes["href"] for a in page.all("a") if nav in a.parents].count("#suite1-top") == 1
    assert "#suite1-grid" in [a.attributes["href"] for a in page.all("a") if local in a.parents]
    keys = {
        figure.attributes["data-key"].split("|")[0] for figure in page.all("figure") if "data-key" in figure.attributes
    }
    assert keys == {"miniature", "again"}


def test_every_method_has_a_rule_that_shows_it(tmp_path: Path) -> None:
    many = [*METHODS, *(replace(METHODS[3], method=f"more-{number}", label=f"More {number}") for number in range(3))]
    page = Page(build_report(make_run(tmp_path, methods=many, prompts=PROMPTS[:1], seeds=[1])))
    style = page.all("style")[0].text
    picks = [i.attributes["class"] for i in page.all("input") if i.attributes.get("class", "").startswith("pick")]
    assert len(picks) == 10
    for number, pick in enumerate(picks):
        assert f".{pick}:checked) .grid .shot:not(.m{number})" in style


def test_tables_have_captions(page: Page) -> None:
    captioned = {id(caption.parents[-1]) for caption in page.all("caption") if caption.text.strip()}
    assert page.all("table") and all(id(table) in captioned for table in page.all("table"))
