"""Scoring against FastComposer's own evaluator: the same numbers on the same images and weights, and the time it takes.

    git clone https://github.com/mit-han-lab/fastcomposer    # evaluation code and the 15 photographs
    git clone https://github.com/openai/CLIP                 # what that code imports as `clip`
    python benchmarks/evaluation.py --fastcomposer fastcomposer --clip CLIP [--faces PATH] [--device cuda:0] [--quick]

prints the figures and writes benchmarks/evaluation.json, with `--faces` evaluation-faces.json, on a GPU the same with
-cuda; without the checkouts it says so and measures nothing.

FastComposer's side is its `evaluation.single_object.single_object_evaluation.main`, run as it stands: what it builds,
calls and how often is its own. Ours is `Measurer` and `Scorer`, as `flows.evaluate` runs them. Both get the same pixels
and the same weights: MTCNN's real ones, an InceptionResnetV1 with random ones or, with `--faces`, those of a file, a
random CLIP of ViT-L/14's size with CLIP's real vocabulary. The random identity network's batch norms take their
statistics from the 15 faces; without that its outputs are nearly the same for everybody, and agreeing on them would say
little. Each "generated" image is somebody else's photograph at 512 px, so similarities of either sign occur.

Times: the two sides take turns in blocks of images; medians over the blocks, ratios within a block. On a CPU they are
process CPU seconds on one thread, in blocks of 8. On a GPU they are wall seconds with the device synchronised around
every part, in blocks of 60 after one that warms both sides up; FastComposer's CLIP runs there in fp16, as its script
has it, so PC agrees to fp16's precision only. "whole" is everything from the files to the scores. What ours does once
for a suite (references, prompts) is counted apart and added for 2,400 images.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessor, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._fastcomposer import Clock, FastComposer, Key  # noqa: E402
from benchmarks._random_evaluators import random_clip, random_embedder  # noqa: E402
from benchmarks._stopwatch import settle  # noqa: E402
from moa.data import file_digest  # noqa: E402
from moa.evaluation.clip import ClipScorer  # noqa: E402
from moa.evaluation.clip_towers import TransformersTowers  # noqa: E402
from moa.evaluation.faces import FacenetFaces  # noqa: E402
from moa.evaluation.generate import Method, image_path  # noqa: E402
from moa.evaluation.measure import Measurer, MeasuringModels  # noqa: E402
from moa.evaluation.processor import processor_name  # noqa: E402
from moa.evaluation.score import Scorer, embed_texts  # noqa: E402
from moa.evaluation.subjects import SuiteSubject, resolve_subjects  # noqa: E402
from moa.evaluation.suite import Suite, load_suite  # noqa: E402

CLONE = """    git clone https://github.com/mit-han-lab/fastcomposer
    git clone https://github.com/openai/CLIP
    python benchmarks/evaluation.py --fastcomposer fastcomposer --clip CLIP"""
RESULT = Path(__file__).with_suffix(".json")
SUITE = ROOT / "datasets" / "suites" / "celeba-15.yaml"
METHOD = Method("images", "Photographs of others", "moa", "sha256:none")
SUITE_IMAGES, SUITE_REFERENCES, SUITE_TEXTS = 2400, 15, 80
PARTS = ("identity", "clip", "whole")


@dataclass(frozen=True)
class Plan:
    """What is measured on a kind of device: `prompts` are places in the protocol's list of 40, each with an image of
    every person; `warm` blocks are scored and not timed."""

    prompts: tuple[int, ...]
    block: int
    warm: int


PLANS = {
    "cpu": Plan(prompts=(0, 10), block=8, warm=0),  # a red hat, a painting by Banksy
    "cuda": Plan(prompts=tuple(range(16)), block=60, warm=1),
}


def write_images(folder: Path, suite: Suite, people: Sequence[SuiteSubject], blocks: Sequence[Sequence[Key]]) -> None:
    """The images in both layouts, pixel for pixel the same: FastComposer's JPEGs by block, our PNGs."""
    size, names = (suite.images.size,) * 2, [person.id for person in people]
    for number, block in enumerate(blocks):
        theirs = folder / f"theirs-{number}"
        theirs.mkdir(parents=True)
        for case, (subject, place) in enumerate(block):
            other = people[(names.index(subject) + 1 + 3 * place) % len(people)].photo
            grey = 128 + 6 * (place - 1)  # no two images are the same, or ours would measure one
            shaped = ImageOps.pad(other, size, color=(grey,) * 3) if place else ImageOps.fit(other, size)
            jpeg = theirs / f"subject_{case:04d}_prompt_0000_instance_0000.jpg"
            shaped.save(jpeg)
            png = folder / our_path(suite, subject, place)
            png.parent.mkdir(parents=True, exist_ok=True)
            Image.open(jpeg).save(png)


def our_path(suite: Suite, subject: str, place: int) -> str:
    return image_path(METHOD, subject, "", suite.prompts[place].id, suite.seeds[0])


