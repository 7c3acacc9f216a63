"""`make figures` asks the evaluation for what the shipped zoo holds."""

from __future__ import annotations

from flows.figures import ABLATIONS, COMMUNITY, evaluation_arguments
from flows.prefect_environment import PROJECT
from moa.evaluation.run import _arguments


def test_every_shipped_ablation_and_base_is_evaluated(tmp_path):
    zoo, suite = PROJECT / "zoo", PROJECT / "datasets/suites/miniature-40.yaml"
    words = evaluation_arguments(tmp_path / "pipeline", zoo, suite, tmp_path / "out", ["cpu", "cuda:1"])
    given = _arguments(words)
    assert given.device == ["cpu", "cuda:1"]
    named = dict(text.split("=", 1) for text in given.ablation + given.community)
    assert named == {label: str(zoo / name) for label, name in (ABLATIONS | COMMUNITY).items()}
    assert {"moa", "base", "clip", "identity", "attributes", *ABLATIONS.values(), *COMMUNITY.values()} == {
        folder.name for folder in zoo.iterdir()
    }
