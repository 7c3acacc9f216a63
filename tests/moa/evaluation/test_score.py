"""Scores: each row is the measurement done by hand, a bad image costs its own row, the journal is never stale."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from moa.errors import ScoresError
from moa.evaluation import measure
from moa.evaluation.faces import Face
from moa.evaluation.generate import image_path, shots
from moa.evaluation.measure import Measurer
from moa.evaluation.metrics import change, person_region
from moa.evaluation.score import Scorer, embed_texts
from moa.evaluation.score_tables import SCORES, SWAPS
from moa.evaluation.subjects import SuiteSubject
from tests.moa.evaluation.fakes import (
    BOX,
    MOA,
    PRIOR,
    ColourClip,
    ColourFaces,
    ColourJudge,
    colour_direction,
    colour_models,
    text_direction,
    tiny_suite,
)

SUITE = tiny_suite(
    prompts=[
        {"id": "hat", "category": "accessory", "text": "a {word} with a hat"},
        {"id": "mask", "category": "accessory", "text": "a {word} with a mask"},
        {"id": "beach", "category": "context", "text": "a {word} on the beach"},
    ],
    seeds=[0, 1],
)
METHODS = [PRIOR, MOA]


def _person(name: str, word: str, colour: str) -> SuiteSubject:
    photo = Image.new("RGB", (32, 32), colour)
    return SuiteSubject(name, word, photo, photo, name)


PEOPLE = [_person("ann", "woman", "teal"), _person("eve", "woman", "orange"), _person("bob", "man", "olive")]
IMAGES = 3 * 2 * (2 + 3)  # prompts, seeds, words of the prior and people of MoA


@pytest.fixture
def folder(tmp_path) -> Path:
    """An evaluation folder full of noise, another for each image."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("moa", json.dumps({"seconds": 0.25}))
    for method in METHODS:
        for who in PEOPLE:
            for prompt in SUITE.prompts:
                for seed in SUITE.seeds:
                    path = tmp_path / image_path(method, who.id, who.word, prompt.id, seed)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    rng = np.random.default_rng(zlib.crc32(path.relative_to(tmp_path).as_posix().encode()))
                    pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
                    Image.fromarray(pixels).save(path, pnginfo=chunk)
    return tmp_path


def _score(
    folder, people=PEOPLE, faces=None, clip=None, methods=METHODS, judge=None, suite=SUITE, batch_size=None, **options
):
    return _scorer(folder, people, faces, clip, judge, suite, batch_size).score(methods, **options)


def _scorer(folder, people=PEOPLE, faces=None, clip=None, judge=None, suite=SUITE, batch_size=None) -> Scorer:
    models = colour_models(faces, clip, judge)
    measurer = Measurer(folder, models, batch_size=batch_size)
    return Scorer(suite, people, measurer, embed_texts(suite, people, models.clip))