def compare(
    theirs: FastComposer, scorer: Scorer, embed: Callable[[], Any], blocks: Sequence[Sequence[Key]], warm: int
) -> dict[str, Any]:
    """Scores all blocks with both, taking turns; the differences of the scores and the times of all blocks but the
    first `warm`. `embed` gives all prompts to our CLIP, as an evaluation does once."""
    clock, measurer, suite = Clock(theirs.device), scorer.measurer, scorer.suite
    models, folder = measurer.models, measurer.folder
    faces, clip = models.faces, models.clip
    for part, owner, name in (
        ("identity", faces, "detect"),
        ("identity", faces, "embed"),
        ("clip", clip, "encode_images"),
    ):
        setattr(owner, name, clock.timed(part, getattr(owner, name)))
    references = clock.timed("references", lambda: scorer.references)()
    texts = clock.timed("texts", embed)()
    seconds: dict[str, list[dict[str, float]]] = {"FastComposer": [], "MoA": []}
    scores: dict[str, list[float]] = {"ip": [], "pc": []}

    def run_theirs(number: int) -> None:
        ip, pc, spent = theirs.score(folder / f"theirs-{number}", blocks[number])
        scores["ip"] += ip
        scores["pc"] += pc
        seconds["FastComposer"].append(spent)

    def run_ours(number: int) -> None:
        clock.seconds.update(dict.fromkeys(PARTS, 0.0))
        paths = [our_path(suite, *key) for key in blocks[number]]
        clock.timed("whole", measurer)(paths)
        seconds["MoA"].append({part: clock.seconds[part] for part in PARTS})

    for number in range(len(blocks)):
        for run in (run_theirs, run_ours) if number % 2 else (run_ours, run_theirs):
            run(number)
    rows = clock.timed("rows", scorer.score)([METHOD])
    keys = [key for block in blocks for key in block]
    once = {
        "reference": clock.seconds["references"] / len(references),
        "prompt": clock.seconds["texts"] / len(texts),
        "rows": clock.seconds["rows"] / len(keys),
    }
    timed = {who: found[warm:] for who, found in seconds.items()}
    return {
        "agreement": {
            "photographs": len(references),
            "photographs_with_a_face": sum(reference is not None for reference in references.values()),
            **{name: _agreement(values, rows, suite, keys, name) for name, values in scores.items()},
        },
        **_times(timed, [len(block) for block in blocks[warm:]], once),
    }


def _agreement(theirs: list[float], rows: pd.DataFrame, suite: Suite, keys: Sequence[Key], name: str) -> dict[str, Any]:
    ours = rows.set_index(["subject", "prompt_id"])[name]
    values = np.array([ours[subject, suite.prompts[place].id] for subject, place in keys])
    return {
        "images": len(keys),
        "largest_difference": float(f"{np.abs(values - theirs).max():.2g}"),
        "zeros": int((np.array(theirs) == 0).sum()),
        **{key: round(float(f(theirs)), 5) for key, f in (("mean", np.mean), ("std", np.std), ("max", np.max))},
    }


def _times(seconds: dict[str, list[dict[str, float]]], sizes: Sequence[int], once: dict[str, float]) -> dict[str, Any]:
    """Per image: medians over the blocks, and the ratios within blocks; `rows` belongs to our whole."""
    suite_share = (SUITE_REFERENCES * once["reference"] + SUITE_TEXTS * once["prompt"]) / SUITE_IMAGES
    table: dict[str, dict[str, list[float]]] = {
        who: {part: [block[part] / size for block, size in zip(blocks, sizes, strict=True)] for part in PARTS}
        for who, blocks in seconds.items()
    }
    table["MoA"]["whole"] = [value + once["rows"] for value in table["MoA"]["whole"]]
    for who, extra in (("FastComposer", 0.0), ("MoA", suite_share)):
        table[who]["whole of 2,400"] = [value + extra for value in table[who]["whole"]]
    ratios = {
        part: [base / own for base, own in zip(table["FastComposer"][part], table["MoA"][part], strict=True)]
        for part in table["MoA"]
    }
    return {
        "seconds_per_image": {
            who: {part: round(statistics.median(values), 3) for part, values in parts.items()}
            for who, parts in table.items()
        },
        "times_faster": {
            part: {"median": round(statistics.median(v), 2), "low": round(min(v), 2), "high": round(max(v), 2)}
            for part, v in ratios.items()
        },
        "seconds_once": {name: round(value, 4) for name, value in once.items()},
    }


