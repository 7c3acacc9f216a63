"""A small run folder as datasets/FORMAT.md describes it: enough of every file for a report, drawn and counted in a
second.

The scores are made up by a fixed rule, the summary is computed from them, so that pages can be checked against both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw

Draw = Callable[[str, str, str, str, int], Image.Image]  # (method, subject, word, prompt id, seed) -> image

METHODS = [("prior", "Prior only", "prior"), ("moa", "MoA", "moa"), ("single", "Without MoA layers", "ablation")]
PROMPTS = [
    ("beach", "context", "a {word} on a beach"),
    ("snow", "context", "a {word} in the snow"),
    ("hat", "accessory", "a {word} wearing a hat"),
    ("sketch", "style", "a pencil sketch of a {word}"),
]
SUBJECTS = [("m-000001", "man"), ("m-000002", "man"), ("m-000003", "man"), ("w-000004", "woman")]
LEVELS = {"prior": (0.06, 0.27), "moa": (0.62, 0.25), "single": (0.66, 0.17)}  # mean IP and PC of the made-up scores
DIGEST = "sha256:" + "5f" * 32


def unit(*parts: object) -> float:
    """A number in 0..1 that depends on nothing but the parts."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def draw(method: str, subject: str, word: str, prompt: str, seed: int) -> Image.Image:
    """64 x 64: a sky by prompt and seed, a person by subject; the ablation loses the sky, the prior the person."""
    sky = (method, subject) if method == "single" else (prompt, seed)
    who = (word, prompt, seed) if method == "prior" else (subject,)
    image = Image.new("RGB", (64, 64), _colour("sky", *sky))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 44, 64, 64), fill=_colour("ground", *sky))
    pen.rectangle((22, 34, 42, 62), fill=_colour("coat", *who))
    pen.ellipse((23, 14, 41, 36), fill=_colour("skin", *who))
    return image


def _colour(*parts: object) -> tuple[int, int, int]:
    red, green, blue = (int(40 + 200 * unit(channel, *parts)) for channel in "rgb")
    return red, green, blue


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True), encoding="utf-8")


