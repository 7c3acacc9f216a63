"""Suite declarations: which subjects, prompts, seeds and measuring models make up an evaluation. No torch in here.

    python -m moa.evaluation.suite datasets/suites/celeba-15.yaml --images DIR

is the preflight (`moa.evaluation.check`). Format: datasets/FORMAT.md, section 7.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from moa.errors import SuiteError

# Ids become folder and file names, so nothing that could leave the folder is allowed in them.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)
]  # a table's integers are 64 bits


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Shows(_Declaration):
    """What must be seen in the images of a prompt, in its own words; None where nobody can tell."""

    item: str | None = Field(None, min_length=1)
    scene: str | None = Field(None, min_length=1)


class Prompt(_Declaration):
    """One prompt; `{word}` in `text` stands for the subject's class word."""

    id: Id
    category: Id
    text: str
    shows: Shows = Shows()

    @field_validator("text")
    @classmethod
    def _one_subject(cls, text: str) -> str:
        if text.count("{word}") != 1 or text.replace("{word}", "").count("{") or text.count("}") != 1:
            raise ValueError("must hold '{word}' exactly once and no other braces")
        return text

    @model_validator(mode="after")
    def _shows_what_it_says(self) -> Prompt:
        for name, words in self.shows:
            if words is not None and self.text.count(words) != 1:
                raise ValueError(f"shows.{name}: {words!r} must be a part of {self.text!r}, once")
        return self

    def for_word(self, word: str) -> str:
        """The prompt for a class word, e.g. `a man riding a horse`; used for generation and for PC alike."""
        return self.text.replace("{word}", word)


class PairPrompt(_Declaration):
    """One prompt for two people; `{first}` and `{second}`, in this order, stand for their class words.

    The order matters: of two equal words the pipeline gives the first occurrence to the first person.
    """

    id: Id
    text: str

    @field_validator("text")
    @classmethod
    def _two_subjects(cls, text: str) -> str:
        if re.findall(r"\{\w+\}|[{}]", text) != ["{first}", "{second}"]:
            raise ValueError("must hold '{first}' and then '{second}', each once, and no other braces")
        return text

    def for_words(self, first: str, second: str) -> str:
        """The prompt for two class words, e.g. `a man and a man on a sofa`."""
        return self.text.replace("{first}", first).replace("{second}", second)


class Pairs(_Declaration):
    """Images of two people: `count` pairs of the suite's subjects, each with every prompt and seed."""

    count: int = Field(ge=1)
    prompts: tuple[PairPrompt, ...] = Field(min_length=1)
    seeds: Seeds


class ShardSubjects(_Declaration):
    """The first `count` identities of a split of the run's shards that stand alone in their photograph; `where` keeps
    samples whose attributes, or whose person's, have these values, e.g. `{style: photo, item: null}`; null: has none.
    """

    kind: Literal["shards"]
    split: Id = "heldout"
    count: int = Field(ge=1)
    where: dict[str, str | None] = {}


class SubjectItem(_Declaration):
    """One person of a folder of photographs; `image` is a file below the folder, or a folder holding at least one
    photograph, of which the first by name is taken (as FastComposer's evaluation does)."""

    id: Id
    word: str = Field(min_length=1)
    image: str

    @field_validator("image")
    @classmethod
    def _inside(cls, image: str) -> str:
        if Path(image).is_absolute() or ".." in Path(image).parts:
            raise ValueError("must be a path inside the subjects' root")
        return image


class FolderSubjects(_Declaration):
    """Named photographs below `root` (relative to the suite's file), which the user may override."""

    kind: Literal["folder"]
    root: str | None = None
    items: tuple[SubjectItem, ...] = Field(min_length=1)


Precision = Literal["fp32", "bf16", "fp16"]


class ImageSettings(_Declaration):
    """How images are sampled: `size` in pixels (square), denoising `steps`, classifier-free `guidance` scale, and the
    `precision` of the pipeline on a GPU (`for_devices`)."""

    size: int = Field(ge=8, multiple_of=8)
    steps: int = Field(ge=1)
    guidance: float = Field(ge=0)
    precision: Precision = "fp32"


class FaceModel(_Declaration):
    """Face detector and embedder behind IP. `facenet`: MTCNN and InceptionResnetV1, `path` is the embedder's weight
    file; `miniature`: the identity model of the miniature world, `path` is its folder. Relative to the suite's file."""

    kind: Literal["facenet", "miniature"]
    path: str
    sha256: Digest | None = None


class ClipModel(_Declaration):
    """CLIP behind PC: `path` is a CLIPModel or OpenCLIP folder, `sha256` that of its weight file. `antialias`
    is the resize's; FastComposer's published figures come from a torchvision in which it was off."""

    path: str
    sha256: Digest | None = None
    antialias: bool = True


class AttributeModel(_Declaration):
    """The classifier that says which item and scene an image shows: `path` is a folder as zoo/attributes, `sha256` that
    of its weight file."""

    path: str
    sha256: Digest | None = None


class Evaluators(_Declaration):
    faces: FaceModel
    clip: ClipModel
    attributes: AttributeModel | None = None


class Published(_Declaration):
    """Somebody else's figures for the same protocol, shown beside ours and labelled as published. For two people, `ip`
    is the smaller similarity of the two."""

    method: str
    ip: float | None = None
    pc: float | None = None
    source: str


