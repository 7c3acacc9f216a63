"""The card of one model of the zoo: what made it and how good it is. `card.json` beside the weights; also the marker
that it is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from moa.models import code_commit

COMMIT = code_commit()  # asked when the program starts: a training takes hours, and meanwhile others commit


def write_card(
    folder: Path,
    *,
    recipe: str,
    seed: int,
    steps: dict[str, int],
    seconds: float,
    data: dict[str, str],
    quality: dict[str, float],
    earlier: dict[str, Any] | None = None,
) -> None:
    """Write `card.json`: recipe, commit, seed, optimizer steps, seconds they took, digests of the data, measured
    quality figures.

    `earlier` is the card of the model that was trained further, None where training began with random weights.
    """
    card: dict[str, Any] = {
        "recipe": recipe,
        "commit": COMMIT,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "continued_from": earlier and {key: earlier.get(key) for key in ("commit", "steps", "continued_from")},
        "data": data,
        "quality": {name: round(value, 4) for name, value in quality.items()},
        "licence": "CC0-1.0",
    }
    temporary = folder / "card.json.tmp"
    temporary.write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / "card.json")


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card, or None where the model is not finished."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
