"""The commands of README.md are ones that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.command import _parser
from flows.downloads import CLIP, FACENET, STABLE_DIFFUSION, command
from flows.lifecycle import lifecycle
from flows.prefect_environment import PROJECT
from flows.remembered import recall
from flows.settings import write_lifecycle
from preprocessing.config import load_dataset
from preprocessing.models import missing_models

README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_flows_are_called_with_settings_that_resolve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In their order: a later command relies on what the run remembers of an earlier one."""
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path))
    calls = re.findall(r"python -m flows\.(?!zoo)(?:\w+)( [^`\n]*)", README)
    assert len(calls) >= 6
    for text in calls:
        words = shlex.split(text)
        if {"P", "N"} & set(words):  # the table of commands speaks of any preset and any name
            continue
        given = _parser(lifecycle).parse_args(words)
        config = recall(given.preset, given.overrides, given.name)
        if not given.dry_run:  # which remembers nothing
            write_lifecycle(config)
    photos = recall(None, [], "photos-sd15")
    assert (photos.preset, photos.publish.accept_licences) == ("photos_sd15", True)
    assert photos.preprocess.source_root == Path.home() / "Pictures/portraits"


def test_every_download_is_there_word_for_word() -> None:
    models = Path("models")
    annotators = missing_models(load_dataset(PROJECT / "datasets/ffhq.yaml"), models)
    fetched = [command(models / name) or "" for name in (STABLE_DIFFUSION, CLIP, FACENET)]
    for line in [*fetched, *(fetch for _, fetch in annotators)]:
        assert f"   {line}\n" in README


def test_every_target_of_the_makefile_that_is_named_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`?\bmake ([a-z-]+)\b(?=[`\s])", re.sub(r"```python.*?```", "", README, flags=re.DOTALL)))
    assert named and named <= set(targets), named - set(targets)
