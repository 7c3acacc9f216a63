"""Champion, gate and promotion over several runs, on a real local Hub; the summaries are written by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows import gate, publication
from flows.artifacts import interval
from flows.card import model_card
from flows.champion import champion_adapter, champion_of, starting_adapter
from flows.errors import BrokenFileError, MissingInputError, RunInUseError, SettingsChangedError
from flows.evaluated import evaluation_folder
from flows.files import read_json, write_json
from flows.gate import pass_gate
from flows.hub import fetch, hub_cache, hub_endpoint
from flows.overrides import resolve
from flows.promotion import promote_candidate
from flows.publication import check_prior
from flows.rollback import restore_model
from flows.settings import LifecycleConfig, runs_root
from flows.trained import require_trained
from moa.errors import HubError, HubUnavailableError, RepositoryConflictError, RepositoryMissingError
from moa.hub.publish import publish, published_files
from moa.hub.server import LocalHub
from tests.flows.exports import write_export, write_shards
from tests.moa.full_disk import full_disk
from tests.moa.hub.pipeline_folder import write_pipeline

BETTER, WORSE = 0.05, -0.05
INIT = "sha256:initial"


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    write_shards(tmp_path / "data/miniature")
    write_json(tmp_path / "init/manifest.json", {"digest": INIT})
    with disable_run_logger():
        yield


def published(tmp_path: Path, name: str, weights: str = "", *overrides: str) -> LifecycleConfig:
    """A run that was trained and published; `weights` stands for what it learned (default: its name)."""
    config = resolve("miniature", ["train.init=null", *overrides], name)
    write_export(config)
    folder = write_pipeline(tmp_path / "pipelines" / name / (weights or name), (weights or name).encode() * 9)
    with hub_endpoint(config) as endpoint:
        done = publish(
            folder,
            repo_id=config.publish.repo_id,
            endpoint=endpoint,
            token=None,
            branch=f"run-{name}",
            card=model_card(config),
            cache_dir=hub_cache(),
        )
    write_json(config.run / "publication.json", {**done.model_dump(mode="json"), "endpoint": config.publish.endpoint})
    return config


def gated(config: LifecycleConfig, change: float) -> dict[str, Any]:
    """The decision on a run whose MoA differs by `change` from its champion, or from the prior where it has none."""
    has_champion = champion_adapter(config) is not None
    kinds = ["prior", "moa", *(["champion"] if has_champion else [])]
    others = dict.fromkeys(("ip", "pc"), {"mean": 0.1, "low": 0.0, "high": 0.2})
    own = {"ip": {"mean": 0.5, "low": 0.4, "high": 0.6}, "pc": {"mean": 0.3, "low": 0.2, "high": 0.5}}
    methods = [
        {"method": kind, "label": kind, "kind": kind, "outcomes": {"scored": 4}} | (own if kind == "moa" else others)
        for kind in kinds
    ]
    difference = {"mean": change, "low": change - 0.01, "high": change + 0.01, "std": 0.1}
    line = {"before": kinds[-1] if has_champion else "prior", "after": "moa", "n": 4}
    to_prior = {"before": "prior", "after": "moa", "n": 4, "ip": {"mean": 0.4, "low": 0.3, "high": 0.5}, "pc": None}
    summary = {
        "suite": "miniature",
        "version": "1",
        "methods": methods,
        "comparisons": [line | {"ip": difference, "pc": difference}, *([to_prior] if has_champion else [])],
    }
    evaluated(config, summary)
    return read_json(pass_gate.fn(config))


def evaluated(config: LifecycleConfig, summary: dict[str, Any]) -> None:
    """Writes a finished evaluation of the published candidate."""
    folder = evaluation_folder(config)
    write_json(folder / "summary.json", summary | {"provenance": {"adapter_digest": digest(config)}})
    write_json(folder / "manifest.json", {})


def main_adapter(config: LifecycleConfig) -> str:
    return read_json(fetch(config, "main") / "adapter/manifest.json")["digest"]


def digest(config: LifecycleConfig) -> str:
    return read_json(config.run / "publication.json")["adapter_digest"]


def test_the_first_model_is_promoted_when_it_beats_the_prior(tmp_path: Path) -> None:
    first = published(tmp_path, "first")
    decision = gated(first, BETTER)
    assert decision["decision"] == "promoted" and decision["against"]["kind"] == "prior"
    assert champion_of(first).source == "none"
    assert main_adapter(first) == digest(first)
    promotion = read_json(first.run / "promotion.json")
    assert promotion["endpoint"] == "local" and promotion["candidate"] == decision["candidate"]["commit"]
    assert fetch(first, promotion["tag"]).name == promotion["commit"]
    assert promotion["tag"] == f"first-{promotion['candidate'][:8]}"
    card = (fetch(first, "main") / "README.md").read_text()
    assert "0.500 | 0.400 to 0.600" in card and "0.300 | 0.200 to 0.500" in card, "its own scores are on the card"


def test_a_rejected_challenger_leaves_main_alone_and_says_why(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    before = fetch(first, "main").name
    decision = gated(second, WORSE)
    assert (decision["decision"], decision["against"]["kind"]) == ("rejected", "champion")
    assert "not above" in decision["reasons"][0] and decision["ip"]["mean"] == WORSE
    assert champion_of(second).adapter_digest == digest(first)
    assert fetch(first, "main").name == before and not (second.run / "promotion.json").exists()
    assert fetch(second, "run-second").name == decision["candidate"]["commit"], "the candidate stays on its branch"
    assert read_json(pass_gate.fn(second)) == decision, "and is judged again when it is asked again"


def test_what_promotions_give_up_goes_along_with_main(tmp_path: Path) -> None:
    """Also to another machine, which has none of the runs before."""
    runs = [published(tmp_path, name) for name in ("first", "second", "third", "fourth")]
    gated(runs[0], BETTER)
    wide = {"promote.tolerance_ip=0.03", "promote.tolerance_pc=0.03"}
    second = published(tmp_path, "second", "", *wide)
    decided = gated(second, -0.015)
    assert decided["decision"] == "promoted" and decided["given_up"] == {"ip": 0.015, "pc": 0.015}
    assert read_json(fetch(second, "main") / "gate.json") == decided
    shutil.rmtree(second.run), shutil.rmtree(hub_cache())
    third = published(tmp_path, "third", "", *wide)
    decided = gated(third, -0.015)
    assert champion_of(third).given_up.ip == 0.015
    assert decided["decision"] == "rejected" and "not above -0.015" in decided["reasons"][0]
    assert gated(published(tmp_path, "fourth", "", *wide), 0.01)["given_up"] == {"ip": 0.005, "pc": 0.005}


def test_what_was_given_up_is_read_from_other_peoples_repositories_with_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    said: str | None = None

    def fetched(config: LifecycleConfig, revision: str, part: str) -> Path:
        if part != "gate.json":
            return fetch(config, revision, part)
        if said is None:
            raise RepositoryMissingError("no gate.json")
        (tmp_path / "gate.json").write_text(said)
        return tmp_path

    monkeypatch.setattr("flows.champion.fetch", fetched)
    for text in ('{"given_up": {"ip": -1}}', '{"given_up": {"ip": NaN}}', "{}", "[]", "cut"):
        said = text
        with pytest.raises(BrokenFileError, match=r"gate.json of miniature/moa@\w{8} does not say"):
            champion_of(second)
    said = None
    assert champion_of(second).given_up.model_dump() == {"ip": 0, "pc": 0}, "promoted by an earlier version"


def test_the_run_page_says_what_was_decided_by_which_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "decision": "rejected",
        "reasons": ["PC: it is lower."],
        "rule": "The rule.",
        "candidate": {"branch": "run-a", "commit": "0123456789"},
        "against": {"label": "Champion"},
        "n": 4,
        "suite": "miniature, version 1",
        "ip": {"mean": 0.1, "low": 0.05, "high": 0.15},
        "pc": {"mean": -0.3, "low": -0.4, "high": -0.2},
    }
    shown: list[str] = []
    monkeypatch.setattr(gate, "create_markdown_artifact", lambda key, markdown: shown.append(markdown))
    gate.show_decision.fn(write_json(tmp_path / "gate.json", found))
    lines = shown[0].splitlines()
    assert lines[0] == "## Candidate rejected: run-a@01234567" and {"The rule.", "* PC: it is lower."} < set(lines)
    assert "| MoA - Champion | 4 images of miniature, version 1 |" in lines
    assert [line for line in lines if line.startswith(("| IP", "| PC"))] == [
        f"| IP | {interval(found['ip'])} |",
        f"| PC | {interval(found['pc'])} |",
    ]


@pytest.mark.parametrize(("ip", "pc", "reason"), [(0.1, 0.01, "PC"), (0.02, 0.1, "IP")])
def test_each_score_has_the_tolerance_that_the_run_was_given(tmp_path: Path, ip: float, pc: float, reason: str) -> None:
    given = (f"promote.tolerance_ip={ip}", f"promote.tolerance_pc={pc}")
    first, second = published(tmp_path, "first"), published(tmp_path, "second", "", *given)
    gated(first, BETTER)
    assert [why.split(",")[0] for why in gated(second, WORSE)["reasons"]] == [reason]


def test_a_promoted_run_started_again_changes_nothing(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    files = {path: path.stat().st_mtime_ns for path in first.run.rglob("*.json")}
    pass_gate.fn(first)
    assert {path: path.stat().st_mtime_ns for path in first.run.rglob("*.json")} == files
    assert champion_of(first).source == "none", "not itself"
    gated(second, BETTER)
    pass_gate.fn(first)
    assert main_adapter(first) == digest(second), "the older run does not take main back"


def test_a_promotion_that_was_cut_short_is_no_other_models(tmp_path: Path) -> None:
    """`main` holds the candidate already, and gate.json was not written any more."""
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    before = gated(second, BETTER), read_json(second.run / "promotion.json")
    (second.run / "gate.json").unlink()
    assert (read_json(pass_gate.fn(second)), read_json(second.run / "promotion.json")) == before


def test_a_rollback_brings_back_the_model_its_card_and_what_the_gate_goes_on_from(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    held, before = fetch(first, "main"), read_json(first.run / "promotion.json")
    assert gated(second, 0.005)["decision"] == "promoted"
    bad = fetch(first, "main").name
    after = read_json(restore_model.fn(first))
    now = fetch(first, "main")
    assert now.name == after["commit"] not in (held.name, bad) and after == before | {
        "commit": now.name,
        "previous": bad,
    }
    assert {path.name: path.read_bytes() for path in now.rglob("*.*")} == {
        path.name: path.read_bytes() for path in held.rglob("*.*")
    }
    assert read_json(restore_model.fn(first)) == after and fetch(first, "main") == now, "again: nothing to do"
    pass_gate.fn(second)
    assert fetch(first, "main") == now, "the run that was undone does not come back by itself"
    third = published(tmp_path, "third")
    assert gated(third, BETTER)["decision"] == "promoted" and champion_of(third).adapter_digest == digest(first)


def test_only_what_was_promoted_here_can_come_back(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    with pytest.raises(MissingInputError, match="promotion.json is missing: run `python -m flows.gate`"):
        restore_model.fn(second)
    elsewhere = resolve("miniature", ["train.init=null", "publish.repo_id=you/name"], "first")
    with pytest.raises(MissingInputError, match="promoted in miniature/moa at local, not in you/name at local"):
        restore_model.fn(elsewhere)


def test_a_comparison_that_was_overtaken_does_not_count(tmp_path: Path) -> None:
    slow, fast = published(tmp_path, "slow"), published(tmp_path, "fast")
    assert champion_of(slow).source == "none"
    assert gated(fast, BETTER)["decision"] == "promoted"
    assert "another model" not in " ".join(gated(slow, WORSE)["reasons"]), "what is worse anyway need not be told so"
    decision = gated(slow, BETTER)
    assert decision["decision"] == "rejected" and "another model" in decision["reasons"][0]
    assert main_adapter(slow) == digest(fast)


def test_a_promotion_between_the_look_and_the_commit_is_a_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = published(tmp_path, "slow"), published(tmp_path, "fast")

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(gate, "promote_candidate", promote_candidate)
        assert gated(fast, BETTER)["decision"] == "promoted"
        promote_candidate(*arguments)

    monkeypatch.setattr(gate, "promote_candidate", meanwhile)
    with pytest.raises(RepositoryConflictError, match="main moved"):
        gated(slow, BETTER)
    assert main_adapter(slow) == digest(fast) and not (slow.run / "gate.json").exists()
    assert gated(slow, BETTER)["decision"] == "rejected", "when it is run again"


def test_another_repository_has_a_champion_of_its_own(tmp_path: Path) -> None:
    """As README, "Your own photographs": published on this machine first, then elsewhere."""
    gated(published(tmp_path, "first"), BETTER)
    here = published(tmp_path, "run")
    assert champion_of(here).source == "promoted" and gated(here, BETTER)["decision"] == "promoted"
    with LocalHub(tmp_path / "elsewhere") as hub:
        for change in (f"publish.endpoint={hub.endpoint}", "publish.repo_id=you/name"):
            moved = published(tmp_path, "run", "", change)
            found = champion_of(moved)
            assert (found.repo_id, found.endpoint, found.source, found.commit) == (
                moved.publish.repo_id,
                moved.publish.endpoint,
                "none",
                None,
            )
            assert champion_adapter(moved) is None
            assert gated(moved, BETTER)["decision"] == "promoted" and main_adapter(moved) == digest(moved)
    assert champion_of(published(tmp_path, "run")).source == "none", "nobody is compared with himself"


def test_a_promoted_adapter_that_is_published_with_another_card_stays_promoted(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    before = gated(first, BETTER)
    gated(second, BETTER)
    again = published(tmp_path, "first", "", "publish.title=Another title")
    commit = read_json(again.run / "publication.json")["commit"]
    assert commit != before["candidate"]["commit"] and digest(again) == digest(first)
    assert read_json(pass_gate.fn(again)) == before
    assert main_adapter(again) == digest(second)


def test_a_candidate_is_not_promoted_where_it_was_not_compared(tmp_path: Path) -> None:
    """Published to another repository after its evaluation, or without the record of its champion."""
    gated(published(tmp_path, "first"), BETTER)
    moved = published(tmp_path, "first", "", "publish.repo_id=you/name")
    with pytest.raises(MissingInputError, match=r"champion of you/name: run `python -m flows.evaluate --name first`"):
        pass_gate.fn(moved)
    second = published(tmp_path, "second")
    gated(second, BETTER)
    for name in ("champion.json", "gate.json"):
        (second.run / name).unlink()
    with pytest.raises(MissingInputError, match="was not compared with the champion"):
        pass_gate.fn(second)


def test_a_champion_of_an_earlier_version_is_chosen_anew(tmp_path: Path) -> None:
    run = published(tmp_path, "run", "", f"train.init={tmp_path / 'init'}")
    chosen = champion_of(run)
    write_json(run.run / "champion.json", {"candidate": digest(run), "source": "none"})
    assert champion_of(run) == chosen and chosen.source == "init"


def test_another_candidate_of_the_same_run_gets_the_champion_of_its_time(tmp_path: Path) -> None:
    short = published(tmp_path, "run", "short")
    gated(short, BETTER)
    longer = published(tmp_path, "run", "longer")
    assert champion_of(longer).adapter_digest == digest_of(tmp_path, "short")
    assert gated(longer, WORSE)["decision"] == "rejected"
    assert gated(longer, BETTER)["decision"] == "promoted", "by another evaluation"
    assert main_adapter(longer) == digest(longer)


def digest_of(tmp_path: Path, weights: str) -> str:
    return json.loads((tmp_path / "pipelines/run" / weights / "adapter/manifest.json").read_text())["digest"]


def test_a_candidate_is_not_judged_by_the_evaluation_of_another(tmp_path: Path) -> None:
    run = published(tmp_path, "run", "short")
    gated(run, BETTER)
    published(tmp_path, "run", "longer")
    with pytest.raises(MissingInputError, match="another adapter"):
        pass_gate.fn(run)
    (evaluation_folder(run) / "manifest.json").unlink()
    with pytest.raises(MissingInputError, match="flows.evaluate"):
        pass_gate.fn(run)
    (run.run / "publication.json").unlink()
    with pytest.raises(MissingInputError, match="flows.publish"):
        pass_gate.fn(run)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pipeline folders that were built, of a few bytes each, of the adapter that lay there then."""
    built: list[Path] = []

    class Pipeline:
        def __init__(self, adapter: Path) -> None:
            self.digest = read_json(adapter / "manifest.json")["digest"]

        @classmethod
        def from_base(cls, base: Path, adapter: Path, image_encoder: Path) -> Pipeline:
            return cls(adapter)

        def save_pretrained(self, folder: Path) -> None:
            manifest = write_pipeline(folder) / "adapter/manifest.json"
            write_json(manifest, read_json(manifest) | {"digest": self.digest})
            built.append(folder)

    monkeypatch.setattr("moa.pipeline.MoAPipeline", Pipeline)
    monkeypatch.setattr(publication, "check_prior", lambda *_: None)
    monkeypatch.setattr("moa.models.code_commit", lambda: "abc")
    return built


