"""Generates the images of a suite: `images/<method>/<subject>/<prompt>/<seed>.png`, skipping what is already there.

Every method and subject starts a (prompt, seed) from the same noise, so images differ by method and person alone:
that is what the context measurements compare. A prior does not know the subject; its images are made once for each
class word and stored under the word's name instead of the subject's. Images of two people lie under `<a>+<b>`.

An image carries a `moa` text chunk: prompt, noise seed, seconds and a digest of all it depends on (weights, prompt,
sampling, references). A second run keeps an image whose digest still holds and makes the others again. A subject
without a reference has no images of its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image, PngImagePlugin
from torch import Generator

from moa.binding import find_words
from moa.errors import SuiteError, WordNotFoundError
from moa.evaluation.files import canonical_json, file_name, json_digest, write_file
from moa.evaluation.memory import MemoryBound
from moa.evaluation.subjects import SuiteSubject, choose_pairs
from moa.evaluation.suite import Suite
from moa.evaluation.workers import Crew
from moa.pipeline import EXPERT_INTERVAL
from moa.subjects import Subject

Progress = Callable[[str, int, int, str], None]
CHUNK = "moa"  # key of the PNG text chunk
# Raised by hand whenever the pipeline makes other pixels from the same weights and options, so that no image of an
# older sampler counts as current. 2: the safety checker is off.
SAMPLING = 2
ON_CPU = Crew(("cpu",))


@dataclass(frozen=True)
class Method:
    """One way of making images. `name` is its folder, `digest` that of all weights behind it.

    `adapter` is None for the pipeline's own; `lora` is a community LoRA merged into the prior, which makes it another
    base. `compared_with` is the name of the prior on the same base, None for priors. `role` says which part of the
    architecture an ablation lacks: the mixture ("no_moa": a single personal branch) or the encoding of timestep and
    layer in the multimodal prompt ("no_spacetime", eq. 8).
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
    """One image to make: `path` is relative to the evaluation folder; `people` are the subjects in the order of their
    words in `text`, nobody for a prior."""

    path: str
    prompt_id: str
    text: str
    seed: int
    people: tuple[SuiteSubject, ...]


@dataclass(frozen=True)
class Batch:
    """Images of one method to be made together, each with the digest of everything its pixels depend on."""

    method: Method
    shots: list[tuple[Shot, str]]

    @property
    def last(self) -> str:
        return self.shots[-1][0].path


class Sampler(Protocol):
    """What is asked of a pipeline: `moa.pipeline.MoAPipeline`, seen from here."""

    def __call__(self, prompt: list[str], **options: Any) -> Any:
        """Returns an object whose `images` are PIL images, one for each prompt."""


def noise_seed(prompt_id: str, seed: int) -> int:
    """Seed of the initial noise, 32 bits: a function of prompt and seed only, neither of method nor of subject."""
    return int.from_bytes(hashlib.sha256(f"{prompt_id}/{seed}".encode()).digest()[:4], "big")


def image_path(method: Method, subject_id: str, word: str, prompt_id: str, seed: int) -> str:
    """Where an image of one person lies, relative to the evaluation folder."""
    whose = file_name(word) if method.kind == "prior" else subject_id
    return f"images/{method.name}/{whose}/{prompt_id}/{seed}.png"


def pair_path(method: Method, first: SuiteSubject, second: SuiteSubject, prompt_id: str, seed: int) -> str:
    """Where an image of two people lies, relative to the evaluation folder; `+` occurs in no subject's id."""
    a, b = (file_name(s.word) if method.kind == "prior" else s.id for s in (first, second))
    return f"images/{method.name}/{a}+{b}/{prompt_id}/{seed}.png"


def shots(suite: Suite, subjects: Sequence[SuiteSubject], method: Method) -> list[Shot]:
    """All images of a method, each once: those of one person, then those of two.

    Raises `SuiteError` for a prompt that would bind a person to another word than its own.
    """
    found: dict[str, Shot] = {}
    for subject in subjects:
        for prompt in suite.prompts if subject.usable else ():
            text, places = prompt.for_word(subject.word), [prompt.text.index("{word}")]
            _check_binding(suite, prompt.id, text, [subject.word], places)
            for seed in suite.seeds:
                path = image_path(method, subject.id, subject.word, prompt.id, seed)
                people = () if method.kind == "prior" else (subject,)
                found.setdefault(path, Shot(path, prompt.id, text, seed, people))
    return [*found.values(), *_pair_shots(suite, subjects, method)]


def _pair_shots(suite: Suite, subjects: Sequence[SuiteSubject], method: Method) -> list[Shot]:
    found: dict[str, Shot] = {}
    for first, second in choose_pairs(suite, subjects):
        for prompt in suite.pairs.prompts if suite.pairs and first.usable and second.usable else ():
            text = prompt.for_words(first.word, second.word)
            moved = len(first.word) - len("{first}")
            places = [prompt.text.index("{first}"), prompt.text.index("{second}") + moved]
            _check_binding(suite, prompt.id, text, [first.word, second.word], places)
            for seed in suite.pairs.seeds if suite.pairs else ():
                path = pair_path(method, first, second, prompt.id, seed)
                people = () if method.kind == "prior" else (first, second)
                found.setdefault(path, Shot(path, prompt.id, text, seed, people))
    return list(found.values())


