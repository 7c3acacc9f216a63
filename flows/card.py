"""What the model card of a run says: its adapter's own record, never what was typed last."""

from __future__ import annotations

from collections.abc import Sequence

from flows.settings import LifecycleConfig
from flows.trained import Trained, require_trained
from moa.data import describe, read_manifest
from moa.hub.card import CardInput, Metric
from moa.hub.licences import LICENCES


def model_card(config: LifecycleConfig, metrics: Sequence[Metric] = ()) -> CardInput:
    """The card, with the scores of an evaluation where there are any.

    Raises what `require_trained` raises, so the command is the one that made the model.
    """
    trained = require_trained(config)
    dataset = trained.dataset or describe(read_manifest(config.train.shards))  # earlier versions recorded none
    return CardInput(
        title=config.publish.title,
        base_model=config.publish.base_model,
        base_model_id=config.publish.base_model_id,
        dataset=f"{dataset['name']}, version {dataset['version']}",
        started_from=_started_from(trained),
        dataset_digest=trained.inputs["shards"],
        command=config.command,
        code_commit=trained.commit,
        seed=trained.settings["seed"],
        steps=trained.step,
        image_size=dataset["resolution"],
        licences=LICENCES[config.publish.licences],
        metrics=tuple(metrics),
    )


def _started_from(trained: Trained) -> str | None:
    """In words; of adapters of earlier versions the digest alone is known."""
    if trained.inputs["init"] is None:
        return None
    before = trained.before or {"step": None, "datasets": []}
    steps = f" of {before['step']} steps" if before["step"] else ""
    data = f" trained on {', '.join(before['datasets'])}" if before["datasets"] else ""
    return f"an adapter{steps}{data}, `{trained.inputs['init']}`"
