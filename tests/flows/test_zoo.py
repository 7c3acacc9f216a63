"""`make zoo`: pictures first, then frozen models and adapters, stage by stage; an adapter's phases start from one
another; what has a card is left alone. The trainings themselves are replaced: they have tests of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import zoo
from moa.train_config import TrainConfig

Call = tuple[str, tuple[str, ...], int]  # module, arguments, threads


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What would be run; a training writes an export that says where it started from, and its metrics."""
    made: list[Call] = []

    def call(name: str, module: str, *arguments: str, threads: int = 0) -> None:
        made.append((module, arguments, threads))
        if module == "moa.train":
            config = TrainConfig.model_validate_json(Path(arguments[-1]).read_text())
            (config.run_folder / "export").mkdir()
            manifest = {"commit": "c0ffee", "inputs": {"init": str(config.init)}}
            (config.run_folder / "export/manifest.json").write_text(json.dumps(manifest))
            (config.run_folder / "metrics.jsonl").write_text('{"seconds": 1.4}\n{"seconds": 2.4}\n')

    monkeypatch.setattr(zoo, "_call", call)
    monkeypatch.setattr(zoo, "_quality", lambda *_: {"error_right": 0.12345})
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    return made


def configs(calls: list[Call]) -> list[TrainConfig]:
    return [TrainConfig.model_validate_json(Path(a[-1]).read_text()) for module, a, _ in calls if module == "moa.train"]


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


def test_everything_in_its_order_and_once(calls, tmp_path, monkeypatch):
    arguments = ["zoo", "--zoo", str(tmp_path / "zoo"), "--scale", "0.01", "--processes", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    zoo.main()
    drawn = [Path(arguments[0]).stem for module, arguments, _ in calls if module == "preprocessing"]
    assert drawn == ["miniature-zoo", "miniature-identities", "miniature-photos"]
    made = [a[a.index("--only") + 1] if module == "moa.zoo" else module for module, a, _ in calls[len(drawn) :]]
    first, last = set(made[:4]), made[5:]
    assert first == set(zoo.STAGES[0]) and made[4] == "base" and set(last) == {"moa.train", "community"}
    assert all(a[a.index("--scale") + 1] == "0.01" for module, a, _ in calls if module == "moa.zoo")
    assert len(configs(calls)) == len(zoo.ADAPTERS) * len(zoo.PHASES)

    calls.clear()
    zoo.main()
    assert not configs(calls), "adapters with a card are left alone"

    calls.clear()
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "vae", "base"])
    zoo.main()
    assert [a[a.index("--only") + 1] for module, a, _ in calls if module == "moa.zoo"] == ["vae", "base"]


def test_processors_are_shared_by_the_models_of_a_stage(calls, tmp_path):
    job = zoo.Job(tmp_path / "zoo", processes=8)
    for stage in zoo.STAGES[:2]:
        zoo.train_stage(stage, job)
    assert [threads for _, _, threads in calls] == [2, 2, 2, 2, 8]
    assert zoo.Job(tmp_path, processes=2).threads(zoo.STAGES[0]) == 1


def test_a_failure_lets_the_others_finish(tmp_path, monkeypatch):
    finished = []

    def train(name: str, job: zoo.Job, threads: int) -> None:
        if name == "clip":
            sys.exit(3)
        finished.append(name)

    monkeypatch.setattr(zoo, "train_frozen", train)
    with pytest.raises(SystemExit, match="3"):
        zoo.train_stage(zoo.STAGES[0], zoo.Job(tmp_path, processes=1))
    assert finished == ["vae", "attributes", "identity"]


def test_what_a_process_says_is_printed_behind_its_name(capsys):
    zoo._call("moa", "this", threads=1)
    assert "moa: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        zoo._call("moa", "no_such_module")


@pytest.mark.parametrize("name", zoo.ADAPTERS)
def test_phases_start_from_one_another(calls, tmp_path, name):
    zoo.train_adapter(name, zoo.Job(tmp_path / "zoo", scale=0.01), threads=3)
    made = configs(calls)
    assert [config.steps for config in made] == [10, 5, 7, 9, 18]
    assert [config.lambda_object for config in made] == [1e-2] * 4 + [1e-4], "at last the paper's weight"
    assert [config.init for config in made] == [None, *(config.run_folder / "export" for config in made[:-1])]
    assert {(config.moa, config.shards, config.base, config.num_threads) for config in made} == {
        (zoo.ADAPTERS[name], tmp_path / "data/miniature-photos", tmp_path / "zoo/base", 3)
    }
    found = card(tmp_path / "zoo" / name)
    assert (
        found["steps"] == [10, 5, 7, 9, 18] and found["seconds"] == 12 and found["quality"] == {"error_right": 0.1235}
    )
    assert found["inputs"]["init"] == str(made[-2].run_folder / "export"), "the last phase's export is shipped"
    assert found["continued_from"] is None


def test_an_earlier_zoos_adapter_is_trained_further_by_the_last_phase(calls, tmp_path):
    zoo.train_adapter("moa", zoo.Job(tmp_path / "first", scale=0.01), threads=1)
    calls.clear()
    for work in (tmp_path / "runs").iterdir():
        work.rename(tmp_path / work.name)
    zoo.train_adapter("moa", zoo.Job(tmp_path / "second", 0.01, start=tmp_path / "first"), threads=1)
    (config,) = configs(calls)
    assert config.init == tmp_path / "first/moa" and config.steps == 18
    found = card(tmp_path / "second/moa")
    assert found["steps"] == [18]
    assert found["continued_from"] == {"commit": "c0ffee", "steps": [10, 5, 7, 9, 18], "continued_from": None}
