"""The parts of an evaluation in the page: claims, bounds, comparisons, ablations, swaps, pairs, routers, model card.

pytest tests/reports/test_sections.py
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from reports.build import build_report
from reports.claims import claims_table
from reports.errors import CorruptFileError
from reports.evaluation_format import Claim, Statistic
from reports.model_card import model_card
from reports.page import number, score, signed
from reports.run_folder import read_run
from reports.tables import LOCALITY, MAIN, PAIRS, _breakdown, judged, measured, verdict
from tests.reports.fake_run import LAYERS, METHODS, PROMPTS, STEPS, gate, make_run
from tests.reports.page_reader import Element, Page

EVALUATION = "evaluation/miniature"


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report)


@pytest.fixture(scope="module")
def summary(complete_run: Path) -> dict[str, Any]:
    return json.loads((complete_run / EVALUATION / "summary.json").read_text())


PUBLISHED = {"method": "FastComposer", "ip": 0.431, "pc": 0.243, "source": "arXiv 2305.10431, table 1"}


def rows_of(page: Page, section: str) -> list[Element]:
    return rows_in(page, f"suite0-{section}")


def rows_in(page: Page, section: str) -> list[Element]:
    return [tr for tr in page.all("tr") if tr.inside("section", id=section)]


def test_each_claim_says_its_verdict_in_words(page: Page, summary: dict[str, Any]) -> None:
    words = {"yes": "yes", "no": "no", "undecided": "undecided", "unmeasured": "not measured"}
    rows = rows_of(page, "claims")[1:]
    assert len(rows) == 10
    for row, claim in zip(rows, summary["claims"], strict=True):
        assert claim["id"] in row.text and claim["claim"] in row.text and claim["criterion"] in row.text
        said = [span.text for span in page.all("span") if row in span.parents and "verdict" in str(span.attributes)]
        assert said[0].endswith(words[claim["verdict"]])
        figures = [data for data in page.all("data") if row in data.parents]
        expected = [claim[side]["mean"] for side in ("value", "against") if claim[side]]
        expected += [test["mean"] for test in claim["tests"]]
        assert [float(data.attributes["value"]) for data in figures] == expected
        percent = claim["id"] == "C4"  # the one about a share of images; that of C8 is a weight
        if expected:
            assert figures[0].text == (score(expected[0], percent)) and figures[-1].text == signed(
                expected[-1], percent
            )
            assert (" pp" in row.text) == percent
    assert "no accessory prompts" in rows[6].text and "n = 4" in rows[0].text
    judged = {row.text.split()[0]: row.text for row in rows}
    assert "✓ below 0" in judged["C1"] and "✕ not above 0" in judged["C5"] and "? spans 0" in judged["C6"]


def test_nothing_is_said_of_a_variance_of_training_that_nobody_measured(page: Page) -> None:
    said = "Each method is one training run"
    for section, more in (("suite0-claims", "hold no variance of training"), ("limits", "about these weights")):
        (text,) = [found.text for found in page.all("section") if found.attributes.get("id") == section]
        assert said in text and more in text


def test_a_claim_is_shown_as_its_unit_says_and_plain_without_one(summary: dict[str, Any]) -> None:
    written = copy.deepcopy(summary["claims"][3])  # C4, of shares
    found = Claim.model_validate(written)
    assert claims_table([found], []).rows[0].percent and claims_table([found], []).rows[0].tests[0].percent
    for part in (written["value"], written["against"], *written["tests"]):
        del part["unit"]  # as in summaries of before, whatever the quantity's name says
    (row,) = claims_table([Claim.model_validate(written)], []).rows
    assert (row.percent, row.tests[0].percent) == (False, False)


def test_figures_of_a_claim_have_the_tone_of_their_method(page: Page) -> None:
    keys = {
        row.text.split()[0]: [
            span.attributes["class"].split()[-1]
            for span in page.all("span")
            if row in span.parents and span.attributes.get("class", "").startswith("key")
        ]
        for row in rows_of(page, "claims")[1:]
    }
    assert keys["C3"] == ["t-moa", "t-prior"] and keys["C9"] == ["t-ablation", "t-moa"]
    assert keys["C10"] == ["t-ablation-2", "t-moa"] and keys["C8"] == ["t-soft", "t-soft"]  # the router's are nobody's
    drawn = {
        row.text.split()[0]: "".join(str(s.attributes) for s in page.elements if row in s.parents)
        for row in rows_of(page, "claims")[1:]
    }
    assert "var(--ablation)" in drawn["C9"] and "var(--prior)" not in drawn["C9"]
    assert "var(--soft)" in drawn["C8"] and "var(--moa)" not in drawn["C8"]


def test_verdicts_stand_on_the_first_screen(page: Page) -> None:
    chips = [a for a in page.all("a") if a.inside("ul", **{"class": "chips"})]
    assert [chip.attributes["href"] for chip in chips] == [f"#suite0-claim-{number}" for number in range(1, 11)]
    assert all(page.by_id(chip.attributes["href"][1:]) for chip in chips)
    assert "Layouts vary as much as the prior's" in chips[4].text and "✕" in chips[4].text
    assert "Of 10 claims of the paper: 7 yes, 1 no, 1 undecided, 1 not measured." in page.text


def test_decision_stands_first_with_its_numbers_and_rule(page: Page) -> None:
    decision = next(div for div in page.all("div") if div.attributes.get("class") == "decision yes")
    assert decision.parents[-1].attributes["class"] == "top"
    for said in (
        "✓ promoted",
        "as week-01-ababab",
        "MoA minus “Champion”",
        "32 pairs",
        "+0.071 +0.031 to +0.112 better",
        "+0.004 not told apart",
    ):
        assert said in " ".join(decision.text.split())
    assert "The rule: The low end of the 95 % interval" in decision.text


def test_rejected_candidate_is_shown_with_its_reasons(run: Path) -> None:
    reasons = ["IP: the low end <i>is</i> not above -0.02.", "3 images of MoA could not be scored; evaluate again."]
    judged = gate(*reasons) | {"pc": None}
    judged["candidate"]["adapter_digest"] = "sha256:other"
    (run / "gate.json").write_text(json.dumps(judged))
    page = Page(build_report(run))
    decision = next(div for div in page.all("div") if div.attributes.get("class") == "decision no")
    assert "✕ not promoted" in decision.text and [li.text for li in page.all("li") if decision in li.parents] == reasons
    assert "about adapter sha256:other, which is not the one in export/ now" in decision.text
    assert "PC" not in decision.text
    assert "week-01-ababab" not in decision.text, "where an earlier candidate of this run went"


def test_undecided_candidate_is_among_what_is_missing(run: Path) -> None:
    (run / "gate.json").unlink()
    page = Page(build_report(run))
    assert not [div for div in page.all("div") if div.attributes.get("class", "").startswith("decision")]
    assert "Nobody decided yet whether the candidate is promoted: gate.json is absent." in page.text


def test_upper_bound_is_a_row_of_its_own(page: Page) -> None:
    row = next(tr for tr in page.all("tr") if "upper bound" in tr.text)
    assert "0.810" in row.text and "0.770 – 0.850" in row.text and "40 people" in row.text


def test_upper_bound_nobody_measured_has_no_row(run: Path) -> None:
    path = run / EVALUATION / "summary.json"
    none = {"upper_bound": {"n": 0, "ip": {"n": 0, "mean": None}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | none))
    assert "upper bound" not in Page(build_report(run)).text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        *[(0.01, 0.3, "higher"), (-0.3, -0.01, "lower"), (None, None, "no interval")],
        *[(-0.1, 0.2, "not told apart"), (0.0, 0.3, "not told apart"), (-0.3, 0.0, "not told apart")],
    ],
)
def test_only_an_interval_without_zero_tells_methods_apart(low: float | None, high: float | None, said: str) -> None:
    middle = 0.1 if low is None or high is None else (low + high) / 2
    found = Statistic(n=4, mean=middle, low=low, high=high)
    assert verdict(found) == said
    assert judged(found, "↑") == {"higher": "better", "lower": "worse"}.get(said, said)
    assert judged(found, "↓") == {"higher": "worse", "lower": "better"}.get(said, said)


@pytest.mark.parametrize(
    ("value", "percent", "said"),
    [
        (0.0712, False, "+0.071"),
        (-0.0712, False, "−0.071"),
        (-0.0004, False, "−0.0004"),  # a bound that is not zero does not look like it
        (0.00001, False, "+0.00001"),
        (0.0, False, "0.000"),
        (-0.0, False, "0.000"),
        (-0.031, True, "−3.1"),
        (0.0004, True, "+0.04"),
        (0.0, True, "0.0"),
    ],
)
def test_differences_say_on_which_side_of_zero_they_lie(value: float, percent: bool, said: str) -> None:
    assert signed(value, percent) == said


def test_less_is_better_of_changes_and_leakage_and_shares_are_in_percent() -> None:
    columns = (*MAIN, *LOCALITY, *PAIRS)
    less = [column.field for column in columns if column.better == "↓"]
    assert less == ["context_change_outside", "context_change_outside", "swap_change_outside", "leakage"]
    shares = {column.field for column in columns if column.percent}
    assert shares == {"followed", "item_shown", "scene_shown", "detection_rate", "assigned", "two_faces"}


def test_a_score_that_nobody_has_is_no_column() -> None:
    rows = [SimpleNamespace(ip=Statistic(n=0), pc=None), SimpleNamespace(ip=None, pc=Statistic(n=1, mean=0.0))]
    assert [column.field for column in measured((MAIN[0], MAIN[1]), rows)] == ["pc"]


def test_rows_of_a_breakdown_are_in_the_order_of_the_suite_and_hold_something() -> None:
    method = SimpleNamespace(by_prompt={"a": 1, "b": 2, "later": 3})
    table = _breakdown([method], "By prompt", "Prompt", "by_prompt", {"b": "B", "nobody": "N", "a": "A"})
    assert table.rows == [("b", "B", [2]), ("a", "A", [1]), ("later", "", [3])]


@pytest.mark.parametrize(
    ("value", "said"),
    [(12345, "12,345"), (-3, "−3"), (0.049961, "0.04996"), (-0.61894, "−0.6189"), (1e-5, "1e-05"), (0, "0")],
)
def test_numbers_have_the_minus_of_a_number(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("value", "percent", "said"),
    [
        (None, False, "–"),
        (0.6124, False, "0.612"),
        (-0.0124, False, "−0.012"),  # a cosine may be negative
        (-0.0001, False, "0.000"),
        (1.0, True, "100 %"),
        (0.9388, True, "93.9 %"),
        (-0.0001, True, "0.0 %"),
    ],
)
def test_scores_have_three_decimals_and_shares_one(value: float | None, percent: bool, said: str) -> None:
    assert score(value, percent) == said


def test_paired_differences_of_shares_are_in_points_and_judged(page: Page, summary: dict[str, Any]) -> None:
    row = next(tr for tr in rows_of(page, "results") if tr.attributes.get("data-compared") == "no-moa")
    part = next(c for c in summary["comparisons"] if c["before"] == "no-moa")
    assert f"{signed(part['scene_shown']['mean'], True)} pp" in row.text
    assert part["context_change_outside"]["high"] < 0 and "better" in row.text and "lower" not in row.text


def test_champion_comes_first_among_the_paired_differences(page: Page, summary: dict[str, Any]) -> None:
    rows = [tr for tr in rows_of(page, "results") if "data-compared" in tr.attributes]
    assert [row.attributes["data-compared"] for row in rows] == ["champion", "prior", "no-moa", "no-spacetime", "ink"]
    labels = {method["method"]: method["label"] for method in summary["methods"]}
    for row in rows:
        compared = row.attributes["data-compared"]
        part = next(c for c in summary["comparisons"] if compared in (c["before"], c["after"]))
        assert f"{labels[part['after']]} minus “{labels[part['before']]}”" in " ".join(row.text.split())
        shown = [float(data.attributes["value"]) for data in page.all("data") if row in data.parents]
        names = ("ip", "pc", "item_shown", "scene_shown", "context_change_outside")
        assert shown == [part[name]["mean"] for name in names if part[name]]
        fewer = {part[name]["n"] for name in names if part[name]} - {part["n"]}
        assert fewer and all(f"n = {n}" in row.text for n in fewer)


def test_one_grid_for_each_question_of_the_ablations(page: Page) -> None:
    titles = [h3.text for h3 in page.all("h3") if h3.inside("section", id="suite0-ablation")]
    assert titles == [
        "With and without the MoA layers",
        "With and without the spacetime encoding",
        "Another base checkpoint",
    ]
    shots = [f for f in page.all("figure") if f.inside("table", **{"class": "ablation"})]
    lines = [p.text for p in page.all("p") if p.attributes.get("class") == "paired-line"]
    assert [line.partition(",")[0] for line in lines] == [
        "MoA minus “Without MoA layers”",
        "MoA minus “Without spacetime”",
        "Ink: MoA minus “Ink: prior only”",
    ]
    assert "Scene change −0.1" in lines[0] and " better" in lines[0]  # the lines say what the pictures cost
    other = [f.attributes["data-method"] for f in shots][-4:]
    assert other == ["prior", "moa", "ink-prior", "ink"]
    for shot in shots:
        row = next(parent for parent in shot.parents if parent.tag == "tr")
        assert shot.attributes["data-key"].startswith(f"miniature|{row.attributes['data-subject']}|")


def test_priors_stand_before_what_is_compared_with_them(complete_run: Path) -> None:
    evaluation = read_run(complete_run).evaluations[0]
    names = [method.method for method in evaluation.methods]
    assert names == ["prior", "moa", "champion", "no-moa", "no-spacetime", "ink-prior", "ink"]
    assert evaluation.shown.method == "moa" and evaluation.prior is evaluation.methods[0]


def test_swaps_share_prompt_and_seed_and_differ_in_the_subject(page: Page) -> None:
    shots = [f.attributes["data-key"].split("|") for f in page.all("figure") if f.inside("table", **{"class": "swaps"})]
    first = shots[1:4]  # after the prior's image
    assert len({(prompt, seed) for _, _, prompt, seed in first}) == 1
    assert len({subject for _, subject, _, _ in first}) == 3
    said = [img.attributes["alt"] for img in page.all("img") if img.inside("tr", **{"class": "differences"})]
    assert len(said) == 2 * (3 + 2)  # two prompts; to the prior for each subject, to the left for all but the first
    assert said[3] == "Absolute difference, 3 times amplified: m-000002 minus m-000001"


def test_pairs_have_a_table_and_both_references(page: Page, summary: dict[str, Any]) -> None:
    table = next(table for table in page.all("table") if table.attributes.get("id") == "suite0-pairs-table")
    for method in summary["pairs"]:
        row = next(tr for tr in page.all("tr") if table in tr.parents and tr.text.startswith(method["label"]))
        assigned = "100 %" if method["assigned"]["mean"] == 1 else f"{method['assigned']['mean'] * 100:.1f} %"
        assert f"{method['leakage']['mean']:.3f}" in row.text and assigned in row.text
    grid = [tr for tr in rows_of(page, "pairs") if " + " in tr.text]
    assert len(grid) == 6
    for row in grid:
        assert len([img for img in page.all("img") if row in img.parents and "Reference" in img.attributes["alt"]]) == 2
        assert len([figure for figure in page.all("figure") if row in figure.parents]) == len(METHODS)


def test_published_pairs_are_shown_where_none_were_measured(run: Path) -> None:
    folder = run / EVALUATION
    for name in ("pairs.parquet", "pairs.csv"):
        (folder / name).unlink()
    for name, change in (("summary.json", {"pairs": None}), ("suite.json", {"published_pairs": [PUBLISHED]})):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    page = Page(build_report(run))
    section = page.by_id("suite0-pairs")
    assert section is not None and "FastComposer" in section.text and "0.431" in section.text
    assert "measured no pictures of two people" in section.text
    assert "#suite0-pairs" in [a.attributes["href"] for a in page.all("a") if a.inside("nav")]


def test_environment_and_seeds_stand_with_the_digests(page: Page) -> None:
    facts = {th.text: tr.text for tr in rows_in(page, "reproduce") for th in page.all("th") if tr in th.parents}
    assert facts["Seeds"].endswith("11, 12") and facts["Training seed"].endswith("7")
    assert facts["torch"].endswith("2.9.0") and facts["Devices"].endswith("cpu")
    assert facts["Personalization expert"].endswith("on every 2 steps")
    assert facts["Preparer of photographs, name"].endswith("PortraitPreparer")
    captions = [c.text for c in page.all("caption") if c.inside("section", id="reproduce")]
    assert captions[:5] == [
        "Training data",
        "Adapter",
        "Publication",
        "Suite miniature",
        "Environment of suite miniature",
    ]


def test_what_could_not_be_used_is_listed(page: Page) -> None:
    assert any(
        "m-000003, beach, seed 11 of MoA" in tr.text and "not an image" in tr.text for tr in rows_of(page, "failures")
    )


def test_without_a_failure_one_sentence_says_so(run: Path) -> None:
    for name in ("scores", "pairs"):
        table = run / EVALUATION / f"{name}.parquet"
        pd.read_parquet(table).assign(outcome="scored").to_parquet(table)
    page = Page(build_report(run))
    failures = page.by_id("suite0-failures")
    assert failures is not None and "None: every image of every method was scored" in failures.text
    assert not [tr for tr in rows_of(page, "failures") if tr.text.startswith("scored")]


def test_failures_count_images_of_one_person_and_of_two(tmp_path: Path) -> None:
    run = make_run(tmp_path)  # with more failures than are shown
    folder = run / EVALUATION
    scores, pairs = (pd.read_parquet(folder / f"{name}.parquet") for name in ("scores", "pairs"))
    scores.loc[scores["method"] == "prior", "outcome"] = "no_face"
    moa = scores["method"] == "moa"
    scores.loc[moa, "outcome"] = ["missing", "unreadable", *["scored"] * (moa.sum() - 2)]
    pairs["outcome"] = "scored"
    pairs.loc[pairs.index[pairs["method"] == "moa"][:3], "outcome"] = ["too_few_faces", "too_few_faces", "missing"]
    scores.to_parquet(folder / "scores.parquet")
    pairs.to_parquet(folder / "pairs.parquet")
    images = scores.loc[scores["method"] == "prior", "image"].nunique()
    assert images < (scores["method"] == "prior").sum()  # people with one word share them
    page = Page(build_report(run))
    titles = [s.text for s in page.all("summary") if s.inside("section", id="suite0-failures")]
    assert "Prior only: no face found (IP counts 0), 8 of 16 images" in titles and images == 16
    assert titles[0] == "MoA: could not be used, 2 of 2 images"
    assert "MoA: fewer than two faces found (IP counts 0), 2 of 2 images of two people" in titles
    assert "MoA: could not be used, 1 of 1 images of two people" in titles
    counted = {tr.text.split("found")[0]: tr for tr in rows_of(page, "failures") if tr.text.startswith("no face")}
    first = next(td for td in page.all("td") if counted["no face "] in td.parents)
    assert first.text == str(images)


def test_tables_are_linked_as_data(run: Path) -> None:
    (run / EVALUATION / "swaps.csv").write_text("method\n")
    links = [a.text for a in Page(build_report(run)).all("a") if a.inside("section", id="suite0-results")]
    assert [link for link in links if "." in link] == ["scores.csv", "swaps.csv", "pairs.csv", "summary.json"]


def test_breakdowns_have_a_table_for_each_score(page: Page, summary: dict[str, Any]) -> None:
    captions = [c.text.split(":")[0] for c in page.all("caption") if c.inside("section", id="suite0-tables")]
    assert captions[:5] == ["IP", "PC", "Followed", "Item shown", "Scene shown"]
    shown = [tr.text for tr in rows_of(page, "tables") if tr.text.startswith("accessory")]
    moa = next(m for m in summary["methods"] if m["method"] == "moa")["by_category"]["accessory"]
    assert f"{moa['ip']['mean']:.3f}" in shown[0] and f"{moa['ip']['low']:.3f}" in shown[0]
    assert f"{moa['followed']['mean'] * 100:.1f} %".replace("100.0", "100") in shown[2]
    assert len(shown) == 4  # its prompts show no scene


def test_router_maps_are_there_without_a_script(page: Page) -> None:
    routers = [div for div in page.all("div") if div.attributes.get("class") == "router"]
    assert len(routers) == 2
    assert json.loads(routers[0].attributes["data-layers"]) == LAYERS
    assert [float(step) for step in json.loads(routers[0].attributes["data-steps"])] == STEPS
    sprites = [img for img in page.all("img") if "Router maps of 5 layers at 6 steps" in img.attributes["alt"]]
    assert len(sprites) == 2 and sprites[0].attributes["width"] == "96"
    assert "Prior share by layer" in page.text and "Prior share by step" in page.text


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
    assert f"MoAPipeline.from_pretrained('team/moa', revision={'ab' * 20!r})" in card.text
    assert "adapter/moa.safetensors" in card.text and "Use photographs of people who agreed" in card.text


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("local", "run “python -m moa.hub.server --root runs/hub”, and set HF_ENDPOINT to the address it prints"),
        ("http://hub.example", "not on huggingface.co: set HF_ENDPOINT=http://hub.example before Python starts"),
        ("https://huggingface.co", ""),
        (None, ""),
    ],
)
def test_model_card_says_how_its_example_finds_the_hub(run: Path, endpoint: str | None, said: str) -> None:
    path = run / "publication.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"endpoint": endpoint}))
    card = model_card(read_run(run))
    assert card is not None and said in card.way and bool(card.way) == bool(said)


def test_page_says_what_the_training_started_from(run: Path) -> None:
    started, export = "sha256:" + "5" * 64, run / "export"
    assert "Started from" not in build_report(run).read_text()
    manifest = json.loads((export / "manifest.json").read_text())
    (export / "manifest.json").write_text(json.dumps(manifest | {"inputs": manifest["inputs"] | {"init": started}}))
    card = model_card(read_run(run))
    assert card is not None and ("Started from", f"an adapter, {started}") in card.facts
    origin = {"provenance": {"started_from": {"digest": started, "step": 4360, "datasets": ["ffhq"]}}}
    (export / "config.json").write_text(json.dumps(origin))
    (run / "start.json").write_text(json.dumps({"repo_id": "you/<b>", "endpoint": "local", "commit": "ab" * 20}))
    page = build_report(run).read_text()
    place = f"main of you/&lt;b&gt; at {'ab' * 20}"
    assert f"an adapter of 4,360 steps trained on ffhq, {started}, {place}" in page
    assert f"started from you/&lt;b&gt; at {'ab' * 20}, which was main then" in page and "--set train.init=" in page


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


@pytest.mark.parametrize(
    ("file", "change", "field"),
    [
        ("router.json", lambda value: value["background"].pop(), ""),
        ("router.json", lambda value: value["examples"][0].update(sprite="../../x.png"), "examples.0.sprite"),
        ("summary.json", lambda value: value["comparisons"][0].update(before="nobody"), ""),
        ("summary.json", lambda value: value["claims"][2].pop("criterion"), "claims.2.criterion"),
        ("summary.json", lambda value: value["pairs"][0].update(n=-1), "pairs.0.n"),
        ("../../gate.json", lambda value: value.update(decision="perhaps"), "decision"),
    ],
)
def test_broken_parts_are_named(run: Path, file: str, change: Any, field: str) -> None:
    path = (run / EVALUATION / file).resolve()
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
    summary["claims"][0]["tests"][0]["quantity"] = f"quantity{bad}"
    summary["unscored"] = [{"what": f"what{bad}", "why": f"why{bad}"}]
    summary["environment"]["devices"] = ["cpu", f"device{bad}", "cpu"]
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
    made = ("claim", "measure", "criterion", "note", "id", "label", "quantity", "what", "why", "device")
    for text in (*made, "pair", "team", "file"):
        assert text + bad in page.text, text
    assert "2 x cpu, device" in page.text
    layers = json.loads(next(d for d in page.all("div") if "data-layers" in d.attributes).attributes["data-layers"])
    assert layers[0] == f"layer\"'{bad}"
    assert not page.all("b") or not [b for b in page.all("b") if b.text.startswith(">")]


def test_validation_is_drawn_where_it_was_measured(page: Page, tmp_path: Path) -> None:
    assert "Held-out people" not in page.text
    run = make_run(tmp_path, prompts=PROMPTS[:1], seeds=[1], methods=METHODS[:2])
    errors = [
        {"step": step, "validation_loss": 0.25, "validation_masked": 0.2 - step / 1000, "validation_masked_wrong": 0.21}
        for step in (50, 100, 120)
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in errors)
    drawn = Page(build_report(run)).text
    assert "Held-out people" in drawn and "with another picture's subject" in drawn