def make_run(
    root: Path,
    name: str = "week-01",
    *,
    subjects: Sequence[tuple[str, str]] = SUBJECTS,
    prompts: Sequence[tuple[str, str, str]] = PROMPTS,
    seeds: Sequence[int] = (11, 12),
    methods: Sequence[tuple[str, str, str]] = METHODS,
    draw: Draw = draw,
) -> Path:
    """A complete run `root/runs/<name>` trained on `root/data/small`; returns its folder."""
    run = root / "runs" / name
    make_shards(root / "data" / "small")
    write_json(run / "lifecycle.json", {"name": name, "train": {"shards": str(root / "data" / "small")}})
    write_json(run / "config.json", {"shards": "data/small", "seed": 7, "steps": 120, "moa": {"router": "linear"}})
    lines = [json.dumps(metric(step)) + "\n" for step in range(5, 125, 5)]
    (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    (run / "train.log").write_text("step 5\n", encoding="utf-8")
    adapter = {"format": "moa-adapter/1", "files": {}, "inputs": {"shards": DIGEST, "base": DIGEST, "init": None}}
    write_json(run / "export" / "manifest.json", adapter | {"step": 120, "commit": "c0ffee" * 6, "digest": DIGEST})
    write_json(
        run / "publication.json",
        {"repo_id": "team/moa", "endpoint": "http://127.0.0.1:9", "branch": "main", "commit": "ab" * 20},
    )
    make_evaluation(run / "evaluation" / "miniature", subjects, prompts, seeds, methods, draw)
    return run


def metric(step: int) -> dict[str, float]:
    loss = 0.9 / (1 + step / 30) + 0.03 * unit(step)
    return {
        "step": step,
        "loss": loss,
        "loss_masked": loss * 0.95,
        "loss_router": 0.25 / (1 + step / 20),
        "loss_object": -0.02 - 0.001 * step,
        "lr": 1e-4,
        "grad_norm": 1 + unit("g", step),
        "router_background": 0.9 - 0.4 / (1 + step / 25),
        "router_foreground": 0.5 - 0.2 * step / 120,
        "samples_per_second": 21 + unit("s", step),
        "seconds": step / 2,
    }


def make_shards(folder: Path) -> None:
    """The JSON files of a shard folder; a report never opens a tar."""
    counts = {"images": 103, "samples": 100, "rejected": 3, "subjects": 130, "splits": {"train": 90, "heldout": 10}}
    manifest = {"format": "moa-shards/1", "dataset": {"name": "small", "version": 1}, "counts": counts, "commit": None}
    write_json(folder / "manifest.json", manifest | {"inputs": DIGEST, "digest": DIGEST, "shards": [], "config": {}})
    rejected = [
        {"name": f"{i}.png", "reason": reason, "detail": "x"}
        for i, reason in enumerate(("no_face", "no_face", "unreadable"))
    ]
    (folder / "rejected.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rejected), encoding="utf-8")
    area = {"edges": [0.0, 0.1, 0.2, 0.3, 0.4], "counts": [0, 55, 60, 15]}
    quality = {
        "images": 103,
        "words": {"man": 70, "woman": 60},
        "histograms": {"subject_area": area},
        "duplicates": {"groups": 0, "examples": []},
    }
    write_json(folder / "quality.json", quality)


def make_evaluation(
    folder: Path,
    subjects: Sequence[tuple[str, str]],
    prompts: Sequence[tuple[str, str, str]],
    seeds: Sequence[int],
    methods: Sequence[tuple[str, str, str]],
    draw: Draw,
) -> None:
    """References, images, scores and summary of one suite."""
    suite = {
        "name": "miniature",
        "version": 1,
        "title": "Miniature world",
        "prompts": [{"id": i, "category": c, "text": t} for i, c, t in prompts],
        "seeds": list(seeds),
        "images": {"size": 64, "steps": 20, "guidance": 5.0},
    }
    write_json(folder / "suite.json", suite)
    (folder / "references").mkdir(parents=True, exist_ok=True)
    for subject, word in subjects:
        draw("moa", subject, word, "reference", 0).convert("RGBA").save(folder / "references" / f"{subject}.png")
    rows = []
    for method, _, _ in methods:
        for subject, word in subjects:
            for prompt, category, text in prompts:
                for seed in seeds:
                    image = Path("images") / method / subject / prompt / f"{seed}.png"
                    (folder / image).parent.mkdir(parents=True, exist_ok=True)
                    draw(method, subject, word, prompt, seed).save(folder / image)
                    key = {
                        "method": method,
                        "subject": subject,
                        "word": word,
                        "prompt_id": prompt,
                        "category": category,
                    }
                    rows.append(
                        key
                        | {"prompt": text.replace("{word}", word), "seed": seed, "image": image.as_posix()}
                        | score(method, subject, prompt, seed)
                    )
    scores = pd.DataFrame(rows)
    scores.to_parquet(folder / "scores.parquet")
    scores.to_csv(folder / "scores.csv", index=False)
    write_json(folder / "summary.json", summary(scores, methods))
    write_json(folder / "manifest.json", {"format": "moa-evaluation/1"})


def score(method: str, subject: str, prompt: str, seed: int) -> dict[str, Any]:
    ip, pc = LEVELS.get(method, (0.4, 0.2))
    luck, found = unit("ip", method, subject, prompt, seed), unit("face", method, subject, prompt, seed) > 0.12
    return {
        "outcome": "scored" if found else "no_face",
        "ip": min(1.0, max(0.0, ip + 0.3 * (luck - 0.5))) if found else 0.0,
        "pc": pc + 0.04 * (unit("pc", method, subject, prompt, seed) - 0.5),
        "face_x0": 23.0 if found else None,
        "face_size": 0.1 + 0.3 * luck if found else None,
        "context_change_inside": None if method == "prior" else 0.2,
        "context_change_outside": None if method == "prior" else (0.02 if method == "moa" else 0.14) * (0.5 + luck),
        "generation_seconds": 0.5,
    }


def statistic(values: pd.Series) -> dict[str, float | None]:
    values = values.dropna()
    if values.empty:
        return {"mean": None, "low": None, "high": None, "std": None}
    mean, spread = float(values.mean()), float(values.std(ddof=0))
    half = 1.96 * spread / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": spread}


def part(rows: pd.DataFrame) -> dict[str, Any]:
    return {"n": len(rows), "ip": statistic(rows["ip"]), "pc": statistic(rows["pc"])}


def summary(scores: pd.DataFrame, methods: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    described = []
    for method, label, kind in methods:
        rows = scores[scores["method"] == method]
        outside = None if kind == "prior" else statistic(rows["context_change_outside"])
        groups = {"by_category": "category", "by_subject": "subject", "by_prompt": "prompt_id"}
        found = statistic((rows["outcome"] == "scored").astype(float))
        described.append(
            {"method": method, "label": label, "kind": kind, "detection_rate": found, "context_change_outside": outside}
            | part(rows)
            | {name: {key: part(group) for key, group in rows.groupby(column)} for name, column in groups.items()}
        )
    return {
        "format": "moa-evaluation/1",
        "suite": "miniature",
        "version": 1,
        "methods": described,
        "published": [{"method": "MoA (paper)", "ip": 0.555, "pc": 0.202, "source": "arXiv 2404.11565, table 3"}],
        "provenance": {
            "repo_id": "team/moa",
            "commit": "ab" * 20,
            "adapter_digest": DIGEST,
            "evaluators": {"faces": {"kind": "miniature", "sha256": DIGEST}},
            "command": ["python", "-m", "moa.evaluation.run", "runs/a b"],
            "code_commit": "c0ffee" * 6,
        },
    }
