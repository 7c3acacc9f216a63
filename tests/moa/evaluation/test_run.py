"""A whole evaluation with a tiny pipeline: what it writes, when it does nothing, what it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from pandas.testing import assert_frame_equal
from PIL import Image

from moa.data import file_digest
from moa.errors import EvaluationError
from moa.evaluation import run
from moa.evaluation.compare import Finished
from moa.evaluation.files import json_digest, write_json
from moa.evaluation.manifest import is_complete, rows_digest
from moa.evaluation.preparer import describe_preparer
from moa.evaluation.run import Source, evaluate
from moa.evaluation.score_tables import PAIRS, SCORES
from tests.moa.evaluation.fakes import ColourClip, ColourFaces, colour_models, declaration, tiny_suite

TWO = {"count": 1, "prompts": [{"id": "park", "text": "a {first} and a {second} in the park"}], "seeds": [0]}
ZOO = Path(__file__).resolve().parents[3] / "zoo"


FOLDER = tiny_suite(
    subjects={"kind": "folder", "items": [{"id": who, "word": "man", "image": who} for who in ("ann", "ben", "kim")]}
)


def _evaluate(pipeline, shards, adapters, out, suite=None, **options) -> Path:
    ablations = {"Other adapter": adapters[1]} if adapters else {}
    given = {"shards": shards, "ablations": ablations, "models": colour_models()}
    return evaluate(pipeline, suite or tiny_suite(pairs=TWO), out, **{**given, **options})


@pytest.fixture(scope="module")
def done(pipeline, shards, adapters, tmp_path_factory) -> Path:
    """One finished evaluation. Read only."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    _evaluate(pipeline, shards, adapters, out, source=Source(repo_id="me/moa", commit="abc"), command="the command")
    return out


def test_it_writes_what_the_format_says(done, pipeline):
    names = {"suite.json", "references", "images", "measurements.jsonl", "scores.parquet", "scores.csv"}
    names |= {
        "swaps.parquet",
        "swaps.csv",
        "pairs.parquet",
        "pairs.csv",
        "router",
        "router.json",
        "summary.json",
        "manifest.json",
    }
    assert {path.name for path in done.iterdir()} == names
    rows, summary = SCORES.read(done), json.loads((done / "summary.json").read_text())
    assert len(rows) == 3 * 8 and set(rows["outcome"]) == {"scored"}
    pairs = PAIRS.read(done)
    assert len(pairs) == 3 and set(pairs["outcome"]) == {"too_few_faces"}  # ColourFaces sees one face at most
    assert all((done / image).is_file() for image in [*rows["image"], *pairs["image"]])
    assert [(m["method"], m["kind"], m["label"]) for m in summary["methods"]] == [
        ("prior", "prior", "Prior only"),
        ("moa", "moa", "MoA"),
        ("other-adapter", "ablation", "Other adapter"),
    ]
    adapter = json.loads((pipeline / "adapter" / "manifest.json").read_text())["digest"]
    provenance = summary["provenance"]
    assert (provenance["repo_id"], provenance["commit"], provenance["adapter_digest"]) == ("me/moa", "abc", adapter)
    assert provenance["command"] == "the command" and summary["unscored"] == []
    found = summary["environment"]
    assert (found["precision"], found["scheduler"], found["expert_interval"]) == ("fp32", "UniPCMultistepScheduler", 2)
    assert {"torch", "diffusers", "transformers"} < set(found["packages"]) and found["devices"][0].startswith("cpu: ")
    assert "facenet-pytorch" not in found["packages"] and found["threads"] == 1
    suite = json.loads((done / "suite.json").read_text())
    assert summary["yardstick"] == json_digest(Finished.read(done).yardstick())  # what compare goes by
    assert [(p["id"], p["source"]) for p in suite["people"]] == [("man-0", "000000000"), ("boy-2", "000000002")]
    with Image.open(done / "references" / "man-0.png") as reference:
        assert reference.mode == "RGBA"
    manifest = json.loads((done / "manifest.json").read_text())
    assert manifest["outcomes"] == {"scored": 24} and "router.json" in manifest["files"]
    assert json.loads((done / "router.json").read_text())["n"] == len(list((done / "router").rglob("*.png"))) == 4
    assert all(file_digest(done / name) == digest for name, digest in manifest["files"].items())


