"""Images of two people: false faces are left out, each face goes to its person, the weaker likeness counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moa.errors import ScoresError
from moa.evaluation.faces import Face
from moa.evaluation.measure import LAYOUT, Measurement, Measurer
from moa.evaluation.pairs import PROBABILITY, score_pairs, true_faces
from moa.evaluation.score import Scorer, embed_texts
from moa.evaluation.score_tables import PAIRS
from moa.evaluation.subjects import SuiteSubject
from tests.moa.evaluation.fakes import MOA, PRIOR, ColourClip, colour_models, text_direction, tiny_suite

TWO = {"count": 1, "prompts": [{"id": "park", "text": "a {first} and a {second} in the park"}], "seeds": [0, 1]}
SUITE = tiny_suite(pairs=TWO)
GREY = np.ones(3) / np.sqrt(3)


def _person(name: str, word: str, colour: str) -> SuiteSubject:
    picture = Image.new("RGB", (32, 32), colour)
    return SuiteSubject(name, word, picture, picture, name)


ANN, BOB = _person("ann", "woman", "red"), _person("bob", "man", "lime")  # references [1, 0, 0] and [0, 1, 0]


def _seen(*faces: tuple[list[float], float, float]) -> Measurement:
    """An image with faces of (identity, probability, height)."""
    found = tuple(Face((0.0, 0.0, 9.0, height), probability) for _, probability, height in faces)
    identities = tuple(np.array(identity, np.float32) for identity, *_ in faces)
    layout = np.zeros((LAYOUT, LAYOUT, 3), np.uint8)
    return Measurement("sha256:0", 64, 64, found, identities, GREY, layout, None, 0.5)


class Told(Measurer):
    """A measurer that is told what the images show."""

    def __call__(self, images, **_):
        assert list(images) == list(self.told)
        return self.told


def _score(tmp_path, told, people=(ANN, BOB), suite=SUITE):
    measurer = Told(tmp_path, colour_models())
    measurer.told = told
    return score_pairs(Scorer(suite, people, measurer, embed_texts(suite, people, ColourClip())), [PRIOR, MOA])


def _paths(method: str, pair: str) -> list[str]:
    return [f"images/{method}/{pair}/park/{seed}.png" for seed in (0, 1)]


def test_each_face_goes_to_its_person_and_the_weaker_likeness_counts(tmp_path):
    both = _seen(([0.6, 0.8, 0], 0.99, 12), ([0.8, 0, 0.6], 0.99, 11))
    swapped = _seen(([0, 0.9, 0.1], 0.99, 12), ([0.6, 0.8, 0], 0.99, 11))
    prior, moa = _paths("prior", "woman+man"), _paths("moa", "ann+bob")
    rows = _score(tmp_path, dict(zip([*prior, *moa], [both, both, both, swapped], strict=True)))
    assert list(rows.columns) == PAIRS.columns and list(rows["image"]) == [*prior, *moa]
    row = rows.iloc[2]
    assert (row.method, row["first"], row.second, row.first_word, row.second_word) == (
        "moa",
        "ann",
        "bob",
        "woman",
        "man",
    )
    assert (row.prompt, row.seed, row.outcome, row.faces) == ("a woman and a man in the park", 0, "scored", 2)
    assert (row.ip_first, row.ip_second, row.ip) == pytest.approx((0.8, 0.8, 0.8))
    assert (row.leakage, row.assigned, row.reference_similarity) == pytest.approx((0.3, 1, 0))  # (0 + 0.6) / 2
    assert row.pc == pytest.approx(GREY @ text_direction(row.prompt))
    mixed = rows.iloc[3]  # ann is shown with 0.6, but her face is nearer to bob
    assert (mixed.ip_first, mixed.ip_second, mixed.ip, mixed.assigned) == pytest.approx((0.6, 0.9, 0.6, 0))


def test_what_cannot_be_scored_says_why(tmp_path):
    one = _seen(([1, 0, 0], 0.99, 12), ([0, 1, 0], 0.6, 12))
    told = dict.fromkeys(_paths("prior", "woman+man"), one)
    told |= dict(zip(_paths("moa", "ann+bob"), ["missing", "unreadable"], strict=True))
    rows = _score(tmp_path, told)
    assert list(rows["outcome"]) == ["too_few_faces", "too_few_faces", "missing", "unreadable"]
    assert rows.iloc[0][["faces", "ip", "assigned"]].tolist() == [1, 0, 0] and np.isnan(rows.iloc[0].leakage)
    assert rows.iloc[2:][["faces", "ip", "pc", "reference_similarity"]].isna().all(axis=None)
    hidden = replace(BOB, photo=Image.new("RGB", (32, 32)))  # no face in his reference
    rows = _score(tmp_path, told, (ANN, hidden))
    assert set(rows["outcome"]) == {"no_reference_face", "missing", "unreadable"} and rows["ip"].isna().all()


def test_a_pair_with_a_lost_person_keeps_its_place(tmp_path):
    """Who is paired with whom does not depend on whose photograph is there."""
    lost = SuiteSubject("kim", "man", None, None, "kim", problem="kim holds no photograph")
    suite = tiny_suite(pairs={**TWO, "count": 3, "seeds": [0]})
    told = {"images/prior/woman+man/park/0.png": _seen(), "images/moa/ann+bob/park/0.png": _seen()}
    rows = _score(tmp_path, told, (ANN, BOB, lost), suite)
    assert rows.groupby(["first", "second"])["outcome"].unique().map(list).to_dict() == {
        ("ann", "bob"): ["too_few_faces"],
        ("ann", "kim"): ["no_reference"],
        ("bob", "kim"): ["no_reference"],
    }
    assert rows.loc[rows["outcome"] == "no_reference", "pc"].isna().all()


def test_a_suite_without_pairs_has_no_rows(tmp_path):
    assert _score(tmp_path, {}, suite=tiny_suite()) is None


@pytest.mark.parametrize(
    ("probability", "height", "kept"), [(0.99, 9, 3), (0.9, 9, 3), (0.89, 9, 2), (0.99, 4, 3), (0.99, 3.9, 2)]
)
def test_false_faces_are_unsure_or_tiny(probability, height, kept):
    sure = ([1, 0, 0], 0.99, 12.0)
    found = true_faces(_seen(sure, sure, ([0, 0, 1], probability, height)), PROBABILITY["facenet"])
    assert found.shape == (kept, 3) and ([0, 0, 1] in found.tolist()) == (kept == 3)


def test_tables_are_read_back_and_damage_is_named(tmp_path):
    told = dict.fromkeys([*_paths("prior", "woman+man"), *_paths("moa", "ann+bob")], _seen())
    rows = _score(tmp_path, told)
    PAIRS.write(tmp_path, rows)
    assert PAIRS.read(tmp_path).equals(rows) and (tmp_path / "pairs.csv").read_text().startswith("method,first,second")
    PAIRS.write(tmp_path, rows.drop(columns="leakage"))
    with pytest.raises(ScoresError, match="pairs.parquet: lacks column leakage"):
        PAIRS.read(tmp_path)
    PAIRS.write(tmp_path, rows.iloc[[0, 0]])
    with pytest.raises(ScoresError, match="more than once"):
        PAIRS.read(tmp_path)
    with pytest.raises(ScoresError, match="cannot be read"):
        PAIRS.read(tmp_path / "absent")
