"""What the scores of an evaluation depend on besides its model. Two evaluations compare where all of it is the same.

`summary.json` holds its digest, so that whoever reads several evaluations (a report's history of runs) need not know
what it is made of; `moa.evaluation.compare` says which part differs. Format: datasets/FORMAT.md, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moa.evaluation.files import json_digest


def yardstick(
    suite: Mapping[str, Any],
    evaluators: Mapping[str, Any],
    preparer: Mapping[str, Any] | None,
    expert_interval: int | None,
) -> dict[str, Any]:
    """The parts under the names that people know them by. `suite` is the content of suite.json; prompts and seeds are
    its version's. `preparer` is `describe_preparer`'s, and no part where it is None. The precision of the sampling is
    none either."""
    sampling = {name: value for name, value in suite.get("images", {}).items() if name != "precision"}
    return {
        "suites": suite["name"],
        "versions": suite["version"],
        **({"preparers": preparer} if preparer else {}),  # before the people, who differ for it
        "people": suite["people"],
        **{f"{kind} models": evaluators.get(kind) for kind in ("faces", "clip", "attributes")},
        "sampling options": sampling | {"expert_interval": expert_interval},
    }


def yardstick_digest(
    suite: Mapping[str, Any],
    evaluators: Mapping[str, Any],
    preparer: Mapping[str, Any] | None,
    expert_interval: int | None,
) -> str:
    """`sha256:<hex>` of the yardstick, the same for two evaluations whose scores compare."""
    return json_digest(yardstick(suite, evaluators, preparer, expert_interval))
