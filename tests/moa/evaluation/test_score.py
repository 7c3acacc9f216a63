"""Scores: each row is the measurement done by hand, a bad image costs its own row, the journal is never stale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moa.errors import ScoresError
from moa.evaluation.generate import generate, shots
from moa.evaluation.metrics import context_change, person_region
from moa.evaluation.score import COLUMNS, KEY, Scorer, read_scores, write_scores
from tests.moa.evaluation.fakes import BOX, ColourClip, ColourFaces, colour_direction, text_direction, tiny_suite
from tests.moa.evaluation.test_generate import MOA, PRIOR, NoiseSampler

SUITE = tiny_suite()
METHODS = [PRIOR, MOA]


@pytest.fixture
def folder(tmp_path, people):
    """An evaluation folder: noise as the prior's images, brighter noise as MoA's."""

    class Brighter(NoiseSampler):
        def __call__(self, prompt, **options):
            found = super().__call__(prompt, **options)
            found.images = [image.point(lambda v: v // 2 + 127) for image in found.images]
            return found

    generate(tmp_path, SUITE, people, PRIOR, NoiseSampler)
    generate(tmp_path, SUITE, people, MOA, Brighter)
    return tmp_path


def _score(folder, people, faces=None, clip=None, methods=METHODS, **options):
    return Scorer(folder, SUITE, people, faces or ColourFaces(), clip or ColourClip()).score(methods, **options)


def _row(rows, **key):
    chosen = rows[np.logical_and.reduce([rows[name] == value for name, value in key.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_a_row_is_what_the_metrics_say(folder, people):
    rows = _score(folder, people)
    assert list(rows.columns) == COLUMNS and len(rows) == 16 and not rows.duplicated(KEY).any()
    row = _row(rows, method="moa", subject="boy-2", prompt_id="beach", seed=1)
    image, prior = (
        Image.open(folder / f"images/{name}/beach/1.png").convert("RGB") for name in ("moa/boy-2", "prior/boy")
    )
    assert row.ip == pytest.approx(colour_direction(image.crop(BOX)) @ colour_direction(people[1].photo.crop(BOX)))
    assert row.pc == pytest.approx(colour_direction(image) @ text_direction("a boy on the beach"))
    assert (row.outcome, row.word, row.category, row.prompt) == ("scored", "boy", "context", "a boy on the beach")
    assert (row.face_x0, row.face_y1, row.face_probability, row.face_size) == (4, 14, 0.9, 10 / 32)
    changes = context_change(np.asarray(image), np.asarray(prior), person_region(BOX, 32, 32))
    assert (row.context_change_inside, row.context_change_outside) == pytest.approx(changes)
    assert row.generation_seconds >= 0 and row.image == "images/moa/boy-2/beach/1.png"


def test_the_prior_is_scored_for_each_person_and_has_no_context_change(folder, people):
    row = _row(_score(folder, people), method="prior", subject="man-0", prompt_id="hat", seed=0)
    assert row.image == "images/prior/man/hat/0.png" and 0 < row.ip <= 1
    assert np.isnan(row.context_change_inside) and np.isnan(row.context_change_outside)


def test_without_a_prior_nothing_is_compared(folder, people):
    assert _score(folder, people, methods=[MOA])["context_change_outside"].isna().all()


def test_bad_images_cost_their_own_row(folder, people):
    (folder / "images/moa/man-0/hat/0.png").unlink()
    (folder / "images/moa/man-0/hat/1.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (32, 32)).save(folder / "images/moa/man-0/beach/0.png")
    rows = _score(folder, people)
    outcomes = rows[(rows["method"] == "moa") & (rows["subject"] == "man-0")]["outcome"].tolist()
    assert outcomes == ["missing", "unreadable", "no_face", "scored"]
    missing, no_face = (_row(rows, image=f"images/moa/man-0/{name}/0.png") for name in ("hat", "beach"))
    assert np.isnan(missing.ip) and np.isnan(missing.pc)
    assert no_face.ip == 0 and np.isnan(no_face.face_x0) and not np.isnan(no_face.pc)
    assert not np.isnan(no_face.context_change_outside)  # the prior's image shows where the person was
    assert (rows["outcome"] == "scored").sum() == 13


def test_a_missing_prior_image_leaves_the_comparison_empty(folder, people):
    (folder / "images/prior/man/hat/0.png").unlink()
    row = _row(_score(folder, people), method="moa", subject="man-0", prompt_id="hat", seed=0)
    assert row.outcome == "scored" and np.isnan(row.context_change_inside)


def test_a_reference_without_a_face_has_no_ip_but_a_pc(folder, people):
    blind = [people[0], replace(people[1], photo=Image.new("RGB", (32, 32)))]
    rows = _score(folder, blind)
    affected = rows[rows["subject"] == "boy-2"]
    assert set(affected["outcome"]) == {"no_reference_face"} and affected["ip"].isna().all()
    assert affected["pc"].notna().all() and (rows[rows["subject"] == "man-0"]["outcome"] == "scored").all()


def test_the_batch_size_changes_nothing(folder, people, tmp_path_factory):
    one = _score(folder, people, batch_size=1)
    (folder / "measurements.jsonl").unlink()
    pd.testing.assert_frame_equal(one, _score(folder, people, batch_size=5))


def test_texts_and_references_are_embedded_once(folder, people):
    faces, clip = ColourFaces(), ColourClip()
    _score(folder, people, faces, clip, batch_size=2)
    assert (faces.embedded, clip.texts, clip.images) == (2 + 16, 4, 16)


def test_the_journal_saves_work_until_something_changes(folder, people):
    first = _score(folder, people)
    faces, clip = ColourFaces(), ColourClip()
    seen = []
    again = _score(folder, people, faces, clip, progress=lambda *x: seen.append(x), batch_size=6)
    pd.testing.assert_frame_equal(first, again)
    assert clip.images == 0 and [done for done, _, _ in seen] == [6, 12, 16]
    Image.new("RGB", (32, 32), "red").save(folder / "images/moa/man-0/hat/0.png")
    changed = _score(folder, people, faces, clip)
    assert clip.images == 1
    assert _row(changed, image="images/moa/man-0/hat/0.png").pc != _row(first, image="images/moa/man-0/hat/0.png").pc
    with (folder / "measurements.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "cut sho')
    pd.testing.assert_frame_equal(changed, _score(folder, people, faces, clip))
    assert clip.images == 1
    assert len((folder / "measurements.jsonl").read_text().splitlines()) == 16


def test_an_interrupted_scoring_keeps_what_it_measured(folder, people):
    class Failing(ColourClip):
        def encode_images(self, images):
            if self.images >= 8:
                raise KeyboardInterrupt
            return super().encode_images(images)

    with pytest.raises(KeyboardInterrupt):
        _score(folder, people, clip=Failing(), batch_size=4)
    clip = ColourClip()
    _score(folder, people, clip=clip, batch_size=4)
    assert clip.images == 8


def test_tables_are_read_back_and_damage_is_named(folder, people):
    rows = _score(folder, people)
    write_scores(folder, rows)
    pd.testing.assert_frame_equal(read_scores(folder), rows, check_dtype=False)
    table = pd.read_csv(folder / "scores.csv")
    assert np.allclose(table["ip"], rows["ip"]) and list(table.columns) == COLUMNS
    write_scores(folder, pd.concat([rows, rows[:1]]))
    with pytest.raises(ScoresError, match="more than once"):
        read_scores(folder)
    write_scores(folder, rows.drop(columns="pc"))
    with pytest.raises(ScoresError, match="lacks column pc"):
        read_scores(folder)
    (folder / "scores.parquet").write_bytes(b"no table")
    with pytest.raises(ScoresError, match="scores.parquet: cannot be read"):
        read_scores(folder)


def test_every_image_of_a_method_has_rows(folder, people):
    rows = _score(folder, people)
    for method in METHODS:
        images = set(rows[rows["method"] == method.name]["image"])
        assert images == {shot.path for shot in shots(SUITE, people, method)}
