"""Moving `main` of the repository to a run's candidate."""

from __future__ import annotations

from typing import Any

from flows.card import model_card
from flows.champion import DECISION, adapter_digest, compared_champion, promoted_adapter
from flows.files import json_bytes, read_json, write_json
from flows.hub import hub_endpoint, hub_token
from flows.settings import LifecycleConfig
from moa.hub.card import Metric
from moa.hub.promote import promote
from moa.hub.publication import Publication

SCORES = (("ip", "Identity preservation", "identity_preservation"), ("pc", "Prompt consistency", "prompt_consistency"))


def is_settled(config: LifecycleConfig, adapter: str) -> bool:
    """Whether this run promoted this adapter, a digest, in this repository before, published as it may be now: a later
    run must not be undone by running this again."""
    gate, promotion = config.run / "gate.json", config.run / "promotion.json"
    if not (gate.is_file() and promotion.is_file()):
        return False
    decided, moved = read_json(gate), read_json(promotion)
    here = (moved["repo_id"], moved["endpoint"]) == (config.publish.repo_id, config.publish.endpoint)
    return here and decided["decision"] == "promoted" and decided["candidate"]["adapter_digest"] == adapter


def overtaken(config: LifecycleConfig, main: str) -> list[str]:
    """Why the comparison with the champion is out of date, if it is: another model was promoted since. `main` is the
    commit that `main` is at."""
    current, champion = promoted_adapter(config, main), compared_champion(config)
    if current is None or adapter_digest(current) in (champion.adapter_digest, champion.candidate):
        return []
    return [
        f"main of {config.publish.repo_id} now holds another model ({current.parent.name[:8]}), promoted after this "
        "candidate was compared with its champion: start a run of another name, which is compared with that."
    ]


def promote_candidate(config: LifecycleConfig, summary: dict[str, Any], decided: dict[str, Any], main: str) -> None:
    """Makes `main` hold the candidate with its scores on the model card and the decision, which the next gate goes on
    from, as gate.json; tags it, and writes promotion.json.

    Raises RepositoryConflictError (moa's) when `main` is no longer at the commit `main`, for which it was decided.
    """
    record = config.run / "publication.json"
    publication = Publication.read(record)
    tag = config.promote.tag.format(name=config.name, commit=publication.commit[:8])
    with hub_endpoint(config) as endpoint:
        card = model_card(config, _metrics(summary))
        place = {"token": hub_token(config), "endpoint": endpoint}
        records = {DECISION: json_bytes(decided)}
        promotion = promote(publication, tag=tag, card=card, records=records, expected_main=main, **place)
    write_json(
        config.run / "promotion.json",
        {**promotion.model_dump(mode="json"), "endpoint": config.publish.endpoint},
    )


def _metrics(summary: dict[str, Any]) -> list[Metric]:
    """The scores of the candidate for its card."""
    moa = next(method for method in summary["methods"] if method["kind"] == "moa")
    suite = f"{summary['suite']}, version {summary['version']}"
    return [
        Metric(name=name, kind=kind, suite=suite, value=moa[key]["mean"], low=moa[key]["low"], high=moa[key]["high"])
        for key, name, kind in SCORES
    ]