def test_the_adapters_differ_and_the_prior_is_the_base_model(done):
    moa, other, prior = (
        np.asarray(Image.open(done / f"images/{name}/hat/0.png")).astype(int)
        for name in ("moa/man-0", "other-adapter/man-0", "prior/man")
    )
    assert np.abs(moa - other).mean() > 1 and np.abs(moa - prior).mean() > 1


def test_a_second_run_does_nothing(done, pipeline, shards, adapters, monkeypatch):
    monkeypatch.setattr(run, "open_pipeline", lambda *_: pytest.fail("a pipeline was loaded"))
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    seen = []
    _evaluate(pipeline, shards, adapters, done, progress=lambda *x: seen.append(x[0]))
    assert seen == ["up to date"] and before == {path: path.stat().st_mtime_ns for path in done.rglob("*")}


def test_a_deleted_image_and_a_changed_summary_are_noticed(done, tmp_path):
    suite, inputs = tiny_suite(pairs=TWO), json.loads((done / "manifest.json").read_text())["inputs"]
    assert is_complete(done, suite, inputs)
    for name, damage in (("images/moa/man-0/hat/0.png", None), ("summary.json", "{}"), ("swaps.parquet", "")):
        out = tmp_path / name.replace("/", "-")
        shutil.copytree(done, out)
        (out / name).unlink() if damage is None else (out / name).write_text(damage)
        assert not is_complete(out, suite, inputs)


def test_a_summary_without_yardstick_is_written_again_and_no_image_made(done, pipeline, shards, adapters, tmp_path):
    out = tmp_path / "older"
    shutil.copytree(done, out)
    summary, manifest = (json.loads((out / name).read_text()) for name in ("summary.json", "manifest.json"))
    yardstick = summary.pop("yardstick")
    write_json(out / "summary.json", summary)
    manifest["files"]["summary.json"] = file_digest(out / "summary.json")
    write_json(out / "manifest.json", manifest)
    made = []
    _evaluate(pipeline, shards, adapters, out, progress=lambda *x: made.append(x[0]))
    assert json.loads((out / "summary.json").read_text())["yardstick"] == yardstick
    assert "score" in made and not any(stage.startswith("generate") for stage in made)


def test_an_evaluation_without_pc_other_is_scored_again_and_nothing_made_or_measured(
    done, pipeline, shards, adapters, tmp_path
):
    """One that an earlier version finished."""
    out = tmp_path / "older"
    shutil.copytree(done, out)
    rows, manifest = SCORES.read(out), json.loads((out / "manifest.json").read_text())
    older = rows.drop(columns="pc_other")
    SCORES.write(out, older)
    write_json(out / "manifest.json", manifest | {"rows": [rows_digest(older), *manifest["rows"][1:]]})
    made, clip = [], ColourClip()
    models = colour_models(clip=clip)
    _evaluate(pipeline, shards, adapters, out, models=models, progress=lambda *x: made.append(x[0]))
    assert_frame_equal(SCORES.read(out), rows)
    assert "score" in made and not any(stage.startswith("generate") for stage in made) and clip.images == 0
    assert rows["pc_other"].notna().all()


