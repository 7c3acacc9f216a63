"""Suite declarations: the shipped ones hold what the protocol says, wrong ones are refused by file and field."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from moa.errors import SuiteError
from moa.evaluation.suite import PairPrompt, load_suite
from tests.moa.evaluation.fakes import declaration

SUITES = Path(__file__).resolve().parents[3] / "datasets" / "suites"


def test_celeba_is_the_published_protocol():
    suite = load_suite(SUITES / "celeba-15.yaml")
    assert Counter(item.word for item in suite.subjects.items) == {"man": 6, "woman": 9}
    order = [prompt.category for prompt in suite.prompts]
    assert order == ["accessory"] * 10 + ["style"] * 10 + ["action"] * 10 + ["context"] * 10
    assert len(suite.subjects.items) * len(suite.prompts) * len(suite.seeds) == 2400
    assert (suite.images.size, suite.images.steps, suite.images.guidance) == (512, 50, 5.0)
    table3 = {row.method: (row.ip, row.pc) for row in suite.published if row.source.startswith("MoA")}
    assert table3["MoA"] == (0.555, 0.202) and table3["FastComposer"] == (0.514, 0.243) and len(table3) == 6


def test_the_other_real_suites_share_people_or_prompts_with_celeba():
    celeba, table2, ffhq = (load_suite(SUITES / f"{name}.yaml") for name in ("celeba-15", "moa-table2", "ffhq-heldout"))
    assert table2.subjects.items == celeba.subjects.items and table2.images == celeba.images
    assert (len(table2.prompts), len(table2.pairs.prompts), table2.pairs.count) == (5, 7, 15)
    assert ffhq.prompts == celeba.prompts and ffhq.subjects.split == "heldout" and ffhq.pairs is None
    assert celeba.evaluators == table2.evaluators == ffhq.evaluators
    assert [(row.method, row.ip, row.pc) for row in celeba.published_pairs][-1] == ("UniPortrait", 0.673, 0.274)
    assert celeba.published_pairs == table2.published_pairs


def test_miniature_has_two_prompts_of_each_category():
    suite = load_suite(SUITES / "miniature.yaml")
    assert Counter(prompt.category for prompt in suite.prompts) == dict.fromkeys(
        ("accessory", "style", "action", "context"), 2
    )
    assert suite.subjects.kind == "shards" and suite.subjects.split == "heldout" and suite.subjects.count == 6


@pytest.mark.parametrize("name", ["miniature", "miniature-40"])
def test_miniature_prompts_declare_every_item_and_scene_that_the_classifier_knows(name):
    suite = load_suite(SUITES / f"{name}.yaml")
    config = Path(suite.evaluators.attributes.path) / "config.json"
    vocabulary = json.loads(config.read_text(encoding="utf-8"))["vocabulary"]
    for prompt in suite.prompts:
        for attribute, declared in prompt.shows:
            named = [words for words in vocabulary[attribute] if words and words in prompt.text]
            assert [declared] == (named or [None])
    assert sum(prompt.shows.item is not None for prompt in suite.prompts) == {"miniature": 3, "miniature-40": 16}[name]


def test_what_a_prompt_shows_must_be_a_word_of_the_classifier(tmp_path):
    prompts = _prompts(text="a {word} in a hat at sea", shows={"item": "in a hat", "scene": "at sea"})
    evaluators = declaration()["evaluators"] | {"attributes": {"path": "judge"}}
    path = _write(tmp_path, declaration(prompts=prompts, evaluators=evaluators))
    assert load_suite(path).evaluators.attributes.path == str(tmp_path / "judge")  # the preflight says it is missing
    (tmp_path / "judge").mkdir()
    config = tmp_path / "judge" / "config.json"
    config.write_text(json.dumps({"vocabulary": {"item": ["", "in a hat"], "scene": ["on land"]}}))
    with pytest.raises(SuiteError, match=r"prompts.p.shows.scene: 'at sea' is no word of .*which knows 'on land'"):
        load_suite(path)
    config.write_text(json.dumps({"vocabulary": {"item": ["", "in a hat"], "scene": ["at sea"]}}))
    assert load_suite(path).prompts[0].shows.scene == "at sea"
    config.write_text("[]")
    with pytest.raises(SuiteError, match="evaluators.attributes: .*config.json is no classifier's"):
        load_suite(path)


def test_the_background_cannot_decide_the_rank():
    suite = load_suite(SUITES / "miniature.yaml")
    rivals = {prompt.id: suite.rivals(prompt) for prompt in suite.prompts}
    assert rivals["accessory-santa-hat"] == (
        "a {word} wearing a santa hat on the moon",
        "a {word} wearing a wizard hat on the moon",
    )
    assert rivals["action-guitar"][1] == "a {word} riding a skateboard in a city at night"
    assert rivals["context-moon"] == ("a {word} on the moon", "a {word} in a flower field")  # only scenes differ
    celeba = load_suite(SUITES / "celeba-15.yaml")
    assert len(celeba.rivals(celeba.prompts[0])) == 10 and celeba.rivals(celeba.prompts[0])[0] == celeba.prompts[0].text


def test_precision_is_for_gpus_unless_it_is_asked_for():
    suite = load_suite(SUITES / "celeba-15.yaml")
    precisions = [suite.for_devices(devices).images.precision for devices in (["cuda:0", "cuda:1"], ["cpu"] * 2)]
    assert precisions == ["fp16", "fp32"] and suite.for_devices(["cpu", "cuda:0"]).images.precision == "fp32"
    assert suite.for_devices(["cpu"], "bf16").images.precision == "bf16"
    assert suite.for_devices(["cuda:0"], "fp32").images.precision == "fp32"


def test_every_shipped_suite_loads_and_bears_its_file_name():
    files = sorted(SUITES.glob("*.yaml"))
    assert files and [load_suite(path).name for path in files] == [path.stem for path in files]


def test_a_prompt_takes_the_class_word():
    prompt = load_suite(SUITES / "celeba-15.yaml").prompts[20]
    assert prompt.for_word("woman") == "a woman riding a horse"


def test_a_pair_prompt_takes_two_words_equal_ones_too():
    prompt = PairPrompt(id="sofa", text="a {first} and a {second} on a sofa")
    assert prompt.for_words("man", "woman") == "a man and a woman on a sofa"
    assert prompt.for_words("man", "man") == "a man and a man on a sofa"


def _write(folder: Path, content: object) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _prompts(**changes: object) -> list[dict[str, object]]:
    return [{"id": "p", "category": "c", "text": "a {word}", **changes}]


def _pairs(**changes: object) -> dict[str, object]:
    return {"count": 1, "prompts": [{"id": "p", "text": "a {first} and a {second}"}], "seeds": [0], **changes}


FOLDER = {"kind": "folder", "items": [{"id": "a", "word": "man", "image": "a"}]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"promts": []}, "promts"),
        ({"prompts": _prompts(text="a man")}, "prompts.0.text"),
        ({"prompts": _prompts(text="a {word} and a {thing}")}, "prompts.0.text"),
        ({"prompts": _prompts(id="../up")}, "prompts.0.id"),
        ({"prompts": _prompts() * 2}, "prompts holds 'p' more than once"),
        ({"prompts": _prompts() + _prompts(id="P")}, "prompts holds 'p' and 'P', whose files some disks"),
        ({"seeds": [1, 1]}, "seeds holds 1 more than once"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [2**63]}, "seeds.0"),  # more than a table holds: it would fail when all images are made
        ({"version": 6}, "version: Input should be a valid string, in quotes here (found 6)"),
        ({"prompts": _prompts(id=False)}, "prompts.0.id: Input should be a valid string, in quotes here (found False)"),
        ({"published": [{"method": "MoA", "ip": float("nan"), "source": "?"}]}, "published.0.ip"),
        ({"images": {"size": 32, "steps": 2, "guidance": float("inf")}}, "images.guidance"),
        ({"images": {"size": 30, "steps": 2, "guidance": 1}}, "images.size"),
        ({"subjects": {"kind": "cloud"}}, "subjects"),
        ({"subjects": {**FOLDER, "items": FOLDER["items"] * 2}}, "subjects.items holds 'a' more than once"),
        (
            {"subjects": {**FOLDER, "items": [*FOLDER["items"], {"id": "A", "word": "man", "image": "A"}]}},
            "subjects.items holds 'a' and 'A', whose files some disks",
        ),
        ({"subjects": {**FOLDER, "items": [{"id": "a", "word": "man", "image": "../a"}]}}, "items.0.image"),
        ({"subjects": {"kind": "shards", "count": 1, "where": {"style": 3}}}, "subjects.shards.where.style"),
        ({"pairs": _pairs(count=0)}, "pairs.count"),
        ({"pairs": _pairs(prompts=[{"id": "p", "text": "a {second} and a {first}"}])}, "pairs.prompts.0.text"),
        ({"pairs": _pairs(prompts=[{"id": "p", "text": "a {first} and {first}"}])}, "pairs.prompts.0.text"),
        ({"pairs": _pairs(prompts=[{"id": "p", "text": "{first} {second} {"}])}, "pairs.prompts.0.text"),
        ({"pairs": _pairs(prompts=[{"id": "a/b", "text": "{first} {second}"}])}, "pairs.prompts.0.id"),
        ({"pairs": _pairs(prompts=_pairs()["prompts"] * 2)}, "pairs.prompts holds 'p' more than once"),
        ({"pairs": _pairs(seeds=[0, 0])}, "pairs.seeds holds 0 more than once"),
        ({"evaluators": {"faces": {"kind": "facenet", "path": "f", "sha256": "abc"}, "clip": {"path": "c"}}}, "sha256"),
        ({"images": {"size": 32, "steps": 2, "guidance": 1, "precision": "fp8"}}, "images.precision"),
        ({"prompts": _prompts(text="a {word} in a hat", shows={"item": "in a cap"})}, "shows.item: 'in a cap' must be"),
        ({"prompts": _prompts(text="a {word} in a hat", shows={"item": ""})}, "prompts.0.shows.item"),
        ({"prompts": _prompts(text="a {word} in a hat", shows={"colour": "red"})}, "prompts.0.shows.colour"),
    ],
)
def test_a_wrong_declaration_names_file_and_field(tmp_path, change, field):
    path = _write(tmp_path, declaration(**change))
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert str(path) in str(caught.value) and field in str(caught.value)


def test_a_missing_file_and_broken_yaml_are_named(tmp_path):
    with pytest.raises(SuiteError, match="absent.yaml: cannot be read"):
        load_suite(tmp_path / "absent.yaml")
    for text in ("name: [", "version: 2026-13-01", 5000 * "["):  # the latter two are no errors of YAML
        (tmp_path / "broken.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(SuiteError, match="broken.yaml: is not YAML"):
            load_suite(tmp_path / "broken.yaml")


def test_places_are_relative_to_the_file_and_can_be_replaced(tmp_path):
    path = _write(tmp_path, declaration(subjects={**FOLDER, "root": "people"}))
    suite = load_suite(path, clip=tmp_path / "other")
    assert suite.evaluators.faces.path == str(tmp_path / "faces")
    assert suite.evaluators.clip.path == str(tmp_path / "other")
    assert suite.subjects.root == str(tmp_path / "people")


def test_declarations_import_no_torch():
    code = "import sys; import moa.evaluation.suite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
