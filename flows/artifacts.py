"""What the Prefect UI shows of an evaluation: scores, paired comparisons, a strip of pictures, what was not scored."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from prefect import task
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.evaluated import rows, unscored
from flows.files import read_json

TILE = 128  # pixels of a picture in the strip, at most
MOST_BYTES = 30_000  # an image's address is stored in Prefect's database and printed below the image
MOST_PROBLEMS = 100


@task(cache_policy=NO_CACHE)
def show_scores(evaluation: Path) -> None:
    """One row for each method; one row for each comparison of two methods, paired image by image."""
    summary = read_json(evaluation / "summary.json")
    scores = [_scores(method) for method in summary["methods"]]
    create_table_artifact(table=scores, key="evaluation-scores", description=f"`{evaluation}`")
    labels = {method["method"]: method["label"] for method in summary["methods"]}
    differences = [
        {
            "difference": f"{labels[line['after']]} minus {labels[line['before']]}",
            "n": line["n"],
            "ip": interval(line["ip"]),
            "pc": interval(line["pc"]),
        }
        for line in summary["comparisons"]
    ]
    create_table_artifact(table=differences, key="evaluation-comparisons", description="Mean, 95 % interval")


@task(cache_policy=NO_CACHE)
def show_strip(evaluation: Path) -> None:
    """One subject, prompt and seed by every method, side by side."""
    methods = read_json(evaluation / "summary.json")["methods"]
    found = list(rows(evaluation))
    own = next((row for row in found if row["method"] == "moa" and row["outcome"] == "scored"), None)
    if own is None:
        return
    key = ("subject", "prompt_id", "seed")
    same = {row["method"]: row for row in found if all(row[name] == own[name] for name in key)}
    shown = [method for method in methods if same[method["method"]]["outcome"] not in ("missing", "unreadable")]
    picture = strip([evaluation / same[method["method"]]["image"] for method in shown])
    if picture:
        labels = " | ".join(method["label"] for method in shown)
        create_image_artifact(image_url=picture, key="evaluation-image", description=f"{labels}: {own['prompt']}")


@task(cache_policy=NO_CACHE)
def show_unscored(evaluation: Path) -> None:
    """What could not be scored, by name; no artifact where everything was."""
    if problems := unscored(evaluation):
        description = f"{len(problems)} could not be scored, the rest was. `{evaluation}`"
        create_table_artifact(table=problems[:MOST_PROBLEMS], key="evaluation-unscored", description=description)


def interval(statistic: dict[str, Any] | None, sign: str = "+") -> str:
    """`+0.012 (-0.003 .. +0.027)`, with `sign` "" without plus signs; a dash for nothing measured."""
    if not statistic or statistic["mean"] is None:
        return "-"
    mean, low, high = statistic["mean"], statistic["low"], statistic["high"]
    return f"{mean:{sign}.3f}" + (f" ({low:{sign}.3f} .. {high:{sign}.3f})" if low is not None else "")


def strip(paths: list[Path]) -> str | None:
    """The pictures in a row as a data URI; None when it would be too large, or one cannot be read."""
    tiles = []
    for path in paths:
        try:
            tile = Image.open(path).convert("RGB")
        except (OSError, UnidentifiedImageError):
            return None
        tile.thumbnail((TILE, TILE))
        if 2 * max(tile.size) <= TILE:  # pictures of the miniature world are magnified, with hard edges
            tile = tile.resize((2 * tile.width, 2 * tile.height), Image.Resampling.NEAREST)
        tiles.append(tile)
    row = Image.new("RGB", (sum(tile.width + 2 for tile in tiles), max(tile.height for tile in tiles)), "white")
    left = 0
    for tile in tiles:
        row.paste(tile, (left, 0))
        left += tile.width + 2
    data = io.BytesIO()
    row.save(data, format="JPEG", quality=85)
    if len(data.getvalue()) > MOST_BYTES:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _scores(method: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: few columns, for the UI shows about six beside each other."""
    columns = {"ip": "IP", "pc": "PC", "context_change_outside": "scene change"}
    figures = {heading: interval(method.get(name), sign="") for name, heading in columns.items()}
    faces = method["detection_rate"]
    found = f"{100 * faces['mean']:.1f} %" if faces and faces["mean"] is not None else "-"
    return {"method": method["label"], "n": method["n"]} | figures | {"faces": found}