def _check_binding(suite: Suite, prompt_id: str, text: str, words: list[str], places: list[int]) -> None:
    """The pipeline looks for the words itself; it must find them where the prompt has its places for people."""
    try:
        found = [start for start, _ in find_words(text, words)]
    except WordNotFoundError as error:
        raise SuiteError(f"suite {suite.name}: prompt {prompt_id}: {error}") from error
    if found != places:
        raise SuiteError(
            f"suite {suite.name}: prompt {prompt_id}: in {text!r} the subject words {words} are found elsewhere than "
            "where the prompt has its places for them; avoid these words in the rest of the prompt"
        )


def shot_digest(shot: Shot, suite: Suite, method: Method) -> str:
    """Digest of everything the pixels depend on."""
    return json_digest(
        {
            "method": method.digest,
            "people": [subject.digest for subject in shot.people],
            "prompt": shot.text,
            "noise": noise_seed(shot.prompt_id, shot.seed),
            "images": suite.images.model_dump(),
            "expert_interval": EXPERT_INTERVAL,
            "sampling": SAMPLING,
        }
    )


def generate(
    folder: Path,
    suite: Suite,
    subjects: Sequence[SuiteSubject],
    methods: Sequence[Method],
    open_sampler: Callable[[Method, str], Sampler],
    *,
    crew: Crew = ON_CPU,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> int:
    """Makes the images of `methods` that are missing or out of date below `folder`; returns how many were made.

    `open_sampler(method, device)` is called for a method only when there is something to make, and must be picklable
    when the crew has several devices, each of which takes the next batch when it is free. `progress(
    method, done, total, path)` follows each batch; `done` and `total` are of all methods. A batch that does not fit
    into memory is halved; the initial noise belongs to the image, so the batch size does not choose the picture. Raises
    `EvaluationError` naming device and image when one cannot be made; what was made is kept.
    """
    total, done, batches = 0, 0, []
    for method in methods:
        wanted = [(shot, shot_digest(shot, suite, method)) for shot in shots(suite, subjects, method)]
        missing = [(shot, digest) for shot, digest in wanted if not _is_current(folder / shot.path, digest)]
        total, done = total + len(wanted), done + len(wanted) - len(missing)
        batches += [Batch(method, missing[i : i + batch_size]) for i in range(0, len(missing), batch_size)]
    open_studio = partial(Studio, folder, suite, open_sampler)
    for batch, made in crew.work(open_studio, batches, lambda batch: batch.last):
        done += made
        if progress:
            progress(batch.method.name, done, total, batch.last)
    return sum(len(batch.shots) for batch in batches)


class Studio:
    """Makes batches on one device; the pipeline of the method at work stays open until another method comes."""

    def __init__(self, folder: Path, suite: Suite, open_sampler: Callable[[Method, str], Sampler], device: str):
        self.folder, self.suite, self.open_sampler, self.device = folder, suite, open_sampler, device
        self.method: str | None = None
        self.sampler: Sampler | None = None
        self.fitting = MemoryBound()

    def __call__(self, batch: Batch) -> int:
        """Writes the images of `batch` and returns their number."""
        if self.sampler is None or self.method != batch.method.name:
            self.sampler = None  # the old pipeline leaves the device before the new one comes
            self.sampler, self.method = self.open_sampler(batch.method, self.device), batch.method.name
        for part, (images, seconds) in self.fitting(partial(_sample, self.sampler, self.suite), batch.shots):
            for (shot, digest), image in zip(part, images, strict=True):
                _save(self.folder / shot.path, image, shot, digest, seconds)
        return len(batch.shots)


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


def _sample(sampler: Sampler, suite: Suite, batch: Sequence[tuple[Shot, str]]) -> tuple[list[Image.Image], float]:
    """The images of a batch, and the seconds that each took."""
    started, shots = time.perf_counter(), [shot for shot, _ in batch]
    people = [given_people(shot) for shot in shots]
    options = {"subjects": people if any(people) else None, **sampling(suite, shots)}
    images = sampler(prompt=[shot.text for shot in shots], **options).images
    return images, (time.perf_counter() - started) / len(batch)


def given_people(shot: Shot) -> list[Subject]:
    """The people of an image for a pipeline, as they are in `references/`: whoever is to be cut out is so already."""
    return [Subject(word=person.word, image=person.reference, prepare=False) for person in shot.people]


def sampling(suite: Suite, batch: Sequence[Shot]) -> dict[str, Any]:
    """The suite's sampling options for a pipeline, with the noise of each image."""
    return {
        "num_inference_steps": suite.images.steps,
        "guidance_scale": suite.images.guidance,
        "height": suite.images.size,
        "width": suite.images.size,
        "generator": [Generator("cpu").manual_seed(noise_seed(shot.prompt_id, shot.seed)) for shot in batch],
        "expert_interval": EXPERT_INTERVAL,
        "output_type": "pil",
    }


def _save(path: Path, image: Image.Image, shot: Shot, digest: str, seconds: float) -> None:
    record = {
        "inputs": digest,
        "prompt": shot.text,
        "noise_seed": noise_seed(shot.prompt_id, shot.seed),
        "seconds": round(seconds, 4),
    }
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(CHUNK, canonical_json(record))
    write_file(path, lambda file: image.save(file, format="PNG", pnginfo=chunk))