def test_a_damaged_run_is_repaired_to_the_same_bytes(done, pipeline, shards, adapters, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(done, out)
    whole = (out / "images/moa/man-0/hat/0.png").read_bytes()
    (out / "images/moa/man-0/hat/0.png").write_bytes(whole[:100])
    made = []
    _evaluate(
        pipeline,
        shards,
        adapters,
        out,
        source=Source(repo_id="me/moa", commit="abc"),
        command="the command",
        progress=lambda *x: made.append(x),
    )
    assert [x for x in made if x[0].startswith("generate")] == [("generate moa", 27, 27, "images/moa/man-0/hat/0.png")]
    for name in ("suite.json", "summary.json", "manifest.json"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_a_changed_prompt_makes_its_images_again(done, pipeline, shards, adapters, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(done, out)
    prompts = [declaration()["prompts"][0], {"id": "beach", "category": "context", "text": "a {word} in the park"}]
    made = []
    suite = tiny_suite(prompts=prompts, pairs=TWO)
    _evaluate(pipeline, shards, adapters, out, suite, progress=lambda *x: made.append(x))
    assert [x[:3] for x in made if x[0].startswith("generate")] == [
        (f"generate {method}", so_far, 27) for method, so_far in (("prior", 19), ("moa", 23), ("other-adapter", 27))
    ]
    assert set(SCORES.read(out)["prompt"]) == {
        f"a {w} {t}" for w in ("man", "boy") for t in ("with a hat", "in the park")
    }


@pytest.mark.parametrize("change", [{"version": "2"}, {"name": "another"}])
def test_another_suite_or_version_is_not_mixed_in(done, pipeline, shards, adapters, change):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    with pytest.raises(EvaluationError, match=r"suite tiny version 1, and this is .*give another --out"):
        _evaluate(pipeline, shards, adapters, done, tiny_suite(pairs=TWO, **change))
    assert before == {path: path.stat().st_mtime_ns for path in done.rglob("*")}


@pytest.mark.slow
def test_two_devices_give_the_images_and_rows_of_one(pipeline, shards, tmp_path):
    """With the real miniature models: processes of their own load them by name. More images than are measured together,
    so that both processes measure."""
    places = {name: {"path": str(ZOO / name)} for name in ("clip", "attributes")}
    places["faces"] = {"kind": "miniature", "path": str(ZOO / "identity")}
    suite, seen = tiny_suite(seeds=[0, 1], pairs=TWO, evaluators=places), []
    given = {"shards": shards, "batch_size": 2, "progress": lambda *x: seen.append(x)}
    evaluate(pipeline, suite, tmp_path / "one", **given)
    evaluate(pipeline, suite, tmp_path / "two", devices=("cpu", "cpu"), **given)
    measured = [x[1:3] for x in seen if x[0] == "measure"]
    assert len(measured) == 4 and measured[1] == measured[3] == (18, 18), measured
    for image in (path.relative_to(tmp_path / "one") for path in (tmp_path / "one/images").rglob("*.png")):
        one, two = (np.asarray(Image.open(tmp_path / which / image)) for which in ("one", "two"))
        assert np.array_equal(one, two)
    for table in (SCORES, PAIRS):
        one, two = (
            table.read(tmp_path / which).drop(columns="generation_seconds", errors="ignore") for which in ("one", "two")
        )
        assert_frame_equal(one, two, rtol=0, atol=0)
    assert not list((tmp_path / "two").glob("measurements.*.jsonl"))


@pytest.fixture
def command(pipeline, shards, tmp_path, monkeypatch) -> list[str]:
    """Arguments of the command line, with measuring models that need no weights."""
    monkeypatch.setattr(run.MeasuringModels, "load", lambda *_: colour_models())
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(declaration(seeds=[0])), encoding="utf-8")
    parts = {"--pipeline": pipeline, "--suite": tmp_path / "tiny.yaml", "--shards": shards, "--out": tmp_path / "out"}
    return [str(part) for pair in parts.items() for part in pair]


def test_the_command_prints_a_table_and_the_manifest(command, adapters, tmp_path, capsys):
    assert run.main([*command, "--ablation", f"Other={adapters[1]}", "--batch-size", "3", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert (
        "generate prior: 3/12" in printed
        and "generate other: 12/12" in printed
        and str(tmp_path / "out" / "manifest.json") in printed
    )
    assert [line.split()[0] for line in printed.splitlines() if " 4 " in line] == ["Prior", "MoA", "Other"]
    assert "--batch-size 3" in json.loads((tmp_path / "out/summary.json").read_text())["provenance"]["command"]


def test_an_image_that_went_bad_is_named_in_the_exit_status(command, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "out/images/moa/man-0/hat/0.png"
    score = run.Scorer.score

    def damage_first(self, *arguments, **options):
        broken.write_bytes(b"no image")
        return score(self, *arguments, **options)

    monkeypatch.setattr(run.Scorer, "score", damage_first)
    assert run.main(command) == 2
    assert "images/moa/man-0/hat/0.png: the image cannot be read" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [line["what"] for line in summary["unscored"]] == ["images/moa/man-0/hat/0.png"]
    assert (SCORES.read(tmp_path / "out")["outcome"] == "scored").sum() == 7


def test_a_subject_without_a_face_is_named_in_the_exit_status(command, tmp_path, monkeypatch, capsys):
    class Blind(ColourFaces):
        def detect(self, images):
            boys = [image for image in images if "prompt" not in str(image.info)]
            return [
                [] if image in boys[1:] else faces for image, faces in zip(images, super().detect(images), strict=True)
            ]

    monkeypatch.setattr(run.MeasuringModels, "load", lambda *_: colour_models(Blind()))
    assert run.main(command) == 2
    assert "subject boy-2: no face was found in the reference" in capsys.readouterr().err
    assert Counter(SCORES.read(tmp_path / "out")["outcome"]) == {"scored": 4, "no_reference_face": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--ablation", "no folder"], "LABEL=FOLDER"),
        (["--community", "=lora"], "LABEL=FOLDER"),
        (["--ablation", "other=a", "--ablation", "other=b"], "--ablation: 'other' is given more than once"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--device", "gpu"], "device 'gpu' is none"),
        (["--device", "cpu", "--device", "cuda:99"], "device 'cuda:99': this machine has"),
        (["--champion", "absent"], "champion: absent is no adapter folder"),
        (["--suite", "absent.yaml"], "absent.yaml: cannot be read"),
        (["--shards", "absent"], "absent"),
        (["--pipeline", "absent"], "is no MoA pipeline folder"),
        (["--out", __file__], "cannot be written (File exists)"),
        (["--suite", "FOLDER", "--images", ".", "--segmenter", "absent"], "absent cannot be loaded as a Mask2Former"),
    ],
)
def test_bad_input_ends_with_one_line(command, change, message, tmp_path, capsys):
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(FOLDER.model_dump(mode="json")), encoding="utf-8")
    change = [str(tmp_path / "folder.yaml") if word == "FOLDER" else word for word in change]
    assert run.main([*command, *change]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors and "Traceback" not in errors


def test_a_photograph_that_is_bad_costs_its_own_subject(pipeline, photographs, tmp_path):
    """Named in the summary, in suite.json and by the exit status; the others are scored."""
    out = tmp_path / "out"
    _evaluate(pipeline, None, None, out, suite=FOLDER, images=photographs)
    rows, summary = SCORES.read(out), json.loads((out / "summary.json").read_text())
    assert rows.groupby("subject")["outcome"].unique().map(list).to_dict() == {
        "ann": ["scored"],
        "ben": ["no_reference"],
        "kim": ["no_reference"],
    }
    assert summary["unscored"] == [
        {
            "what": "subject ben",
            "why": "subjects.items.ben.image: ben/1.jpg cannot be read as an image (UnidentifiedImageError)",
        },
        {"what": "subject kim", "why": "subjects.items.kim.image: kim holds no photograph"},
    ]
    people = json.loads((out / "suite.json").read_text())["people"]
    assert [(person["digest"] is None, bool(person["problem"])) for person in people] == [(False, False)] + [
        (True, True)
    ] * 2
    assert summary["methods"][1]["outcomes"] == {"no_reference": 8, "scored": 4} and summary["methods"][1]["n"] == 4
    assert {path.name for path in (out / "references").iterdir()} == {"ann.png"}
    assert {path.name for path in (out / "images/moa").iterdir()} == {"ann"}
    seen = []
    _evaluate(pipeline, None, None, out, suite=FOLDER, images=photographs, progress=lambda *x: seen.append(x[0]))
    assert seen == ["up to date"]
    shutil.copy(photographs / "ann" / "1.png", photographs / "kim" / "1.png")
    _evaluate(pipeline, None, None, out, suite=FOLDER, images=photographs)
    assert set(SCORES.read(out).query("subject == 'kim'")["outcome"]) == {"scored"}


def test_who_cut_people_out_is_in_the_summary_and_decides_what_compares(pipeline, photographs, mask2former, tmp_path):
    """The same folder again with another preparer: other references, other images, another yardstick."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photographs / "ann/1.png")
    suite, out = FOLDER.model_copy(update={"prompts": FOLDER.prompts[:1], "seeds": (0,)}), tmp_path / "out"
    found, made = [], []
    for segmenter in (None, mask2former, mask2former):
        given = {"suite": suite, "images": photographs, "segmenter": segmenter}
        _evaluate(pipeline, None, None, out, **given, progress=lambda *x: made.append(x[0]))
        found.append(json.loads((out / "summary.json").read_text()))
        assert found[-1]["provenance"]["preparer"] == describe_preparer(suite, segmenter)
        assert found[-1]["yardstick"] == json_digest(Finished.read(out).yardstick())
    making = [stage for stage in made if stage.startswith(("generate", "up"))]
    assert making == ["generate prior", "generate moa", "generate moa", "up to date"]
    assert found[0]["yardstick"] != found[1]["yardstick"]


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Of three people: a picture, a broken one, none."""
    for name in ("ann", "ben", "kim"):
        (tmp_path / "photographs" / name).mkdir(parents=True)
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "photographs/ann/1.png")
    (tmp_path / "photographs/ben/1.jpg").write_bytes(b"no picture")
    return tmp_path / "photographs"


def test_nobody_with_a_reference_is_refused(pipeline, photographs, tmp_path):
    (photographs / "ann/1.png").unlink()
    with pytest.raises(EvaluationError, match="nobody has a reference; the first problem: .*ann holds no photograph"):
        _evaluate(pipeline, None, None, tmp_path / "out", suite=FOLDER, images=photographs)
    with pytest.raises(EvaluationError, match="absent is no folder; name the right one with --images"):
        _evaluate(pipeline, None, None, tmp_path / "out", suite=FOLDER, images=tmp_path / "absent")


def test_a_prompt_too_long_for_clip_stops_before_anything_is_generated(pipeline, shards, adapters, tmp_path):
    class Short(ColourClip):
        def encode_texts(self, texts):
            raise EvaluationError(
                f"the prompt {max(texts, key=len)!r} has more than the 3 tokens CLIP takes; shorten it"
            )

    with pytest.raises(EvaluationError, match="'a boy and a man in the park|'a man and a boy in the park"):
        _evaluate(pipeline, shards, adapters, tmp_path / "out", models=colour_models(clip=Short()))
    assert not (tmp_path / "out").exists()


def test_another_precision_makes_other_images(pipeline, shards, tmp_path):
    """bf16, which a CPU can do; the suite's own precision is for GPUs."""
    images = {"size": 32, "steps": 2, "guidance": 2.0, "precision": "fp16"}
    suite = tiny_suite(seeds=[0], prompts=declaration()["prompts"][:1], images=images)
    _evaluate(pipeline, shards, None, tmp_path / "fp32", suite)
    _evaluate(pipeline, shards, None, tmp_path / "bf16", suite, precision="bf16")
    found = [json.loads((tmp_path / name / "summary.json").read_text())["environment"] for name in ("fp32", "bf16")]
    assert [each["precision"] for each in found] == ["fp32", "bf16"]
    assert json.loads((tmp_path / "bf16/suite.json").read_text())["images"]["precision"] == "bf16"
    exact, half = (
        np.asarray(Image.open(tmp_path / name / "images/moa/man-0/hat/0.png")).astype(int) for name in ("fp32", "bf16")
    )
    assert 0 < np.abs(exact - half).mean() < 8  # the same picture, from the same noise


def test_a_sampler_of_another_version_makes_all_images_again(done, pipeline, shards, adapters, tmp_path, monkeypatch):
    out, made = tmp_path / "copy", []
    shutil.copytree(done, out)
    for module in ("generate", "manifest"):
        monkeypatch.setattr(f"moa.evaluation.{module}.SAMPLING", 99)
    _evaluate(pipeline, shards, adapters, out, progress=lambda *x: made.append(x[:3]))
    assert [x for x in made if x[0].startswith("generate")] == [
        (f"generate {method}", so_far, 27) for method, so_far in (("prior", 9), ("moa", 18), ("other-adapter", 27))
    ]


def test_missing_weights_stop_before_anything_is_generated(pipeline, shards, tmp_path):
    with pytest.raises(EvaluationError, match="weights are missing"):
        evaluate(pipeline, tiny_suite(), tmp_path / "out", shards=shards)
    assert not (tmp_path / "out").exists()
