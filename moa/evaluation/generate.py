"""Generates the images of a suite: `images/<method>/<subject>/<prompt>/<seed>.png`, skipping what is already there.

Every method and subject starts a (prompt, seed) from the same noise, so images differ by method and person alone:
that is what the context measurements compare. The prior does not know the subject; its images are made once for each
class word and stored under the word's name instead of the subject's.

An image carries a `moa` text chunk: prompt, noise seed, seconds and a digest of all it depends on (weights, prompt,
sampling, reference). A second run keeps an image whose digest still holds and makes the others again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image, PngImagePlugin

from moa.evaluation.files import canonical_json, json_digest, write_file
from moa.evaluation.subjects import SuiteSubject
from moa.evaluation.suite import Prompt, Suite
from moa.subjects import Subject

Progress = Callable[[int, int, str], None]
CHUNK = "moa"  # key of the PNG text chunk


@dataclass(frozen=True)
class Method:
    """One way of making images. `name` is its folder, `digest` that of all weights behind it.

    `adapter` is None for the pipeline's own; `lora` is a community LoRA merged into the prior, which makes it another
    base. `compared_with` is the name of the prior on the same base, None for priors. `role` says which part of the
    architecture an ablation lacks: the mixture ("no_moa": a single personal branch) or the time and layer input of its
    router ("no_spacetime").
    """

    name: str
    label: str
    kind: Literal["prior", "moa", "champion", "ablation"]
    digest: str
    adapter: Path | None = None
    lora: Path | None = None
    compared_with: str | None = None
    role: Literal["no_moa", "no_spacetime"] | None = None


@dataclass(frozen=True)
class Shot:
    """One image to make: `path` is relative to the evaluation folder; `subject` is None for the prior."""

    path: str
    subject: SuiteSubject | None
    word: str
    prompt: Prompt
    seed: int

    @property
    def text(self) -> str:
        return self.prompt.for_word(self.word)


class Sampler(Protocol):
    """What is asked of a pipeline: `moa.pipeline.MoAPipeline`, seen from here."""

    def __call__(self, prompt: list[str], **options: Any) -> Any:
        """Returns an object whose `images` are PIL images, one for each prompt."""


def noise_seed(prompt_id: str, seed: int) -> int:
    """Seed of the initial noise, 32 bits: a function of prompt and seed only, neither of method nor of subject."""
    return int.from_bytes(hashlib.sha256(f"{prompt_id}/{seed}".encode()).digest()[:4], "big")


def image_path(method: Method, subject_id: str, word: str, prompt_id: str, seed: int) -> str:
    """Where the image lies, relative to the evaluation folder."""
    whose = re.sub(r"[^A-Za-z0-9_\-]", "-", word) if method.kind == "prior" else subject_id
    return f"images/{method.name}/{whose}/{prompt_id}/{seed}.png"


def shots(suite: Suite, subjects: Sequence[SuiteSubject], method: Method) -> list[Shot]:
    """All images of a method, each once."""
    found: dict[str, Shot] = {}
    for subject in subjects:
        for prompt in suite.prompts:
            for seed in suite.seeds:
                path = image_path(method, subject.id, subject.word, prompt.id, seed)
                given = None if method.kind == "prior" else subject
                found.setdefault(path, Shot(path, given, subject.word, prompt, seed))
    return list(found.values())


def shot_digest(shot: Shot, suite: Suite, method: Method) -> str:
    """Digest of everything the pixels depend on."""
    return json_digest(
        {
            "method": method.digest,
            "kind": "prior" if shot.subject is None else "personal",
            "subject": shot.subject.digest if shot.subject else None,
            "prompt": shot.text,
            "noise": noise_seed(shot.prompt.id, shot.seed),
            "images": suite.images.model_dump(),
        }
    )


def generate(
    folder: Path,
    suite: Suite,
    subjects: Sequence[SuiteSubject],
    method: Method,
    pipeline: Callable[[], Sampler],
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> int:
    """Makes the images of `method` that are missing or out of date below `folder`; returns how many were made.

    `pipeline()` is called once, and only when there is something to make. `progress(done, total, path)` follows each
    batch. A batch that does not fit into memory is halved; the initial noise belongs to the image, so the batch size
    does not choose the picture.
    """
    wanted = [(shot, shot_digest(shot, suite, method)) for shot in shots(suite, subjects, method)]
    missing = [(shot, digest) for shot, digest in wanted if not _is_current(folder / shot.path, digest)]
    if not missing:
        return 0
    sampler, done = pipeline(), len(wanted) - len(missing)
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        for shot, digest, image, seconds in _sample(sampler, suite, batch):
            _save(folder / shot.path, image, shot, digest, seconds)
            done += 1
        if progress:
            progress(done, len(wanted), batch[-1][0].path)
    return len(missing)


def read_chunk(path: Path) -> dict[str, Any]:
    """The record inside a generated image; empty when the image is missing, cut short or not ours."""
    try:
        with Image.open(path) as image:
            image.load()
            return json.loads(image.info[CHUNK])
    except (OSError, KeyError, ValueError, TypeError, SyntaxError):
        return {}


def _is_current(path: Path, digest: str) -> bool:
    return read_chunk(path).get("inputs") == digest


def _sample(
    sampler: Sampler, suite: Suite, batch: list[tuple[Shot, str]]
) -> Iterator[tuple[Shot, str, Image.Image, float]]:
    """Runs one batch and yields (shot, digest, image, seconds of its share); halves the batch when memory runs out."""
    started = time.perf_counter()
    try:
        images = _call(sampler, suite, [shot for shot, _ in batch])
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        half = len(batch) // 2
        yield from _sample(sampler, suite, batch[:half])
        yield from _sample(sampler, suite, batch[half:])
        return
    seconds = (time.perf_counter() - started) / len(batch)
    for (shot, digest), image in zip(batch, images, strict=True):
        yield shot, digest, image, seconds


def _call(sampler: Sampler, suite: Suite, batch: list[Shot]) -> list[Image.Image]:
    people = [[Subject(word=shot.word, image=shot.subject.reference)] for shot in batch if shot.subject]
    return sampler(
        prompt=[shot.text for shot in batch],
        subjects=people or None,
        num_inference_steps=suite.images.steps,
        guidance_scale=suite.images.guidance,
        height=suite.images.size,
        width=suite.images.size,
        generator=[torch.Generator("cpu").manual_seed(noise_seed(shot.prompt.id, shot.seed)) for shot in batch],
        output_type="pil",
    ).images


def _save(path: Path, image: Image.Image, shot: Shot, digest: str, seconds: float) -> None:
    record = {
        "inputs": digest,
        "prompt": shot.text,
        "noise_seed": noise_seed(shot.prompt.id, shot.seed),
        "seconds": round(seconds, 4),
    }
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(CHUNK, canonical_json(record))
    write_file(path, lambda draft: image.save(draft, format="PNG", pnginfo=chunk))