class Suite(_Declaration):
    """A whole suite, validated: ids are unique, by more than capital letters, seeds distinct."""

    name: Id
    version: str
    title: str
    licence: str
    subjects: ShardSubjects | FolderSubjects = Field(discriminator="kind")
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    seeds: Seeds
    images: ImageSettings
    evaluators: Evaluators
    pairs: Pairs | None = None
    published: tuple[Published, ...] = ()
    published_pairs: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Suite:
        named: dict[str, list] = {"prompts": [p.id for p in self.prompts], "seeds": list(self.seeds)}
        if self.pairs:
            named |= {"pairs.prompts": [p.id for p in self.pairs.prompts], "pairs.seeds": list(self.pairs.seeds)}
        if isinstance(self.subjects, FolderSubjects):
            named["subjects.items"] = [item.id for item in self.subjects.items]
        for field, values in named.items():
            on_disk = [str(value).lower() for value in values]
            for place, value in enumerate(values):
                first = values[on_disk.index(on_disk[place])]
                if first != value:
                    raise ValueError(f"{field} holds {first!r} and {value!r}, whose files some disks do not tell apart")
                if values.index(value) < place:
                    raise ValueError(f"{field} holds {value!r} more than once")
        return self

    def rivals(self, prompt: Prompt) -> tuple[str, ...]:
        """The texts among which CLIP ranks a prompt, its own first: those of its category, each put into the prompt's
        own scene where both declare one, so that the background cannot decide; as they are where only scenes differ."""
        category = [other for other in self.prompts if other.category == prompt.category]
        moved = dict.fromkeys([prompt.text, *(_in_scene(other, prompt.shows.scene) for other in category)])
        return tuple(moved if len(moved) > 1 else dict.fromkeys([prompt.text, *(other.text for other in category)]))

    def for_devices(self, devices: Sequence[str], precision: Precision | None = None) -> Suite:
        """The suite with the precision its images are really made in: the given one, else the declared one on GPUs and
        fp32 as soon as a CPU takes part, on which half precision is slow."""
        declared = "fp32" if any(device.startswith("cpu") for device in devices) else self.images.precision
        return self.model_copy(update={"images": self.images.model_copy(update={"precision": precision or declared})})


def load_suite(path: Path | str, *, faces: Path | None = None, clip: Path | None = None) -> Suite:
    """Reads and checks a declaration; every path in the result is absolute.

    `faces` and `clip` replace the declared places of the measuring models (the declared sha256 still holds).
    Raises `SuiteError` naming the file and the field.
    """
    path = Path(path)
    try:
        declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read ({error.strerror}); suites live in datasets/suites/") from error
    except Exception as error:  # UnicodeDecodeError, YAMLError, and ValueError for a month 13, RecursionError, ...
        raise SuiteError(f"{path}: is not YAML: {error}") from error
    try:
        suite = Suite.model_validate(declared)
    except ValidationError as error:
        raise SuiteError(f"{path}: " + "; ".join(map(_described, error.errors()))) from error
    suite = _with_absolute_paths(suite, path.resolve().parent, faces, clip)
    _check_vocabulary(path, suite)
    return suite


def _described(problem: Any) -> str:
    """A problem that pydantic found. YAML makes of `no` a boolean, of `6` a number and of `2024-01-01` a date."""
    quotes = f", in quotes here (found {problem['input']!r})" if problem["type"] == "string_type" else ""
    return f"{'.'.join(map(str, problem['loc'])) or 'suite'}: {problem['msg']}{quotes}"


def _in_scene(prompt: Prompt, scene: str | None) -> str:
    return prompt.text.replace(prompt.shows.scene, scene) if prompt.shows.scene and scene else prompt.text


def _with_absolute_paths(suite: Suite, base: Path, faces: Path | None, clip: Path | None) -> Suite:
    given = {"faces": faces, "clip": clip}
    models = {
        name: model.model_copy(update={"path": str(Path(given.get(name) or base / model.path).resolve())})
        for name, model in suite.evaluators
        if model is not None
    }
    subjects = suite.subjects
    if isinstance(subjects, FolderSubjects) and subjects.root:
        subjects = subjects.model_copy(update={"root": str((base / subjects.root).resolve())})
    return suite.model_copy(update={"evaluators": suite.evaluators.model_copy(update=models), "subjects": subjects})


def _check_vocabulary(path: Path, suite: Suite) -> None:
    """What prompts show must be words of the classifier that is to see it. Without its folder there is nothing to check
    against: the preflight and `moa.evaluation.run` say that it is missing."""
    config = Path(suite.evaluators.attributes.path) / "config.json" if suite.evaluators.attributes else None
    if config is None or not config.is_file():
        return
    try:
        vocabulary = json.loads(config.read_text(encoding="utf-8"))["vocabulary"]
        known = {name: [word for word in vocabulary[name] if word] for name in Shows.model_fields}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SuiteError(f"{path}: evaluators.attributes: {config} is no classifier's ({error!r})") from error
    for prompt in suite.prompts:
        for name, words in prompt.shows:
            if words is not None and words not in known[name]:
                raise SuiteError(
                    f"{path}: prompts.{prompt.id}.shows.{name}: {words!r} is no word of {config}, "
                    f"which knows {', '.join(map(repr, known[name]))}"
                )


if __name__ == "__main__":
    from moa.evaluation.check import main  # there, so that declarations stay free of torch and exist once

    sys.exit(main())
