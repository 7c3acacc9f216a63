"""What the router does: prior shares over layers and denoising steps for a few images, and their maps as pictures.

Each image is made once more with a recorder, from the same noise. Its maps become one sprite, `router/<subject>/
<prompt>/<seed>.png`: a grey tile for each layer (rows) and step (columns), white where the prior alone decides. The
person is where the face model finds it in the image. A sprite carries its figures in a `moa` text chunk, so that
`router.json` is recomputed from the sprites, and a second run makes only those that are missing or out of date.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torch.nn import functional as F

from moa.evaluation.files import canonical_json, json_digest, write_file, write_json
from moa.evaluation.generate import (
    CHUNK,
    Method,
    Progress,
    Shot,
    given_people,
    read_chunk,
    sampling,
    shot_digest,
    shots,
)
from moa.evaluation.measure import Measurement
from moa.evaluation.metrics import PersonBox, person_region
from moa.evaluation.score import Scorer
from moa.evaluation.suite import Suite
from moa.pipeline import MoAPipeline
from moa.recorder import Recorder

IMAGES = 4
TILE = 32  # pixels; SD 1.5's largest map has 64


def record_router(
    scorer: Scorer,
    method: Method,
    open_sampler: Callable[[Method, str], MoAPipeline],
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Writes the sprites and `router.json` below the scorer's folder and returns its content.

    Up to `IMAGES` generated images are shown, of different subjects and prompts as far as there are any. None, and no
    file, when the method has no router or no image shows both a person and some background.
    """
    folder, suite, chosen = scorer.measurer.folder, scorer.suite, _choose(scorer, method)
    pipeline: MoAPipeline | None = None
    records = []
    for done, (shot, region) in enumerate(chosen, start=1):
        sprite = _sprite_path(shot)
        inputs = json_digest([shot_digest(shot, suite, method), scorer.measurer.digest, TILE])
        if read_chunk(folder / sprite).get("inputs") != inputs:
            pipeline = pipeline or open_sampler(method, device)
            if not _record(folder / sprite, pipeline, suite, shot, region, inputs):
                chosen = []
                break
        records.append(read_chunk(folder / sprite))
        if progress:
            progress("router", done, len(chosen), sprite)
    if not chosen:
        (folder / "router.json").unlink(missing_ok=True)
        return None
    content = {
        "layers": records[0]["layers"],
        "steps": records[0]["steps"],
        **{
            side: np.mean([record[side] for record in records], axis=0).tolist()
            for side in ("background", "foreground")
        },
        "n": len(records),
        "tile": TILE,
        "examples": [_example(shot, record) for (shot, _), record in zip(chosen, records, strict=True)],
    }
    write_json(folder / "router.json", content)
    return content


def _choose(scorer: Scorer, method: Method) -> list[tuple[Shot, np.ndarray]]:
    """Images of one person with the region of that person, bool `[H, W]`.

    It walks down the diagonals of the table of subjects and prompts, so that neighbours differ in both, and moves on by
    a prompt where it would come back: each image is looked at once.
    """
    subjects, prompts = sum(subject.usable for subject in scorer.subjects), len(scorer.suite.prompts)
    table = [
        shot
        for shot in shots(scorer.suite, scorer.subjects, method)
        if len(shot.people) == 1 and shot.seed == scorer.suite.seeds[0]
    ]
    chosen: dict[str, tuple[Shot, np.ndarray]] = {}
    for number in range(len(table)):
        again = number // lcm(subjects, prompts)
        shot = table[number % subjects * prompts + (number + again) % prompts]
        region = _person(scorer.measured([shot.path])[shot.path], scorer.measurer.models.faces.person)
        if region is not None:
            chosen[shot.path] = shot, region
        if len(chosen) == IMAGES:
            break
    return list(chosen.values())


def _person(found: Measurement | str, reach: PersonBox) -> np.ndarray | None:
    """Where the person of an image stands; None without a face, without background, and for an unreadable image."""
    if isinstance(found, str) or not found.faces:
        return None
    region = person_region(found.faces[0].box, reach, found.width, found.height)
    return region if region.any() and not region.all() else None


def _record(path: Path, pipeline: MoAPipeline, suite: Suite, shot: Shot, region: np.ndarray, inputs: str) -> bool:
    """Makes the image once more and writes its sprite; False when the pipeline has no router."""
    recorder = Recorder(subject_columns=False, history=True)
    pipeline(prompt=[shot.text], subjects=[given_people(shot)], recorder=recorder, **sampling(suite, [shot]))
    steps = [step for step in recorder.steps if step.router]
    if not steps:
        return False
    layers = {layer.index: layer.name for layer in pipeline.unet.moa_layers() if layer.index in steps[0].router}
    maps = [[step.router[index][0].float() for step in steps] for index in layers]  # layers x steps of [h, w]
    shares = [[prior_shares(share, region) for share in row] for row in maps]
    record = {
        "inputs": inputs,
        "layers": [{"name": name, "size": _size(row[0])} for name, row in zip(layers.values(), maps, strict=True)],
        "steps": [step.timestep for step in steps],
        "foreground": [[inside for inside, _ in row] for row in shares],
        "background": [[outside for _, outside in row] for row in shares],
    }
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(CHUNK, canonical_json(record), zip=True)
    sprite = Image.fromarray(sprite_of(maps))
    write_file(path, lambda file: sprite.save(file, format="PNG", pnginfo=chunk))
    return True


def prior_shares(share: Tensor, region: np.ndarray) -> tuple[float, float]:
    """Mean prior share R_0 `[h, w]` (inside, outside) a region, bool `[H, W]`, which is averaged down to the
    layer's own resolution: a cell that is half person counts half on either side."""
    weight = F.interpolate(torch.from_numpy(region)[None, None].float(), size=share.shape, mode="area")[0, 0]
    inside, outside = ((share * w).sum() / w.sum() for w in (weight, 1 - weight))
    return float(inside), float(outside)


def sprite_of(maps: list[list[Tensor]]) -> np.ndarray:
    """Layers x steps of maps `[h, w]` in 0..1 as one grey image, uint8 `[layers * TILE, steps * TILE]`, 255 for 1."""
    tiles = [[F.interpolate(share[None, None], size=(TILE, TILE), mode="area")[0, 0] for share in row] for row in maps]
    picture = torch.cat([torch.cat(row, dim=1) for row in tiles])
    return (picture * 255).round().clamp(0, 255).byte().numpy()


def _size(share: Tensor) -> int | list[int]:
    """Side of a square map, else (height, width)."""
    height, width = share.shape
    return height if height == width else [height, width]


def _sprite_path(shot: Shot) -> str:
    return f"router/{shot.people[0].id}/{shot.prompt_id}/{shot.seed}.png"


def _example(shot: Shot, record: dict[str, Any]) -> dict[str, Any]:
    """An image with its mean prior shares over layers and steps."""
    shares = {side: float(np.mean(record[side])) for side in ("background", "foreground")}
    names = {"subject": shot.people[0].id, "prompt_id": shot.prompt_id, "seed": shot.seed}
    return names | {"image": shot.path, "sprite": _sprite_path(shot)} | shares