def antialiasing(scorer: Scorer, off: ClipScorer, paths: Sequence[str]) -> dict[str, Any]:
    """What the resize's antialiasing changes for scored images of one prompt: CLIP's input, of 255, and PC."""
    on = scorer.measurer.models.clip
    images = [Image.open(scorer.measurer.folder / path).convert("RGB") for path in paths]
    scale = 255 * torch.tensor(on.towers.std)[:, None, None]
    inputs = (on.pixels(images) - off.pixels(images)).abs().cpu() * scale
    means = [float(each.mean()) for each in inputs]
    text = on.encode_texts([scorer.suite.prompts[0].for_word("person")])[0]
    with_it = np.stack([known.clip for known in scorer.measurer(paths).values()]) @ text
    change = np.abs(off.encode_images(images) @ text - with_it)
    return {
        "images": len(images),
        "input_of_255": {"mean": round(statistics.mean(means), 2), "max": round(max(means), 2)},
        "pc": {"mean": float(f"{change.mean():.2g}"), "max": float(f"{change.max():.2g}")},
        "pc_std_over_images": float(f"{with_it.std():.2g}"),
    }


def measure(fastcomposer: Path, openai_clip: Path, faces: Path | None, device: str, quick: bool) -> dict[str, Any]:
    """The figures. `faces`: weights of InceptionResnetV1; None: random ones."""
    protocol, plan = load_suite(SUITE), PLANS[torch.device(device).type]
    chosen = tuple(protocol.prompts[place] for place in plan.prompts)
    suite = protocol.model_copy(update={"prompts": chosen, "seeds": (0,)})
    photographs = fastcomposer / "data" / "celeba_test_single"
    people = resolve_subjects(suite, images=photographs)
    sys.path[:0] = [str(fastcomposer), str(openai_clip)]  # first: this file is called evaluation, too
    bpe = importlib.import_module("clip.clip")._tokenizer
    tokenizer = CLIPTokenizer(vocab=bpe.encoder, merges=list(bpe.bpe_ranks), model_max_length=77)
    embedder = FacenetFaces.from_weights(faces, sha256=None).embedder if faces else random_embedder(people)
    weights = random_clip(tokenizer)
    theirs = FastComposer(photographs, embedder, weights, plan.prompts, torch.device(device))
    towers = TransformersTowers(weights, tokenizer, CLIPImageProcessor())
    on, off = (ClipScorer(towers, antialias=choice, device=device) for choice in (True, False))
    keys = [(person.id, place) for place in range(len(plan.prompts)) for person in people]
    blocks = [keys[start : start + plan.block] for start in range(0, len(keys), plan.block)]
    blocks = blocks[: 1 + plan.warm if quick else None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, suite, people, blocks)
        models = MeasuringModels(FacenetFaces(embedder, device=device), on, device=device)
        scorer = Scorer(suite, people, Measurer(folder, models), embed_texts(suite, people, on))
        result = compare(theirs, scorer, lambda: embed_texts(suite, people, on), blocks, plan.warm)
        first = [our_path(suite, *key) for block in blocks for key in block if key[1] == 0]
        result["antialias"] = antialiasing(scorer, off, first)
    same = [
        " ".join(prompt.split()) == ours.for_word(person.word)
        for person in people
        for prompt, ours in zip(theirs.prompts[person.id], protocol.prompts, strict=True)
    ]
    result["agreement"] |= {"prompts": len(same), "prompts_equal": sum(same)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastcomposer", type=Path, metavar="PATH", help="checkout of mit-han-lab/fastcomposer")
    parser.add_argument("--clip", type=Path, metavar="PATH", help="checkout of openai/CLIP")
    parser.add_argument("--faces", type=Path, metavar="PATH", help="weights of InceptionResnetV1, for both sides")
    parser.add_argument("--device", default="cpu", help="cpu (default), or a GPU such as cuda:0, for both sides")
    parser.add_argument("--quick", action="store_true", help="one block of images; prints, writes nothing")
    options = parser.parse_args()
    if not (options.fastcomposer and options.clip):
        print(f"skipped: needs both checkouts, which are not part of this project:\n\n{CLONE}")
        return
    for path, file in ((options.fastcomposer, "evaluation/clip_eval.py"), (options.clip, "clip/simple_tokenizer.py")):
        if not (path / file).is_file():
            parser.error(f"{path} has no {file}; what it should be:\n\n{CLONE}")
    settle(torch.device(options.device))
    gpu = options.device != "cpu"
    faces = options.faces and options.faces.resolve()
    chosen = " --faces PATH" * bool(faces) + " --device cuda:0" * gpu
    result = {
        "command": "python benchmarks/evaluation.py --fastcomposer PATH --clip PATH" + chosen,
        "identity_weights": file_digest(faces) if faces else "random",
        "figures": "measured",
        "machine": f"{processor_name()}, 1 thread" + (f", {torch.cuda.get_device_name(options.device)}" if gpu else ""),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        **measure(options.fastcomposer.resolve(), options.clip.resolve(), faces, options.device, options.quick),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if not options.quick:
        stem = "evaluation" + "-faces" * bool(faces) + "-cuda" * gpu
        RESULT.with_stem(stem).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
