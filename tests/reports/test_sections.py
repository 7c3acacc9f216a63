"""The parts of an evaluation in the page: claims, bounds, comparisons, ablations, swaps, pairs, routers, model card.

pytest tests/reports/test_sections.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from reports.build import build_report
from reports.errors import CorruptFileError
from reports.evaluation_format import Statistic
from reports.router import short_name
from reports.run_folder import read_run
from reports.tables import verdict
from tests.reports.fake_run import LAYERS, METHODS, STEPS, make_run
from tests.reports.page_reader import Element, Page

EVALUATION = "evaluation/miniature"


@pytest.fixture(scope="module")
def page(complete_run: Path) -> Page:
    return Page(build_report(complete_run))


@pytest.fixture(scope="module")
def summary(complete_run: Path) -> dict[str, Any]:
    return json.loads((complete_run / EVALUATION / "summary.json").read_text())


def rows_of(page: Page, section: str) -> list[Element]:
    return [tr for tr in page.all("tr") if tr.inside("section", id=f"suite0-{section}")]


def test_each_claim_says_its_verdict_in_words(page: Page, summary: dict[str, Any]) -> None:
    words = {True: "holds", False: "does not hold", None: "not measured here"}
    rows = rows_of(page, "claims")[1:]
    assert len(rows) == 10
    for row, claim in zip(rows, summary["claims"], strict=True):
        assert claim["id"] in row.text and claim["claim"] in row.text and claim["criterion"] in row.text
        said = [span.text for span in page.all("span") if row in span.parents and "verdict" in str(span.attributes)]
        assert said[0].endswith(words[claim["holds"]])
        figures = [data.text for data in page.all("data") if row in data.parents]
        expected = [claim[side]["mean"] for side in ("value", "against") if claim[side]]
        assert figures == [f"{mean:.3f}" for mean in expected]
    assert "no accessory prompts" in rows[6].text and "n = 4" in rows[0].text


def test_verdicts_stand_on_the_first_screen(page: Page) -> None:
    chips = [a for a in page.all("a") if a.inside("ul", **{"class": "chips"})]
    assert [chip.attributes["href"] for chip in chips] == [f"#suite0-claim-{number}" for number in range(1, 11)]
    assert all(page.by_id(chip.attributes["href"][1:]) for chip in chips)
    assert "does not hold" in chips[4].text and "✕" in chips[4].text
    assert "8 hold, 1 does not hold, 1 not measured here of 10 claims" in page.text


def test_upper_bound_is_a_row_of_its_own(page: Page) -> None:
    row = next(tr for tr in page.all("tr") if "upper bound" in tr.text)
    assert "0.810" in row.text and "0.770 – 0.850" in row.text and "40" in row.text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.3, "higher"), (-0.3, -0.01, "lower"), (-0.1, 0.2, "not told apart"), (None, None, "no interval")],
)
def test_only_an_interval_without_zero_tells_methods_apart(low: float | None, high: float | None, said: str) -> None:
    middle = 0.1 if low is None or high is None else (low + high) / 2
    assert verdict(Statistic(mean=middle, low=low, high=high)) == said


def test_champion_comes_first_among_the_paired_differences(page: Page, summary: dict[str, Any]) -> None:
    rows = [tr for tr in rows_of(page, "results") if "data-before" in tr.attributes]
    assert [row.attributes["data-before"] for row in rows] == ["champion", "no-moa", "no-spacetime", "ink"]
    for row in rows:
        part = next(c for c in summary["comparisons"] if c["before"] == row.attributes["data-before"])
        shown = [float(data.attributes["value"]) for data in page.all("data") if row in data.parents]
        assert shown == [part[name]["mean"] for name in ("ip", "pc", "context_change_outside")]


def test_one_grid_for_each_question_of_the_ablations(page: Page) -> None:
    titles = [h3.text for h3 in page.all("h3") if h3.inside("section", id="suite0-ablation")]
    assert titles == [
        "With and without the MoA layers",
        "With and without the spacetime encoding",
        "Another base checkpoint",
    ]
    shots = [f for f in page.all("figure") if f.inside("table", **{"class": "ablation"})]
    other = [f.attributes["data-method"] for f in shots][-4:]
    assert other == ["prior", "moa", "ink-prior", "ink"]
    for shot in shots:
        row = next(parent for parent in shot.parents if parent.tag == "tr")
        assert shot.attributes["data-key"].startswith(row.attributes["data-subject"] + "|")


def test_priors_stand_before_what_is_compared_with_them(complete_run: Path) -> None:
    evaluation = read_run(complete_run).evaluations[0]
    names = [method.method for method in evaluation.methods]
    assert names == ["prior", "moa", "champion", "no-moa", "no-spacetime", "ink-prior", "ink"]
    assert evaluation.shown.method == "moa" and evaluation.prior is evaluation.methods[0]


def test_swaps_share_prompt_and_seed_and_differ_in_the_subject(page: Page) -> None:
    shots = [f.attributes["data-key"].split("|") for f in page.all("figure") if f.inside("table", **{"class": "swaps"})]
    first = shots[1:4]  # after the prior's image
    assert len({(prompt, seed) for _, prompt, seed in first}) == 1
    assert len({subject for subject, _, _ in first}) == 3
    said = [img.attributes["alt"] for img in page.all("img") if img.inside("tr", **{"class": "differences"})]
    assert len(said) == 2 * (3 + 2)  # two prompts; to the prior for each subject, to the left for all but the first
    assert said[3] == "Absolute difference, 3 times amplified: m-000002 minus m-000001"


def test_pairs_have_a_table_and_both_references(page: Page, summary: dict[str, Any]) -> None:
    table = next(table for table in page.all("table") if table.attributes.get("id") == "suite0-pairs-table")
    for method in summary["pairs"]:
        row = next(tr for tr in page.all("tr") if table in tr.parents and tr.text.startswith(method["label"]))
        assert (
            f"{method['leakage']['mean']:.3f}" in row.text and f"{method['assigned']['mean'] * 100:.1f} %" in row.text
        )
    grid = [tr for tr in rows_of(page, "pairs") if " + " in tr.text]
    assert len(grid) == 6
    for row in grid:
        assert len([img for img in page.all("img") if row in img.parents and "Reference" in img.attributes["alt"]]) == 2
        assert len([figure for figure in page.all("figure") if row in figure.parents]) == len(METHODS)


def test_router_maps_are_there_without_a_script(page: Page) -> None:
    routers = [div for div in page.all("div") if div.attributes.get("class") == "router"]
    assert len(routers) == 2
    assert json.loads(routers[0].attributes["data-layers"]) == LAYERS
    assert [float(step) for step in json.loads(routers[0].attributes["data-steps"])] == STEPS
    sprites = [img for img in page.all("img") if "Router maps of 5 layers at 6 steps" in img.attributes["alt"]]
    assert len(sprites) == 2 and sprites[0].attributes["width"] == "96"
    assert "Prior share by layer" in page.text and "Prior share by step" in page.text


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn1", "down 0.1 self"),
        ("mid_block.attentions.0.transformer_blocks.0.attn2", "mid 0 cross"),
        ("down 0", "down 0"),
        ("<b>", "<b>"),
    ],
)
def test_layers_have_short_names(layer: str, said: str) -> None:
    assert short_name(layer) == said


def test_every_chart_can_be_taken_along(page: Page) -> None:
    plots = [figure for figure in page.all("figure") if figure.attributes.get("class") == "plot"]
    assert len(plots) >= 9
    for plot in plots:
        link = next(a for a in page.all("a") if plot in a.parents and "download" in a.attributes)
        head, rows = unquote(link.attributes["href"]).split(",", 1)
        assert head.startswith("data:text/csv") and rows.count("\n") >= 2
        buttons = [b.attributes for b in page.all("button") if plot in b.parents]
        assert [b["data-export"] for b in buttons] == ["svg", "png"] and all("hidden" in b for b in buttons)


def test_model_card_names_what_a_user_needs(page: Page, summary: dict[str, Any]) -> None:
    card = page.by_id("card")
    assert card is not None
    moa = next(method for method in summary["methods"] if method["kind"] == "moa")
    facts = ("small base", "team/moa", "187.0 MB", "week-01-ababab", "120 steps", f"{moa['ip']['mean']:.3f}")
    assert all(fact in card.text for fact in facts)
    assert "MoAPipeline.from_pretrained('team/moa')" in card.text
    assert "adapter/moa.safetensors" in card.text and "Use photographs of people who agreed" in card.text


@pytest.mark.parametrize("lost", ["router.json", "pairs.parquet", "router"])
def test_parts_may_be_absent(run: Path, lost: str) -> None:
    path = run / EVALUATION / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if lost == "pairs.parquet":
        (run / EVALUATION / "pairs.csv").unlink()
    page = Page(build_report(run))
    assert (page.by_id("suite0-router") is None) == (lost == "router.json")
    assert page.by_id("suite0-pairs") is not None  # its table comes from the summary
    assert ("image file missing" in page.text) == (lost == "router")


def test_older_format_asks_to_evaluate_again(run: Path) -> None:
    path = run / EVALUATION / "summary.json"
    path.write_text(path.read_text().replace("moa-evaluation/3", "moa-evaluation/1"))
    with pytest.raises(CorruptFileError, match="moa-evaluation/1.*evaluate again") as caught:
        build_report(run)
    assert caught.value.field == "format"


@pytest.mark.parametrize(
    ("file", "change", "field"),
    [
        ("router.json", lambda value: value["background"].pop(), ""),
        ("router.json", lambda value: value["examples"][0].update(sprite="../../x.png"), "examples.0.sprite"),
        ("summary.json", lambda value: value["comparisons"][0].update(before="nobody"), ""),
        ("summary.json", lambda value: value["claims"][2].pop("criterion"), "claims.2.criterion"),
        ("summary.json", lambda value: value["pairs"][0].update(n=-1), "pairs.0.n"),
    ],
)
def test_broken_parts_are_named(run: Path, file: str, change: Any, field: str) -> None:
    path = run / EVALUATION / file
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(CorruptFileError) as caught:
        read_run(run)
    assert caught.value.path == path and caught.value.field == field


def test_markup_in_claims_pairs_layers_and_files_shows_as_text(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    run = make_run(tmp_path, subjects=[("a<b>", "man"), ("c&d", "man")], seeds=[1], methods=METHODS[:2])
    folder = run / EVALUATION
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("claim", "measure", "criterion", "note", "id"):
        summary["claims"][0][name] = f"{name}{bad}"
    summary["claims"][0]["value"]["label"] = f"label{bad}"
    summary["pairs"][1]["label"] = f"pair{bad}"
    (folder / "summary.json").write_text(json.dumps(summary))
    router = json.loads((folder / "router.json").read_text())
    router["layers"][0]["name"] = f"layer\"'{bad}"
    (folder / "router.json").write_text(json.dumps(router))
    publication = json.loads((run / "publication.json").read_text())
    publication |= {"repo_id": f"team{bad}", "files": {f"file{bad}": {"sha256": "x", "bytes": 1}}}
    (run / "publication.json").write_text(json.dumps(publication))
    page = Page(build_report(run))
    assert not [e for e in page.elements if any(name.startswith("on") for name in e.attributes)]
    assert not [img for img in page.all("img") if img.attributes.get("src") == "x"]
    for text in ("claim", "measure", "criterion", "note", "id", "label", "pair", "team", "file"):
        assert text + bad in page.text, text
    layers = json.loads(next(d for d in page.all("div") if "data-layers" in d.attributes).attributes["data-layers"])
    assert layers[0] == f"layer\"'{bad}"
    assert not page.all("b") or not [b for b in page.all("b") if b.text.startswith(">")]
