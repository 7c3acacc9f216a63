"""Which evaluations compare: one digest, which every part but the precision changes."""

from __future__ import annotations

import pytest

from moa.evaluation.yardstick import yardstick, yardstick_digest

PERSON = {"id": "a", "word": "man", "source": "1", "digest": "sha256:1", "problem": None}
IMAGES = {"size": 64, "steps": 20, "guidance": 3.0, "precision": "fp32"}
SUITE = {"name": "tiny", "version": "1", "people": [PERSON], "images": IMAGES, "title": "Tiny"}
EVALUATORS = {"faces": {"weights": "sha256:2"}, "clip": {"weights": "sha256:3"}, "attributes": None}


@pytest.mark.parametrize(
    ("suite", "evaluators", "expert_interval", "same"),
    [
        ({"name": "other"}, {}, 2, False),
        ({"version": "2"}, {}, 2, False),
        ({"people": [PERSON | {"digest": "sha256:9"}]}, {}, 2, False),
        ({"images": IMAGES | {"steps": 50}}, {}, 2, False),
        ({"images": IMAGES | {"precision": "bf16"}}, {}, 2, True),
        ({"title": "Another title"}, {}, 2, True),
        ({}, {"faces": {"weights": "sha256:9"}}, 2, False),
        ({}, {"clip": {"weights": "sha256:9"}}, 2, False),
        ({}, {"attributes": {"weights": "sha256:9"}}, 2, False),
        ({}, {}, 1, False),
    ],
)
def test_what_scores_depend_on_is_in_the_yardstick(suite, evaluators, expert_interval, same):
    changed = yardstick_digest(SUITE | suite, EVALUATORS | evaluators, None, expert_interval)
    assert (changed == yardstick_digest(SUITE, EVALUATORS, None, 2)) == same


def test_who_cuts_people_out_is_a_part_where_somebody_does():
    """Elsewhere the digests stay what they were before anybody was named."""
    cutters = [None, *({"name": "SegmentationPreparer", "weights": f"sha256:{which}"} for which in "ab")]
    assert len({yardstick_digest(SUITE, EVALUATORS, preparer, 2) for preparer in cutters}) == 3
    assert yardstick(SUITE, EVALUATORS, cutters[1], 2)["preparers"] == cutters[1]
    assert "preparers" not in yardstick(SUITE, EVALUATORS, None, 2)
