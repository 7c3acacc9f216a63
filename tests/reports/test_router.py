"""Figures of the routers: means over layers and steps, the map to begin with, names of layers.

pytest tests/reports/test_router.py
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reports.evaluation_format import RouterMaps
from reports.router import clearest, router_view, short_name

PATH = "{}.attentions.0.transformer_blocks.0.{}"


def maps(**changes: Any) -> RouterMaps:
    """Two layers at three steps; at the last step nothing of the second is known."""
    given = {
        "layers": [{"name": PATH.format("down_blocks.1", "attn1")}, {"name": PATH.format("mid_block", "attn2")}],
        "steps": [9, 5.5, 1],
        "background": [[0.9, 0.8, 0.7], [0.9, 0.8, None]],
        "foreground": [[0.8, 0.8, 0.7], [0.7, 0.3, 0.0]],
        "n": 1,
    }
    return RouterMaps.model_validate({**given, "tile": 8, **changes})


def album() -> Any:
    thumbs = SimpleNamespace(thumb=lambda *_: "image", router_maps=lambda *_: "sprite")
    return SimpleNamespace(
        evaluation=SimpleNamespace(folder=Path("there")),
        thumbs=thumbs,
        prompt_for=lambda prompt, who: f"a {who} on a {prompt}" if who == "man" else None,
        reference=lambda who: f"reference of {who}",
    )


def test_means_are_of_what_is_known() -> None:
    layers, steps = router_view(album(), maps()).charts
    assert layers.rows == [
        ["layer", "background", "person"],
        ["down 1.0 self", pytest.approx(0.8), pytest.approx(2.3 / 3)],
        ["mid 0 cross", pytest.approx(0.85), pytest.approx(1.0 / 3)],
    ]
    assert steps.rows[1:] == [
        *(["background", number, pytest.approx(mean)] for number, mean in ((1, 0.9), (2, 0.8), (3, 0.7))),
        *(["person", number, pytest.approx(mean)] for number, mean in ((1, 0.75), (2, 0.55), (3, 0.35))),
    ]


def test_a_layer_of_which_nothing_is_known_has_no_row() -> None:
    nothing = [None, None, None]
    layers, steps = router_view(album(), maps(background=[[0.9, 0.8, 0.7], nothing])).charts
    assert [row[0] for row in layers.rows] == ["layer", "down 1.0 self"] and len(steps.rows) == 1 + 3 + 3
    assert router_view(album(), maps(background=[nothing] * 2, foreground=[nothing] * 2)).charts == []


def test_the_map_to_begin_with_is_where_person_and_background_differ_most() -> None:
    assert clearest(maps()) == (1, 1)
    view = router_view(album(), maps())
    assert (view.opened, view.steps, view.n) == ((1, 1), ["9", "5.5", "1"], 1)
    lower = [[0.1, 0.2, 0.3], [None, None, None]]
    assert clearest(maps(background=lower)) == (0, 2), "the least bad of what is known"


def test_examples_say_their_shares_where_they_were_measured() -> None:
    example = {"subject": "man", "prompt_id": "beach", "seed": 3, "image": "a.png", "sprite": "b.png"}
    measured = example | {"background": 0.876, "foreground": 0.25}
    found = router_view(album(), maps(examples=[example, measured, {**measured, "subject": "boy"}])).examples
    assert [one.shares for one in found[:2]] == ["", "prior share 0.88 of the background, 0.25 of the person"]
    assert [one.prompt for one in found] == ["a man on a beach", "a man on a beach", "beach"]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn1", "down 0.1 self"),
        ("up_blocks.2.attentions.0.transformer_blocks.1.attn2", "up 2.0.1 cross"),
        ("mid_block.attentions.0.transformer_blocks.0.attn2", "mid 0 cross"),
        ("mid_block.attn1", "mid self"),
        ("down 0", "down 0"),
        ("<b>", "<b>"),
    ],
)
def test_layers_have_short_names(layer: str, said: str) -> None:
    assert short_name(layer) == said
