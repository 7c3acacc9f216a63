"""`make zoo`: pictures first, then frozen models and adapters, stage by stage; an adapter's phases start from one
another; what has a card is left alone. The trainings themselves are replaced: they have tests of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import zoo
from moa.train_config import TrainConfig

Call = tuple[str, tuple[str, ...], int]  # module, arguments (of a training the content of its configuration), threads


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What would be run; a training writes an export that says where it started from, and its metrics; a recipe its
    model's card."""
    made: list[Call] = []

    def call(name: str, module: str, *arguments: str, threads: int = 0) -> None:
        if module == "moa.train":
            arguments = (Path(arguments[-1]).read_text(),)
            config = TrainConfig.model_validate_json(arguments[0])
            (config.run_folder / "export").mkdir(exist_ok=True)
            manifest = {"commit": "c0ffee", "inputs": {"init": str(config.init)}, "digest": f"sha256:{config.steps}"}
            (config.run_folder / "export/manifest.json").write_text(json.dumps(manifest))
            (config.run_folder / "metrics.jsonl").write_text('{"seconds": 1.4}\n{"seconds": 2.4}\n')
        elif module == "moa.zoo" and name not in zoo.PART_OF:
            folder = Path(arguments[arguments.index("--out") + 1]) / name
            folder.mkdir(parents=True)
            (folder / "card.json").write_text("{}")
        made.append((module, arguments, threads))

    monkeypatch.setattr(zoo, "_call", call)
    monkeypatch.setattr(zoo, "_quality", lambda *_: {"error_right": 0.12345})
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    return made


def configs(calls: list[Call]) -> list[TrainConfig]:
    return [TrainConfig.model_validate_json(text) for module, (text, *_), _ in calls if module == "moa.train"]


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


def recipes(calls: list[Call]) -> list[str]:
    return [a[a.index("--only") + 1] for module, a, _ in calls if module == "moa.zoo"]


def test_everything_in_its_order_and_once(calls, tmp_path, monkeypatch, capsys):
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
    assert not calls, "models with a card are left alone, and no picture is drawn for them"
    models = {name for stage in zoo.STAGES for name in stage} - {"vae"}
    said = capsys.readouterr().out
    assert said.count("delete the folder") == len(models) and all(f"{tmp_path}/zoo/{x}: up" in said for x in models)

    shutil.rmtree(tmp_path / "zoo/base")
    shutil.rmtree(tmp_path / "zoo/moa")
    zoo.main()
    assert recipes(calls) == ["vae", "base"] and len(configs(calls)) == len(zoo.PHASES)

    calls.clear()
    shutil.rmtree(tmp_path / "zoo/base")
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "vae", "community"])
    zoo.main()
    assert recipes(calls) == ["vae"]


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


def test_ctrl_c_ends_what_is_running_and_starts_nothing_more(tmp_path, monkeypatch, capfd):
    started = []

    def train(name: str, job: zoo.Job, threads: int) -> None:
        started.append(name)
        zoo._call(name, "http.server", "0", "--bind", "127.0.0.1")

    def interrupt() -> None:
        while len(zoo.RUNNING) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(zoo, "train_frozen", train)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            zoo.train_stage(zoo.STAGES[0], zoo.Job(tmp_path, processes=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert started == ["clip", "vae"] and not zoo.RUNNING


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG exists on Linux only")
@pytest.mark.parametrize("module", ["zoo", "figures"])
def test_a_killed_call_leaves_no_process(module):
    words = ("'x', " if module == "zoo" else "") + "'http.server', '0', '--bind', '127.0.0.1'"
    code = f"from flows.{module} import _call; _call({words})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and "Serving HTTP" in process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        child.wait(10)


@pytest.mark.parametrize("name", zoo.ADAPTERS)
def test_phases_start_from_one_another(calls, tmp_path, name):
    zoo.train_adapter(name, zoo.Job(tmp_path / "zoo", scale=0.01), threads=3)
    made = configs(calls)
    assert [config.steps for config in made] == [10, 5, 7, 9, 13]
    assert [config.lambda_object for config in made] == [1e-2] * 4 + [1e-4], "at last the paper's weight"
    assert [config.init for config in made] == [None, *(config.run_folder / "export" for config in made[:-1])]
    assert {(config.moa, config.shards, config.base, config.num_threads) for config in made} == {
        (zoo.ADAPTERS[name], tmp_path / "data/miniature-photos", tmp_path / "zoo/base", 3)
    }
    found = card(tmp_path / "zoo" / name)
    assert (
        found["steps"] == [10, 5, 7, 9, 13] and found["seconds"] == 12 and found["quality"] == {"error_right": 0.1235}
    )
    assert found["inputs"]["init"] == str(made[-2].run_folder / "export"), "the last phase's export is shipped"
    assert found["continued_from"] is None


def test_a_finished_adapters_state_is_gone_and_another_zoos_is_its_own(calls, tmp_path):
    zoo.train_adapter("moa", zoo.Job(tmp_path / "zoo", scale=0.01), threads=1)
    zoo.train_adapter("moa", zoo.Job(tmp_path / "other", scale=0.01), threads=1)
    for name in ("zoo", "other"):
        assert (tmp_path / name / "moa/card.json").is_file() and not list((tmp_path / name / ".work").iterdir())
    assert {config.run_folder.parent for config in configs(calls)} == {tmp_path / "zoo/.work", tmp_path / "other/.work"}
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_adapter_goes_on_unless_it_was_made_from_something_else(calls, tmp_path, monkeypatch, capsys):
    """The first phase's state stays while steps, base model and pictures are the same."""
    mark = tmp_path / "zoo/.work/moa-1/mark"

    def killed(scale: float, threads: int) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(zoo, "_quality", lambda *_: sys.exit(1))
            with pytest.raises(SystemExit):
                zoo.train_adapter("moa", zoo.Job(tmp_path / "zoo", scale=scale), threads)
        kept = mark.is_file()
        mark.touch()
        return kept

    assert not killed(0.01, threads=1)
    assert killed(0.01, threads=2) and "starts over" not in capsys.readouterr().out
    assert not killed(0.02, threads=2) and "starts over" in capsys.readouterr().out
    (tmp_path / "zoo/base").mkdir()
    (tmp_path / "zoo/base/card.json").write_text("{}")
    assert not killed(0.02, threads=2), "another base model"


def test_an_earlier_zoos_adapter_is_trained_further_by_the_last_phase(calls, tmp_path):
    zoo.train_adapter("moa", zoo.Job(tmp_path / "first", scale=0.01), threads=1)
    calls.clear()
    zoo.train_adapter("moa", zoo.Job(tmp_path / "second", 0.01, start=tmp_path / "first"), threads=1)
    (config,) = configs(calls)
    assert config.init == tmp_path / "first/moa" and config.steps == 13
    found = card(tmp_path / "second/moa")
    assert found["steps"] == [13]
    assert found["continued_from"] == {"commit": "c0ffee", "steps": [10, 5, 7, 9, 13], "continued_from": None}


def test_adapters_that_end_together_are_measured_one_at_a_time(tmp_path, monkeypatch):
    """Two threads of one process that load models at once find each other's meta tensors."""
    inside, most = [], []

    def measure(*_: object) -> dict[str, float]:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return {}

    monkeypatch.setattr("moa.zoo.held_out.measure_adapter", measure)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: zoo._quality(tmp_path, zoo.MOA, tmp_path, tmp_path), range(3)))
    assert most == [1, 1, 1]