@pytest.mark.parametrize(
    ("since", "again"),
    [
        (lambda run, folder: None, 1),
        (lambda run, folder: (folder / "unet/config.json").write_text("[]"), 2),
        (lambda run, folder: (folder / "unet/config.json").unlink(), 2),
        (lambda run, folder: (folder / "unet/left-over.safetensors").touch(), 2),
        (lambda run, folder: (folder / publication.STAGED).write_text("{"), 2),
        (lambda run, folder: (folder / publication.STAGED).unlink(), 2),
        (lambda run, folder: shutil.rmtree(folder), 2),
        (lambda run, folder: write_export(run, "sha256:trained-further"), 2),
    ],
    ids=["whole", "changed", "gone", "more", "half a record", "no record", "nothing", "another adapter"],
)
def test_what_a_failed_publication_built_is_taken_where_it_is_whole(
    tmp_path: Path, builds: list[Path], since: Callable[[LifecycleConfig, Path], Any], again: int
) -> None:
    run = published(tmp_path, "run")
    with pytest.raises(HubUnavailableError), publication.built_pipeline(run) as folder:
        raise HubUnavailableError("503")
    since(run, folder)
    with publication.built_pipeline(run) as same:
        assert same == folder and len(builds) == again
        assert (same / "unet/config.json").read_text() == "{}" and not (same / "unet/left-over.safetensors").exists()
    assert not folder.exists(), "what is published needs it no more"


