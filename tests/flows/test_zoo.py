"""`make zoo`: pictures first, then frozen models, then adapters in phases that start from one another; what has a card
is left alone. The trainings themselves are replaced: they have tests of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flows import zoo
from moa.train_config import TrainConfig


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would be run; a training writes an export that says where it started from, and its metrics."""
    made: list[tuple[str, ...]] = []

    def call(module: str, *arguments: str) -> None:
        made.append((module, *arguments))
        if module == "torch.distributed.run":
            config = TrainConfig.model_validate_json(Path(arguments[-1]).read_text())
            (config.out / "export").mkdir()
            manifest = {"commit": "c0ffee", "inputs": {"init": str(config.init)}}
            (config.out / "export/manifest.json").write_text(json.dumps(manifest))
            (config.out / "metrics.jsonl").write_text('{"seconds": 1.4}\n{"seconds": 2.4}\n')

    monkeypatch.setattr(zoo, "_call", call)
    monkeypatch.setattr(zoo, "_quality", lambda *_: {"error_right": 0.12345})
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    return made


def test_everything_in_its_order_and_once(calls, tmp_path, monkeypatch):
    arguments = ["zoo", "--zoo", str(tmp_path / "zoo"), "--scale", "0.01", "--processes", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    zoo.main()
    modules = [module for module, *_ in calls]
    assert modules == ["preprocessing"] * 3 + ["moa.zoo"] + ["torch.distributed.run"] * len(zoo.ADAPTERS) * len(
        zoo.PHASES
    )
    drawn = [Path(declaration).stem for module, declaration, *_ in calls if module == "preprocessing"]
    assert drawn == ["miniature-zoo", "miniature-identities", "miniature-photos"]
    assert calls[3][calls[3].index("--scale") + 1] == "0.01"
    calls.clear()
    zoo.main()
    assert [module for module, *_ in calls] == ["preprocessing"] * 3 + ["moa.zoo"]


@pytest.mark.parametrize("name", zoo.ADAPTERS)
def test_phases_start_from_one_another(calls, tmp_path, name):
    zoo.train_adapter(name, tmp_path / "zoo", tmp_path / "photos", 1, scale=0.01)
    configs = [TrainConfig.model_validate_json(Path(call[-1]).read_text()) for call in calls]
    assert [config.steps for config in configs] == [10, 5, 7, 9]
    assert [config.init for config in configs] == [None, *(config.out / "export" for config in configs[:-1])]
    assert {(config.moa, config.shards, config.base) for config in configs} == {
        (zoo.ADAPTERS[name], tmp_path / "photos", tmp_path / "zoo/base")
    }
    card = json.loads((tmp_path / "zoo" / name / "card.json").read_text())
    assert card["steps"] == [10, 5, 7, 9] and card["seconds"] == 10 and card["quality"] == {"error_right": 0.1235}
    assert card["inputs"]["init"] == str(configs[-2].out / "export")  # the last phase's export is shipped
