"""A small run folder as datasets/FORMAT.md describes it: every file a report reads, in seconds.

The scores are made up by a fixed rule, the summary (`tests.reports.fake_summary`) is computed from them, so that pages
can be checked against both; the pictures are `tests.reports.fake_drawing`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from tests.reports import fake_drawing
from tests.reports.fake_drawing import draw_pair, router_sprite, unit
from tests.reports.fake_summary import DIGEST, summary

Draw = Callable[[str, str, str, str, int], Image.Image]  # (method, subject, word, prompt id, seed) -> image


@dataclass(frozen=True)
class FakeMethod:
    """A method of the evaluation, and the mean IP, PC and change outside the person of its made-up scores."""

    method: str
    label: str
    kind: str
    compared_with: str | None = "prior"
    role: str | None = None
    levels: tuple[float, float, float] = (0.4, 0.2, 0.05)


METHODS = (
    FakeMethod("prior", "Prior only", "prior", None, levels=(0.06, 0.27, 0.0)),
    FakeMethod("moa", "MoA", "moa", levels=(0.62, 0.26, 0.02)),
    FakeMethod("champion", "Champion", "champion", levels=(0.55, 0.26, 0.03)),
    FakeMethod("no-moa", "Without MoA layers", "ablation", role="no_moa", levels=(0.66, 0.17, 0.14)),
    FakeMethod("no-spacetime", "Without spacetime", "ablation", role="no_spacetime", levels=(0.4, 0.25, 0.02)),
    FakeMethod("ink-prior", "Ink: prior only", "prior", None, levels=(0.05, 0.25, 0.0)),
    FakeMethod("ink", "Ink: MoA", "ablation", "ink-prior", levels=(0.5, 0.24, 0.03)),
)
PROMPTS = [
    ("beach", "context", "a {word} on a beach"),
    ("snow", "context", "a {word} in the snow"),
    ("hat", "accessory", "a {word} wearing a hat"),
    ("sketch", "style", "a pencil sketch of a {word}"),
]
PAIR_PROMPTS = [("sofa", "a {first} and a {second} on a sofa"), ("city", "a {first} and a {second} in a city at night")]
SUBJECTS = [("m-000001", "man"), ("m-000002", "man"), ("m-000003", "man"), ("w-000004", "woman")]
LAYERS = ["down 0", "down 1", "mid", "up 0", "up 1"]
STEPS = [950, 750, 550, 350, 150, 50]
TILE = 16


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True), encoding="utf-8")


def make_run(
    root: Path,
    name: str = "week-01",
    *,
    suites: Sequence[str] = ("miniature",),
    subjects: Sequence[tuple[str, str]] = SUBJECTS,
    prompts: Sequence[tuple[str, str, str]] = PROMPTS,
    seeds: Sequence[int] = (11, 12),
    methods: Sequence[FakeMethod] = METHODS,
    draw: Draw = fake_drawing.draw,
) -> Path:
    """A complete run `root/runs/<name>` trained on `root/data/small`; returns its folder."""
    run = root / "runs" / name
    make_shards(root / "data" / "small")
    card = {"title": "MoA, small world", "base_model": "small base", "licences": "miniature"}
    train = {"shards": str(root / "data" / "small")}
    write_json(run / "lifecycle.json", {"name": name, "train": train, "publish": card})
    write_json(run / "config.json", {"shards": "data/small", "seed": 7, "steps": 120, "moa": {"router": "linear"}})
    lines = [json.dumps(metric(step)) + "\n" for step in range(5, 125, 5)]
    (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    (run / "train.log").write_text("step 5\n", encoding="utf-8")
    adapter = {"format": "moa-adapter/1", "files": {}, "inputs": {"shards": DIGEST, "base": DIGEST, "init": None}}
    write_json(run / "export" / "manifest.json", adapter | {"step": 120, "commit": "c0ffee" * 6, "digest": DIGEST})
    write_json(
        run / "publication.json",
        {"repo_id": "team/moa", "endpoint": "http://127.0.0.1:9", "branch": "main", "commit": "ab" * 20}
        | {"files": {"adapter/moa.safetensors": {"sha256": DIGEST, "bytes": 187_000_000}}},
    )
    write_json(run / "promotion.json", {"repo_id": "team/moa", "commit": "ab" * 20, "tag": f"{name}-ababab"})
    write_json(run / "gate.json", gate())
    for suite in suites:
        make_evaluation(run / "evaluation" / suite, subjects, prompts, seeds, methods, draw)
    return run


def gate(*reasons: str) -> dict[str, Any]:
    """The decision on a candidate: rejected for the reasons, or promoted."""
    return {
        "decision": "rejected" if reasons else "promoted",
        "reasons": list(reasons),
        "rule": "The low end of the 95 % interval of MoA - Champion has to lie above -0.02 in IP.",
        "against": {"method": "champion", "label": "Champion", "kind": "champion"},
        "n": 32,
        "ip": {"mean": 0.0712, "low": 0.031, "high": 0.112},
        "pc": {"mean": -0.0021, "low": -0.008, "high": 0.004},
        "candidate": {"repo_id": "team/moa", "branch": "run", "commit": "ab" * 20, "adapter_digest": DIGEST},
        "suite": "miniature, version 1",
    }


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
    methods: Sequence[FakeMethod],
    draw: Draw,
) -> None:
    """References, images, scores, pairs, router maps and summary of the suite `folder.name`."""
    suite = {
        "name": folder.name,
        "version": 1,
        "title": f"{folder.name.capitalize()} world",
        "prompts": [{"id": i, "category": c, "text": t} for i, c, t in prompts],
        "seeds": list(seeds),
        "images": {"size": 64, "steps": 20, "guidance": 5.0, "precision": "fp32"},
        "people": [{"id": i, "word": w, "source": i, "digest": DIGEST, "problem": None} for i, w in subjects],
    }
    write_json(folder / "suite.json", suite)
    (folder / "references").mkdir(parents=True, exist_ok=True)
    for subject, word in subjects:
        draw("moa", subject, word, "reference", 0).convert("RGBA").save(folder / "references" / f"{subject}.png")
    scores = make_scores(folder, subjects, prompts, seeds, methods, draw)
    pairs = make_pairs(folder, subjects, seeds[0], methods)
    make_router(folder, scores)
    write_json(folder / "summary.json", summary(scores, pairs, methods, folder.name))
    write_json(folder / "manifest.json", {"format": "moa-evaluation/5"})


def make_scores(
    folder: Path,
    subjects: Sequence[tuple[str, str]],
    prompts: Sequence[tuple[str, str, str]],
    seeds: Sequence[int],
    methods: Sequence[FakeMethod],
    draw: Draw,
) -> pd.DataFrame:
    """The images of one subject and their rows, saved as scores.parquet and scores.csv."""
    rows = []
    for method in methods:
        for subject, word in subjects:
            for prompt, category, text in prompts:
                for seed in seeds:
                    owner = word if method.kind == "prior" else subject
                    image = Path("images") / method.method / owner / prompt / f"{seed}.png"
                    save(draw(method.method, subject, word, prompt, seed), folder / image)
                    key = {"method": method.method, "subject": subject, "word": word, "prompt_id": prompt}
                    said = {"category": category, "prompt": text.replace("{word}", word), "seed": seed}
                    rows.append(key | said | {"image": image.as_posix()} | score(method, subject, prompt, seed))
    scores = pd.DataFrame(rows)
    scores.to_parquet(folder / "scores.parquet")
    scores.to_csv(folder / "scores.csv", index=False)
    return scores


def make_pairs(
    folder: Path, subjects: Sequence[tuple[str, str]], seed: int, methods: Sequence[FakeMethod]
) -> pd.DataFrame:
    """Neighbours among the subjects together, saved as pairs.parquet and pairs.csv."""
    rows = []
    for method in methods:
        for (first, one), (second, other) in zip(subjects, subjects[1:], strict=False):
            for prompt, text in PAIR_PROMPTS:
                owner = f"{one}+{other}" if method.kind == "prior" else f"{first}+{second}"
                image = Path("images") / method.method / owner / prompt / f"{seed}.png"
                save(draw_pair(method.method, first, second, (one, other), prompt, seed), folder / image)
                who = {"first": first, "second": second, "first_word": one, "second_word": other}
                said = text.replace("{first}", one).replace("{second}", other)
                key = {"method": method.method, "prompt_id": prompt, "prompt": said, "seed": seed}
                rows.append(key | who | {"image": image.as_posix()} | pair_score(method, first, second, prompt))
    pairs = pd.DataFrame(rows)
    pairs.to_parquet(folder / "pairs.parquet")
    pairs.to_csv(folder / "pairs.csv", index=False)
    return pairs


def make_router(folder: Path, scores: pd.DataFrame) -> None:
    """Router maps of the first two images of MoA."""
    examples = []
    for number, row in enumerate(scores[scores["method"] == "moa"].head(2).itertuples()):
        sprite = Path("router") / f"{number}.png"
        save(router_sprite(len(LAYERS), len(STEPS), TILE, number), folder / sprite)
        key = {"subject": row.subject, "prompt_id": row.prompt_id, "seed": int(row.seed)}
        examples.append(key | {"image": row.image, "sprite": sprite.as_posix()})
    shares = {
        "background": [[0.88 + 0.1 * unit("b", layer, step) for step in STEPS] for layer in LAYERS],
        "foreground": [
            [0.8 - 0.4 * (i + 1) / len(STEPS) * unit("f", layer) for i in range(len(STEPS))] for layer in LAYERS
        ],
    }
    layers = [{"name": name, "size": 16} for name in LAYERS]
    write_json(
        folder / "router.json",
        {"layers": layers, "steps": STEPS, "n": 12, "tile": TILE, "examples": examples} | shares,
    )


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def score(method: FakeMethod, subject: str, prompt: str, seed: int) -> dict[str, Any]:
    """The measurements of one image; a face is not found in one of eight."""
    ip, pc, change = method.levels
    key = (method.method, subject, prompt, seed)
    luck, found, prior = unit("ip", *key), unit("face", *key) > 0.12, method.kind == "prior"
    return {
        "outcome": "scored" if found else "no_face",
        "ip": min(1.0, max(0.0, ip + 0.3 * (luck - 0.5))) if found else 0.0,
        "pc": pc + 0.04 * (unit("pc", *key) - 0.5),
        "pc_rank": 1 if unit("rank", *key) < 2.6 * pc + 0.2 else 2,
        "item_shown": float(unit("item", *key) < 3 * pc) if prompt == "hat" else None,
        "scene_shown": None if prompt == "hat" else float(unit("scene", *key) < 3.5 * pc),
        "face_x0": 23.0 if found else None,
        "face_size": 0.1 + 0.3 * luck if found else None,
        "context_change_inside": None if prior else 0.2,
        "context_change_outside": None if prior else change * (0.5 + luck),
        "swap_change_inside": None if prior else 0.18,
        "swap_change_outside": None if prior else change * 0.7 * (0.5 + luck),
        "seed_change_inside": 0.19 if prior else None,
        "seed_change_outside": 0.11 * (0.5 + luck) if prior else None,
        "diversity_layout": 0.12 + 0.02 * luck,
        "diversity_content": 0.2 + 0.05 * luck,
        "generation_seconds": 0.5,
    }


def pair_score(method: FakeMethod, first: str, second: str, prompt: str) -> dict[str, Any]:
    """The measurements of one image of two people."""
    key = (method.method, first, second, prompt)
    both = unit("both", *key) > 0.15
    ip = [min(1.0, method.levels[0] * (0.8 + 0.3 * unit(side, *key))) if both else 0.0 for side in ("a", "b")]
    return {
        "outcome": "scored" if both else "too_few_faces",
        "faces": 2 if both else 1,
        "ip_first": ip[0],
        "ip_second": ip[1],
        "ip": min(ip),
        "leakage": 0.3 if method.role == "no_moa" else 0.08,
        "assigned": float(both and method.role != "no_moa"),
        "reference_similarity": 0.1,
        "pc": method.levels[1],
    }