@pytest.mark.parametrize("commit", [None, "abc+changes"])
def test_what_code_without_a_commit_of_its_own_has_built_is_built_again(
    tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch, commit: str | None
) -> None:
    monkeypatch.setattr("moa.models.code_commit", lambda: commit)
    run = published(tmp_path, "run")
    with pytest.raises(HubUnavailableError), publication.built_pipeline(run):
        raise HubUnavailableError("503")
    with publication.built_pipeline(run):
        assert len(builds) == 2


@pytest.mark.parametrize("other", ["base", "image_encoder"])
def test_nothing_is_built_on_another_prior_than_the_adapters(
    tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    run = published(tmp_path, "run")
    digests = {getattr(run.train, name): require_trained(run).inputs[name] for name in ("base", "image_encoder")}
    monkeypatch.setattr(publication, "check_prior", check_prior)
    monkeypatch.setattr("moa.models.folder_digest", lambda place, parts: digests[place])
    with publication.built_pipeline(run):
        assert len(builds) == 1
    digests[getattr(run.train, other)] = "sha256:another"
    with pytest.raises(SettingsChangedError, match=f"train.{other}: "), publication.built_pipeline(run):
        pass
    assert len(builds) == 1


def test_what_is_built_depends_on_base_code_and_libraries(
    tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = published(tmp_path, "run")
    made = [publication._made_from(run, require_trained(run))]
    for asked in ("moa.models.folder_digest", "moa.models.code_commit", "file_digest", "version"):
        with monkeypatch.context() as changed:
            changed.setattr(asked if "." in asked else f"flows.publication.{asked}", lambda *_: "another")
            made.append(publication._made_from(run, require_trained(run)))
    assert all(one != other for one, other in combinations(made, 2))


def test_an_interruption_leaves_what_was_built(tmp_path: Path, builds: list[Path]) -> None:
    with pytest.raises(KeyboardInterrupt), publication.built_pipeline(published(tmp_path, "run")) as folder:
        raise KeyboardInterrupt
    assert builds and folder.is_dir()


def test_a_publication_that_is_refused_leaves_no_pipeline(tmp_path: Path, builds: list[Path]) -> None:
    with pytest.raises(HubError), publication.built_pipeline(published(tmp_path, "run")) as folder:
        raise HubError("401")
    assert builds and not folder.exists()


def test_what_is_taken_from_a_failed_try_is_published_without_its_record(tmp_path: Path, builds: list[Path]) -> None:
    run = published(tmp_path, "run")
    with pytest.raises(HubUnavailableError), publication.built_pipeline(run):
        raise HubUnavailableError("503")
    with publication.built_pipeline(run) as folder:
        files = published_files(folder, model_card(run), "lab/moa", "run-run", "https://huggingface.co")
    assert "unet/config.json" in files and publication.STAGED not in files


def test_of_a_build_that_fails_nothing_is_left(tmp_path: Path, builds: list[Path]) -> None:
    run = published(tmp_path, "run")
    with full_disk(10), pytest.raises(OSError, match="File too large"), publication.built_pipeline(run):
        pass
    assert not (run.run / ".pipeline").exists()


def test_a_run_that_is_trained_further_while_it_is_published_is_told(
    tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline would be kept, and its card written, as that of the adapter before."""
    run = published(tmp_path, "run")
    monkeypatch.setattr(publication, "check_prior", lambda *_: write_export(run, "sha256:trained-further"))
    with pytest.raises(RunInUseError, match="trained further while"), publication.built_pipeline(run):
        pass
    assert builds and not builds[0].exists()
    monkeypatch.setattr(publication, "check_prior", lambda *_: None)
    with publication.built_pipeline(run) as folder:
        assert read_json(folder / "adapter/manifest.json")["digest"] == "sha256:trained-further"


def test_two_commands_do_not_publish_a_run_at_once(tmp_path: Path, builds: list[Path]) -> None:
    run, other = published(tmp_path, "run"), published(tmp_path, "other")
    with publication.built_pipeline(run) as folder:
        with pytest.raises(RunInUseError, match="being published"), publication.built_pipeline(run):
            pass
        with publication.built_pipeline(other):
            assert folder.is_dir(), "the first one's folder is still there"
    with publication.built_pipeline(run) as folder:
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("content", ["", "{}", '{"repo_id": "a/b", "version": 0}'])
def test_a_record_that_cannot_be_read_is_mended_by_publishing_again(tmp_path: Path, content: str) -> None:
    run = published(tmp_path, "run")
    record = run.run / "publication.json"
    source = "sha256:source"
    write_json(record, read_json(record) | {"source": source})
    with hub_endpoint(run) as endpoint:
        assert publication.is_published(run, source, endpoint)
        record.write_text(content)
        assert not publication.is_published(run, source, endpoint)
    with pytest.raises(HubError, match="publication.json is no record .*publish the run again"):
        publication.require_published(run)


def test_what_a_publication_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = published(tmp_path, "run")
    card = model_card(run)
    sources = [publication.source_of(run, card), publication.source_of(run, model_card(run))]
    assert len(set(sources)) == 1
    sources.append(publication.source_of(run, card.model_copy(update={"title": "Another"})))
    with monkeypatch.context() as changed:
        changed.setattr(publication, "licence_files", lambda licences: {"LICENSE.md": b"other terms"})
        sources.append(publication.source_of(run, card))
    write_export(run, "sha256:trained-further")
    sources.append(publication.source_of(run, card))
    assert len(set(sources)) == 4


def test_a_run_is_published_where_its_record_and_the_repository_say_so(tmp_path: Path) -> None:
    run, source = published(tmp_path, "run"), "sha256:source"
    known = read_json(run.run / "publication.json") | {"source": source}
    write_json(run.run / "publication.json", known)
    with hub_endpoint(run) as endpoint:
        assert publication.is_published(run, source, endpoint)
        assert not publication.is_published(run, "sha256:another", endpoint)
        for change in ("publish.repo_id=you/name", "publish.endpoint=http://127.0.0.1:1"):
            moved = resolve("miniature", ["train.init=null", change], "run")
            assert not publication.is_published(moved, source, endpoint)
        published(tmp_path, "other")
        other = {key: read_json(runs_root() / "other/publication.json")[key] for key in ("branch", "commit")}
        write_json(run.run / "publication.json", known | other)
        assert not publication.is_published(run, source, endpoint), "on another branch"
        published(tmp_path, "run", "longer")
        write_json(run.run / "publication.json", known)
        assert not publication.is_published(run, source, endpoint), "the branch has moved"


def test_what_training_starts_from_is_the_champion_until_something_was_promoted(tmp_path: Path) -> None:
    warm = published(tmp_path, "warm", "", f"train.init={tmp_path / 'init'}")
    champion = champion_of(warm)
    assert (champion.source, champion.adapter_digest) == ("init", INIT)
    assert champion_adapter(warm) == tmp_path / "init"


def test_of_a_champion_only_the_adapter_is_fetched(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    shutil.rmtree(hub_cache())
    adapter = champion_adapter(second)
    assert adapter is not None and sorted(path.name for path in adapter.parent.iterdir()) == ["adapter", "gate.json"]


def test_training_starts_from_the_promoted_adapter_and_a_run_keeps_its_start(tmp_path: Path) -> None:
    init = tmp_path / "init"
    overrides = (f"train.init={init}", "train_from=promoted")
    assert starting_adapter(resolve("miniature", overrides, "nothing-yet")) == init
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    run = resolve("miniature", overrides, "run")
    start = starting_adapter(run)
    assert start is not None and read_json(start / "manifest.json")["digest"] == digest(first)
    assert starting_adapter(resolve("miniature", overrides[:1], "run")) == init, "unless it is told to"
    write_json(run.run / "config.json", {"init": str(start)})
    gated(second, BETTER)
    assert starting_adapter(run) == start, "main has moved, the run has not"
    shutil.rmtree(hub_cache())
    write_json(run.run / "config.json", {"init": f"/another/disk/{start.parent.name}/adapter"})
    moved = resolve("miniature", [*overrides, "publish.repo_id=you/name", "publish.endpoint=http://127.0.0.1:1"], "run")
    assert starting_adapter(moved) == start and (start / "manifest.json").is_file(), "the cache may be deleted"


def test_a_champion_that_is_gone_from_the_hub_is_named_with_what_to_do(tmp_path: Path) -> None:
    first, second = published(tmp_path, "first"), published(tmp_path, "second")
    gated(first, BETTER)
    champion = champion_of(second)
    shutil.rmtree(hub_cache())
    shutil.rmtree(runs_root() / "hub")
    with pytest.raises(MissingInputError, match=f"commit {champion.commit} of .*champion.json") as error:
        champion_adapter(second)
    assert str(second.run) in str(error.value)
    (second.run / "champion.json").unlink()
    assert champion_adapter(second) is None, "chosen anew"