def _row(rows, **key):
    chosen = rows[np.logical_and.reduce([rows[name] == value for name, value in key.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


def _image(folder, path):
    return Image.open(folder / "images" / path).convert("RGB")


def _change(*images):
    return change(*(np.asarray(image) for image in images), person_region(BOX, ColourFaces.person, 32, 32))


def test_a_row_is_what_the_metrics_say(folder):
    rows = _score(folder)
    assert list(rows.columns) == SCORES.columns and len(rows) == 36 and not rows.duplicated(SCORES.key).any()
    row = _row(rows, method="moa", subject="bob", prompt_id="beach", seed=1)
    image, prior = _image(folder, "moa/bob/beach/1.png"), _image(folder, "prior/man/beach/1.png")
    assert row.ip == pytest.approx(colour_direction(image.crop(BOX)) @ colour_direction(PEOPLE[2].photo.crop(BOX)))
    assert row.pc == pytest.approx(colour_direction(image) @ text_direction("a man on the beach"))
    assert (row.outcome, row.word, row.category, row.prompt) == ("scored", "man", "context", "a man on the beach")
    assert (row.face_x0, row.face_y1, row.face_probability, row.face_size) == (4, 14, 0.9, 10 / 32)
    assert (row.context_change_inside, row.context_change_outside) == pytest.approx(_change(image, prior))
    assert row.generation_seconds == 0.25 and row.image == "images/moa/bob/beach/1.png"


def test_of_several_faces_the_largest_counts_by_its_height(folder):
    """In the image and in the reference alike."""
    small = (16.0, 16.0, 20.0, 20.0)

    class Two(ColourFaces):
        def detect(self, images):
            return [[Face(BOX, 0.9), Face(small, 0.9)] for _ in images]

        def embed(self, images, faces):
            crops = (image.convert("RGB").crop(face.box) for image, face in zip(images, faces, strict=True))
            return np.array([colour_direction(crop) for crop in crops], np.float32)

    image, photo = Image.new("RGB", (24, 32), "red"), Image.new("RGB", (32, 32), "olive")
    for picture in (image, photo):
        picture.paste("blue", tuple(map(int, small)))
    image.save(folder / "images/moa/bob/hat/0.png")
    rows = _score(folder, [*PEOPLE[:2], replace(PEOPLE[2], photo=photo)], faces=Two())
    row = _row(rows, method="moa", subject="bob", prompt_id="hat", seed=0)
    assert row.ip == pytest.approx(colour_direction(image.crop(BOX)) @ colour_direction(photo.crop(BOX)))
    assert (row.face_x0, row.face_y1, row.face_size) == (4, 14, 10 / 32)


def test_the_rank_is_among_the_prompts_of_the_category(folder):
    rows = _score(folder)
    for row in rows.itertuples():
        image = colour_direction(Image.open(folder / row.image))
        hat, mask = (image @ text_direction(f"a {row.word} with a {thing}") for thing in ("hat", "mask"))
        if row.prompt_id == "beach":  # alone in its category
            assert np.isnan(row.pc_rank)
        else:
            assert row.pc_rank == (1 if (hat > mask) == (row.prompt_id == "hat") else 2)
    assert set(rows["pc_rank"].dropna()) == {1, 2}


def test_pc_of_the_other_prompts_is_their_mean_over_all_categories_with_the_own_word(folder):
    texts = {"hat": "with a hat", "mask": "with a mask", "beach": "on the beach"}
    for row in _score(folder).itertuples():
        image = colour_direction(Image.open(folder / row.image))
        others = [
            image @ text_direction(f"a {row.word} {text}") for name, text in texts.items() if name != row.prompt_id
        ]
        assert row.pc_other == pytest.approx(np.mean(others))
    alone = _score(folder, suite=tiny_suite(prompts=[SUITE.prompts[0].model_dump()]))
    assert alone["pc_other"].isna().all() and alone["pc"].notna().all()


def test_the_rank_is_in_the_own_scene_where_scenes_are_declared(folder):
    """The hat on the beach against the mask on the beach, not against the mask on the moon."""
    prompts = [
        {
            "id": "hat",
            "category": "accessory",
            "text": "a {word} with a hat on the beach",
            "shows": {"scene": "on the beach"},
        },
        {
            "id": "mask",
            "category": "accessory",
            "text": "a {word} with a mask on the moon",
            "shows": {"scene": "on the moon"},
        },
        {"id": "beach", "category": "context", "text": "a {word} on the beach", "shows": {"scene": "on the beach"}},
    ]
    rows, clip = _score(folder, suite=(suite := tiny_suite(prompts=prompts, seeds=[0]))), ColourClip()
    for row in rows[rows["prompt_id"] == "hat"].itertuples():
        image = colour_direction(Image.open(folder / row.image))
        hat, mask = (image @ text_direction(f"a {row.word} with a {thing} on the beach") for thing in ("hat", "mask"))
        assert row.pc_rank == (1 if hat > mask else 2) and row.pc == pytest.approx(hat)
    texts = embed_texts(suite, PEOPLE, clip)
    assert {text for text in texts if "woman" in text} == {
        *("a woman with a hat on the beach", "a woman with a mask on the beach"),
        *("a woman with a hat on the moon", "a woman with a mask on the moon", "a woman on the beach"),
    }


def test_what_an_image_shows_is_asked_of_the_classifier(folder):
    prompts = [
        {"id": "hat", "category": "accessory", "text": "a {word} with a hat", "shows": {"item": "with a hat"}},
        {"id": "mask", "category": "accessory", "text": "a {word} with a mask"},
        {"id": "beach", "category": "context", "text": "a {word} on the beach", "shows": {"scene": "on the beach"}},
    ]
    suite = tiny_suite(prompts=prompts)
    rows = _score(folder, judge=ColourJudge(), suite=suite)
    for row in rows.itertuples():
        bright = np.asarray(Image.open(folder / row.image).convert("L")).mean() > 127
        wanted = {"hat": (float(bright), np.nan), "mask": (np.nan, np.nan), "beach": (np.nan, 1.0)}[row.prompt_id]
        assert (row.item_shown, row.scene_shown) == pytest.approx(wanted, nan_ok=True)
    assert set(rows["item_shown"].dropna()) == {0, 1}
    assert _score(folder, suite=suite)[["item_shown", "scene_shown"]].isna().all(axis=None)  # nobody to ask


def test_a_prior_is_compared_with_itself_at_another_seed(folder):
    rows = _score(folder)
    images = [_image(folder, f"prior/woman/hat/{seed}.png") for seed in (0, 1)]
    for who, seed in (("ann", 0), ("eve", 0), ("eve", 1)):
        row = _row(rows, method="prior", subject=who, prompt_id="hat", seed=seed)
        assert (row.seed_change_inside, row.seed_change_outside) == pytest.approx(_change(*images))
    assert rows.loc[rows["method"] == "moa", ["seed_change_inside", "seed_change_outside"]].isna().all(axis=None)
    one = _score(folder, suite=tiny_suite(prompts=[p.model_dump() for p in SUITE.prompts], seeds=[0]))
    assert one["seed_change_outside"].isna().all()


def test_a_swap_is_compared_with_everybody_of_the_same_word(folder):
    third = _person("zoe", "woman", "red")
    for prompt in SUITE.prompts:
        for seed in SUITE.seeds:
            path = folder / image_path(MOA, "zoe", "woman", prompt.id, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (10 * seed, 99, 7)).save(path)
    rows = _score(folder, [*PEOPLE, third])
    images = {who: _image(folder, f"moa/{who}/hat/1.png") for who in ("ann", "eve", "zoe")}
    for who, image in images.items():
        row = _row(rows, method="moa", subject=who, prompt_id="hat", seed=1)
        others = [_change(image, other) for name, other in images.items() if name != who]
        assert (row.swap_change_inside, row.swap_change_outside) == pytest.approx(np.mean(others, axis=0))
    alone = rows[(rows["method"] == "prior") | (rows["subject"] == "bob")]
    assert alone[["swap_change_inside", "swap_change_outside"]].isna().all(axis=None)

    swaps = _scorer(folder, [*PEOPLE, third]).swaps(METHODS)
    assert set(zip(swaps["first"], swaps["second"], strict=True)) == {("ann", "eve"), ("ann", "zoe"), ("eve", "zoe")}
    assert set(swaps["method"]) == {"moa"} and len(swaps) == 3 * len(SUITE.prompts) * len(SUITE.seeds)
    row = _row(swaps, first="ann", second="zoe", prompt_id="hat", seed=1)
    assert (row.change_inside, row.change_outside) == pytest.approx(_change(images["ann"], images["zoe"]))
    assert (row.image, row.other) == ("images/moa/ann/hat/1.png", "images/moa/zoe/hat/1.png")
    SWAPS.write(folder, swaps)
    pd.testing.assert_frame_equal(SWAPS.read(folder), swaps)


def test_diversity_is_the_mean_distance_to_the_other_seeds(folder):
    rows = _score(folder)
    images = [_image(folder, f"moa/ann/hat/{seed}.png") for seed in (0, 1)]
    small = [np.asarray(image.resize((8, 8), Image.Resampling.BOX), float) / 255 for image in images]
    for seed in (0, 1):
        row = _row(rows, method="moa", subject="ann", prompt_id="hat", seed=seed)
        assert row.diversity_layout == pytest.approx(np.abs(small[0] - small[1]).mean())
        cosine = colour_direction(images[0]) @ colour_direction(images[1])
        assert row.diversity_content == pytest.approx(1 - cosine, abs=1e-6)
    prior = rows[(rows["method"] == "prior") & (rows["word"] == "woman") & (rows["prompt_id"] == "hat")]
    assert prior["diversity_layout"].nunique() == 1 and prior["diversity_layout"].notna().all()
    (folder / "images/moa/ann/hat/0.png").unlink()
    assert np.isnan(_row(_score(folder), method="moa", subject="ann", prompt_id="hat", seed=1).diversity_layout)


def test_the_prior_is_scored_for_each_person_and_has_no_context_change(folder):
    row = _row(_score(folder), method="prior", subject="eve", prompt_id="hat", seed=0)
    assert row.image == "images/prior/woman/hat/0.png" and 0 < row.ip <= 1
    assert np.isnan(row.context_change_inside) and np.isnan(row.context_change_outside)


def test_each_method_is_compared_with_the_prior_it_names(folder):
    other = replace(PRIOR, name="community")
    (folder / "images/community").symlink_to(folder / "images/moa")  # any images will do
    for word, who in (("woman", "ann"), ("man", "bob")):
        (folder / f"images/moa/{word}").symlink_to(folder / f"images/moa/{who}")
    rows = _score(folder, methods=[PRIOR, other, replace(MOA, compared_with="community")])
    assert _row(rows, method="moa", subject="ann", prompt_id="hat", seed=0).context_change_outside == 0
    assert _row(rows, method="moa", subject="eve", prompt_id="hat", seed=0).context_change_outside > 0


def test_without_a_prior_nothing_is_compared(folder):
    assert _score(folder, methods=[MOA])["context_change_outside"].isna().all()


def test_bad_images_cost_their_own_row(folder):
    (folder / "images/moa/bob/hat/0.png").unlink()
    (folder / "images/moa/bob/hat/1.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (32, 32)).save(folder / "images/moa/bob/mask/0.png")
    rows = _score(folder)
    outcomes = rows[(rows["method"] == "moa") & (rows["subject"] == "bob")]["outcome"].tolist()
    assert outcomes == ["missing", "unreadable", "no_face", "scored", "scored", "scored"]
    missing, no_face = (_row(rows, image=f"images/moa/bob/{name}/0.png") for name in ("hat", "mask"))
    assert np.isnan(missing.ip) and np.isnan(missing.pc) and np.isnan(missing.pc_rank)
    assert no_face.ip == 0 and np.isnan(no_face.face_x0) and not np.isnan(no_face.pc)
    assert not np.isnan(no_face.context_change_outside)  # the prior's image shows where the person was
    assert (rows["outcome"] == "scored").sum() == 33


def test_what_cannot_be_compared_is_left_empty(folder):
    (folder / "images/prior/woman/hat/0.png").unlink()
    for seed, size in ((0, (32, 16)), (1, (16, 32))):
        Image.new("RGB", size, "red").save(folder / f"images/moa/eve/mask/{seed}.png")
    Image.new("RGB", (32, 32)).save(folder / "images/moa/bob/mask/0.png")
    Image.new("RGB", (32, 32)).save(folder / "images/prior/man/mask/0.png")
    rows = _score(folder)
    no_prior = _row(rows, method="moa", subject="ann", prompt_id="hat", seed=0)
    assert no_prior.outcome == "scored" and np.isnan(no_prior.context_change_inside)
    assert not np.isnan(no_prior.swap_change_inside)
    of_two_sizes = rows[(rows["method"] == "moa") & (rows["word"] == "woman") & (rows["prompt_id"] == "mask")]
    assert len(of_two_sizes) == 4 and of_two_sizes["swap_change_inside"].isna().all()
    nobody = _row(rows, method="moa", subject="bob", prompt_id="mask", seed=0)
    assert np.isnan(nobody.context_change_outside)


def test_a_reference_without_a_face_has_no_ip_but_a_pc(folder):
    rows = _score(folder, [*PEOPLE[:2], replace(PEOPLE[2], photo=Image.new("RGB", (32, 32)))])
    affected = rows[rows["subject"] == "bob"]
    assert set(affected["outcome"]) == {"no_reference_face"} and affected["ip"].isna().all()
    assert affected["pc"].notna().all() and (rows[rows["subject"] == "ann"]["outcome"] == "scored").all()


def test_a_person_without_a_reference_costs_their_own_rows(folder):
    lost = SuiteSubject("kim", "man", None, None, "kim", problem="kim holds no photograph")
    rows, without = _score(folder, [*PEOPLE, lost]), _score(folder)
    affected = rows["subject"] == "kim"
    assert affected.sum() == 2 * 6 and set(rows.loc[affected, "outcome"]) == {"no_reference"}
    assert rows.loc[affected, ["ip", "pc", "seed_change_outside", "diversity_layout"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(rows[~affected].reset_index(drop=True), without)


def test_the_batch_size_changes_nothing(folder):
    one = _score(folder, batch_size=1)
    (folder / "measurements.jsonl").unlink()
    pd.testing.assert_frame_equal(one, _score(folder, batch_size=7))


def test_texts_and_references_are_embedded_once(folder):
    faces, clip = ColourFaces(), ColourClip()
    _score(folder, faces=faces, clip=clip, batch_size=2)
    assert (faces.embedded, clip.texts, clip.images) == (3 + IMAGES, 6, IMAGES)


def test_no_image_is_read_twice_for_rows_and_swaps(folder, monkeypatch):
    read, digest = [], measure.file_digest
    monkeypatch.setattr(measure, "file_digest", lambda path: read.append(path) or digest(path))
    scorer = _scorer(folder)
    scorer.score(METHODS)
    scorer.swaps(METHODS)
    assert len(read) == len(set(read)) == IMAGES


def test_a_filled_journal_opens_no_image_and_gives_the_same_rows(folder, monkeypatch):
    first, seen = _score(folder), []
    monkeypatch.setattr(measure.Image, "open", lambda *_: pytest.fail("an image was opened"))
    again = _score(folder, progress=lambda *x: seen.append(x), batch_size=12)
    pd.testing.assert_frame_equal(first, again)
    assert [done for done, _, _ in seen] == [12, 24, IMAGES]


def test_only_what_changed_is_measured_again(folder):
    first, clip = _score(folder), ColourClip()
    Image.new("RGB", (32, 32), "red").save(folder / "images/moa/ann/hat/0.png")
    changed = _score(folder, clip=clip)
    assert clip.images == 1
    before, after = (_row(rows, image="images/moa/ann/hat/0.png") for rows in (first, changed))
    assert before.pc != after.pc and before.swap_change_inside != after.swap_change_inside
    with (folder / "measurements.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "cut sho')
    pd.testing.assert_frame_equal(changed, _score(folder, clip=clip))
    assert clip.images == 1


def test_other_measuring_models_measure_again(folder):
    class Other(ColourClip):
        def describe(self):
            return {"name": "another"}

    _score(folder)
    clip = Other()
    _score(folder, clip=clip)
    assert clip.images == IMAGES


def test_an_interrupted_scoring_keeps_what_it_measured(folder):
    class Failing(ColourClip):
        def encode_images(self, images):
            if self.images >= 8:
                raise KeyboardInterrupt
            return super().encode_images(images)

    with pytest.raises(KeyboardInterrupt):
        _score(folder, clip=Failing(), batch_size=4)
    clip = ColourClip()
    _score(folder, clip=clip, batch_size=4)
    assert clip.images == IMAGES - 8


def test_processes_share_the_measuring(folder):
    whole = _score(folder)
    (folder / "measurements.jsonl").unlink()
    images = list(dict.fromkeys(whole["image"]))
    for part in (0, 1):
        worker = Measurer(folder, colour_models(), part=part)
        for start in (0, 8):
            worker(images[part::2][start : start + 8])
    assert {path.name for path in folder.glob("*.jsonl")} == {"measurements.0.jsonl", "measurements.1.jsonl"}
    clip = ColourClip()
    pd.testing.assert_frame_equal(whole, _score(folder, clip=clip))
    assert clip.images == 0 and [path.name for path in folder.glob("*.jsonl")] == ["measurements.jsonl"]
    pd.testing.assert_frame_equal(whole, _score(folder, clip=clip))
    assert clip.images == 0


def test_tables_are_read_back_and_damage_is_named(folder, monkeypatch):
    rows = _score(folder)
    SCORES.write(folder, rows)
    pd.testing.assert_frame_equal(SCORES.read(folder), rows, check_dtype=False)
    table = pd.read_csv(folder / "scores.csv")
    assert np.allclose(table["ip"], rows["ip"]) and list(table.columns) == SCORES.columns
    SCORES.write(folder, pd.concat([rows, rows[:1]]))
    with pytest.raises(ScoresError, match="more than once"):
        SCORES.read(folder)
    SCORES.write(folder, rows.drop(columns="pc"))
    with pytest.raises(ScoresError, match="lacks column pc"):
        SCORES.read(folder)
    SCORES.write(folder, rows)
    (folder / "scores.parquet").write_bytes(b"no table")
    with pytest.raises(ScoresError, match="scores.parquet: cannot be read"):
        SCORES.read(folder)
    monkeypatch.setattr(pd, "read_parquet", lambda path: {}["numpy_type"])  # as of metadata with a flipped bit
    with pytest.raises(ScoresError, match="scores.parquet: cannot be read .*numpy_type"):
        SCORES.read(folder)


def test_a_table_of_before_there_was_pc_other_is_read(folder):
    rows = _score(folder)
    SCORES.write(folder, rows.drop(columns="pc_other"))
    pd.testing.assert_frame_equal(SCORES.read(folder)[SCORES.columns], rows.assign(pc_other=np.nan), check_dtype=False)


def test_every_image_of_a_method_has_rows(folder):
    rows = _score(folder)
    for method in METHODS:
        images = set(rows[rows["method"] == method.name]["image"])
        assert images == {shot.path for shot in shots(SUITE, PEOPLE, method)}
