"""prefect.yaml is what Prefect would make of it: Prefect itself ignores misspelt keys and unknown parameters."""

from __future__ import annotations

import re
import sys
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import Settings

from flows.overrides import dated, resolve
from flows.prefect_environment import PROJECT, variables
from flows.preflight import find_problems
from flows.presets import PRESETS
from flows.serve import POOLS, _environment, deployments

TEXT = (PROJECT / "prefect.yaml").read_text(encoding="utf-8")
DECLARED: dict[str, Any] = yaml.safe_load(TEXT)
DEPLOYMENTS: list[dict[str, Any]] = DECLARED["deployments"]
KEYS = {
    "": {"name", "pull", "definitions", "deployments"},
    "deployment": {
        "name",
        "description",
        "entrypoint",
        "parameters",
        "work_pool",
        "concurrency_limit",
        "tags",
        "schedules",
    },
    "work_pool": {"name", "job_variables"},
    "concurrency_limit": {"limit", "collision_strategy", "grace_period_seconds"},
    "schedule": {"slug", "cron", "timezone", "active", "parameters"},
}


def label(deployment: dict[str, Any]) -> str:
    return f"{deployment['entrypoint'].rpartition(':')[2]}/{deployment['name']}"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=label)
def test_deployment(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert isinstance(flow, Flow) and label(deployment).startswith(flow.name)
    parameters = deployment["parameters"]
    assert parameters.keys() <= flow.parameters.properties.keys()
    flow.validate_parameters(parameters)
    resolve(parameters["preset"], parameters["overrides"])
    assert deployment["work_pool"]["name"] in POOLS
    assert str(PROJECT) not in sys.path, "datasets/ would shadow Hugging Face datasets"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=label)
def test_no_key_is_misspelt(deployment: dict[str, Any]) -> None:
    assert deployment.keys() <= KEYS["deployment"]
    assert deployment["work_pool"].keys() <= KEYS["work_pool"]
    assert deployment["concurrency_limit"].keys() <= KEYS["concurrency_limit"]
    assert all(schedule.keys() <= KEYS["schedule"] for schedule in deployment.get("schedules", []))
    assert DECLARED.keys() <= KEYS[""]


def test_every_verb_has_a_deployment_and_every_preset_its_lifecycle() -> None:
    labels = [label(deployment) for deployment in DEPLOYMENTS]
    assert labels == deployments(), "what `make ui` prints"
    verbs = ("preprocess", "train", "publish", "evaluate", "gate", "rollback", "ablate", "lifecycle")
    both = [f"{verb}/{name}" for verb in verbs for name in ("miniature", "ffhq-sd15")]
    assert sorted(labels) == sorted([*both, "lifecycle/photos-sd15"])


def test_schedules_are_valid_and_off() -> None:
    schedules = [schedule for deployment in DEPLOYMENTS for schedule in deployment.get("schedules", [])]
    assert schedules
    for schedule in schedules:
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert schedule["active"] is False and schedule["slug"]


def test_a_scheduled_run_has_its_own_folder_and_goes_on_from_the_promoted_model() -> None:
    """Without a name of its own, each run of a schedule would find the first one's folder finished, and do nothing."""
    for deployment in DEPLOYMENTS:
        for schedule in deployment.get("schedules", []):
            parameters = deployment["parameters"] | schedule["parameters"]
            load_flow_from_entrypoint(deployment["entrypoint"]).validate_parameters(parameters)
            days = [dated(parameters["name"], datetime(2026, 1, day, 2, tzinfo=UTC)) for day in (1, 2)]
            runs = [resolve(parameters["preset"], parameters["overrides"], name=name) for name in days]
            assert runs[0].name.endswith("-2026-01-01") and runs[1].name.endswith("-2026-01-02")
            assert runs[0].train_from == "promoted"


def test_the_overrides_that_the_weekly_schedule_asks_for_satisfy_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a token")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (named,) = re.findall(r"^ *#   overrides: (.*)$", TEXT, re.MULTILINE)
    (weekly,) = [s for one in DEPLOYMENTS for s in one.get("schedules", []) if s["slug"] == "weekly"]
    assert set(weekly["parameters"]["overrides"]) < set(yaml.safe_load(named))
    fields = [str(problem).split(":")[0] for problem in find_problems(resolve("ffhq_sd15"), "publish")]
    assert [field.split(" ")[0] for field in fields] == ["publish.accept_licences", "publish.repo_id"]
    assert find_problems(resolve("ffhq_sd15", yaml.safe_load(named)), "publish") == []


def test_no_number_became_a_text_and_no_secret_is_written_down() -> None:
    """YAML 1.1 reads 1e-5 as a text; a secret block in job variables would be stored in clear."""
    values = re.findall(r"^\s*[\w.]+: ([\d.]+e-?\d+)\s*$", TEXT, re.MULTILINE)
    assert not values, f"write {values} with a decimal point: 1.0e-5"
    assert "prefect.blocks.secret" not in TEXT and "hf_" not in TEXT


def test_defaults_of_flows_validate() -> None:
    """A default that does not fit its type silently falls back to another one in the UI."""
    for entrypoint in {deployment["entrypoint"] for deployment in DEPLOYMENTS}:
        flow = load_flow_from_entrypoint(entrypoint)
        assert flow.validate_parameters({}) == {"preset": "miniature", "overrides": None, "name": None}
        assert flow.parameters.properties["preset"]["enum"] == list(PRESETS)


def test_prefect_toml_holds_known_settings() -> None:
    known = {name.upper() for name in Settings().to_environment_variables(exclude_unset=False)}
    names = [name for name, _ in variables(tomllib.loads((PROJECT / "prefect.toml").read_text()), "PREFECT")]
    assert names and set(names) <= known, set(names) - known


def test_web_pages_may_not_call_the_api() -> None:
    """Prefect's default is `*`: any page could start flows and read the answers."""
    origins = dict(variables(tomllib.loads((PROJECT / "prefect.toml").read_text()), "PREFECT"))
    allowed = origins["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"].split(",")
    assert allowed == ["http://127.0.0.1:4200", "http://localhost:4200"]
    served = _environment("http://127.0.0.1:4300", "http://127.0.0.1:4301")["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]
    assert served == "http://127.0.0.1:4300,http://localhost:4300"
