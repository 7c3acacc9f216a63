"""The command line: messages, exit codes, and that importing it is light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from preprocessing.__main__ import main
from tests.preprocessing.folders import add_photo, declaration


@pytest.fixture
def toy(tmp_path: Path) -> tuple[str, ...]:
    """Arguments of a run over three good images and one bad one."""
    for number in range(3):
        add_photo(tmp_path / "photos", f"{number}.png", shade=number)
    add_photo(tmp_path / "photos", "bad.png", "a dog")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(declaration().model_dump(mode="json")))
    return (str(tmp_path / "toy.yaml"), "--out", str(tmp_path / "out"), "--source-root", str(tmp_path / "photos"))


def test_a_run_and_a_second_one(toy: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*toy]) == 0
    captured = capsys.readouterr()
    assert "3 samples (0 heldout, 3 train) with 3 subjects; 1 of 4 images dropped" in captured.out
    assert "4/4 images" in captured.err
    assert main([*toy]) == 0
    assert "up to date" in capsys.readouterr().err
    assert main([*toy, "--force"]) == 0
    assert "up to date" not in capsys.readouterr().err
    assert main([*toy, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_exit_codes(toy: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*toy, "--max-bad", "0.1"]) == 3
    assert "rejected.jsonl" in capsys.readouterr().err
    assert main([*toy[:3], "--source-root", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.yaml"), *toy[1:]]) == 2
    assert "missing.yaml" in capsys.readouterr().err
    for wrong in (["--workers", "0"], ["--max-bad", "2"], ["--colour"]):
        with pytest.raises(SystemExit) as exit_:
            main([*toy, *wrong])
        assert exit_.value.code == 2


def test_a_full_disk_is_an_error_that_says_how_to_go_on(
    toy: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main([*toy]) == 1
    assert "No space left" in (message := capsys.readouterr().err)
    assert "run the same command again" in message
    assert main([*toy]) == 0


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-h"])
    text = capsys.readouterr().out
    assert "datasets/miniature.yaml --out data/miniature" in text
    assert "exit codes" in text


def test_importing_the_command_loads_no_models() -> None:
    heavy = "{'torch', 'transformers', 'facenet_pytorch'}"
    code = f"import sys, preprocessing.__main__; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
