"""Dataset declarations: what `datasets/<name>.yaml` may say; `load_dataset(path)` reads one or explains what is wrong.

Torch-free. Every field below changes what is written; the default is what a declaration that omits it gets.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from preprocessing.errors import ConfigError
from preprocessing.words import find_words

SPLITS = ("train", "heldout")
MAX_SUBJECTS = 8


class Declaration(BaseModel):
    """Base of all parts: immutable, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- where images come from


class RendererCounts(Declaration):
    """Pictures drawn for each split."""

    train: int = Field(ge=0)
    heldout: int = Field(ge=0)

    @model_validator(mode="after")
    def _any(self) -> RendererCounts:
        if not self.train + self.heldout:
            raise ValueError("at least one picture is needed")
        return self


class RendererIdentities(Declaration):
    """How many people live in a split; null: nearly everybody is met once."""

    train: int | None = Field(default=None, ge=2)
    heldout: int | None = Field(default=None, ge=2)


class RendererFraming(Declaration):
    """What a split shows: scenes in all styles with people who do things, or plain photos of people."""

    train: Literal["scenes", "photos"] = "scenes"
    heldout: Literal["scenes", "photos"] = "scenes"


class RendererSource(Declaration):
    """Pictures drawn by `preprocessing.world` with exact annotations; `size` in pixels."""

    kind: Literal["renderer"]
    seed: int = 1
    size: int = Field(default=64, ge=32, le=1024)
    identities: RendererIdentities = Field(default_factory=lambda: RendererIdentities())
    framing: RendererFraming = Field(default_factory=lambda: RendererFraming())
    counts: RendererCounts


class FractionSplit(Declaration):
    """A share of the images is held out, by a hash of each image's name, or of its folder (a folder stays together)."""

    kind: Literal["fraction"]
    heldout: float = Field(ge=0, le=1)
    group: Literal["image", "folder"] = "image"


class NumberSplit(Declaration):
    """Images whose number (the digits that end the stem) is at least `heldout_from` are held out: FFHQ's last 10k."""

    kind: Literal["number"]
    heldout_from: int = Field(ge=0)


SplitRule = Annotated[FractionSplit | NumberSplit, Field(discriminator="kind")]


class FolderSource(Declaration):
    """All jpg, jpeg, png and webp files below `root`; null when the root is always given on the command line.

    `images` is the folder below the root that holds them, where there are other pictures in the root, too. `credits` is
    a file below the root in the layout of ffhq-dataset-v2.json: author and licence of each numbered image.
    """

    kind: Literal["folder"]
    root: Path | None = None
    images: str | None = Field(default=None, exclude_if=lambda folder: folder is None)
    split: SplitRule
    credits: str | None = None


# --- who says what is in them


class SidecarCaptions(Declaration):
    """The caption is in `<stem>.json`."""

    kind: Literal["sidecar"]


class TemplateCaptions(Declaration):
    """Every image gets the same caption; it must hold a person word."""

    kind: Literal["template"]
    text: str = "a photo of a person"

    @field_validator("text")
    @classmethod
    def _has_word(cls, text: str) -> str:
        if not find_words(text):
            raise ValueError(f"{text!r} holds no person word such as person, man or woman")
        return text


class Blip2Captions(Declaration):
    """BLIP-2 through transformers; the prompt is stripped from the caption. `model`: see preprocessing/models.py."""

    kind: Literal["blip2"]
    model: str = "Salesforce/blip2-flan-t5-xl"
    prompt: str = "a photo of"
    max_new_tokens: int = Field(default=40, ge=1)
    batch_size: int = Field(default=16, ge=1)


class SidecarSegmentation(Declaration):
    """The label map is in `<stem>.mask.png`."""

    kind: Literal["sidecar"]


class Mask2FormerSegmentation(Declaration):
    """Mask2Former, panoptic, through transformers; the class named "person" is kept from score `threshold` on."""

    kind: Literal["mask2former"]
    model: str = "facebook/mask2former-swin-base-coco-panoptic"
    threshold: float = Field(default=0.8, ge=0, le=1)
    batch_size: int = Field(default=8, ge=1)


class HeadAndShouldersSegmentation(Declaration):
    """A drawn silhouette below each face box: a crude mask for portraits that needs no weights but a face finder."""

    kind: Literal["head_and_shoulders"]


class NoFaces(Declaration):
    """Faces are not looked for."""

    kind: Literal["none"]


class SidecarFaces(Declaration):
    """Face boxes are in `<stem>.json`."""

    kind: Literal["sidecar"]


class MtcnnFaces(Declaration):
    """MTCNN of facenet-pytorch with the weights in its package; `min_face` in pixels of the stored image."""

    kind: Literal["mtcnn"]
    min_face: int = Field(default=20, ge=12)
    min_probability: float = Field(default=0.9, ge=0, le=1)


CaptionsConfig = Annotated[SidecarCaptions | TemplateCaptions | Blip2Captions, Field(discriminator="kind")]
SegmentationConfig = Annotated[
    SidecarSegmentation | Mask2FormerSegmentation | HeadAndShouldersSegmentation, Field(discriminator="kind")
]
FacesConfig = Annotated[NoFaces | SidecarFaces | MtcnnFaces, Field(discriminator="kind")]


# --- the whole


class DatasetConfig(Declaration):
    """One dataset: source, annotators, what is dropped, what is written."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    licence: str = Field(min_length=1)
    author: str = Field(min_length=1)
    source: Annotated[RendererSource | FolderSource, Field(discriminator="kind")]

    captions: CaptionsConfig
    segmentation: SegmentationConfig
    faces: FacesConfig
    binding: Literal["largest", "left_to_right"] = "largest"  # which masks the caption's person words name
    repair_captions: bool = True  # "a photo of a person, ..." in front of a caption without a person word

    min_side: int = Field(default=64, ge=1)  # shorter side of the original, pixels: below is too_small
    max_pixels: int = Field(default=100_000_000, ge=1)  # of the original: above is too_large
    min_area: float = Field(default=0.01, ge=0, lt=1)  # share of the image below which a person is no subject
    caption_words: int = Field(default=50, ge=1)  # words and punctuation marks in which all subjects must be named
    require_face: bool = False  # drop images whose subject has no face

    square: Literal["centre", "top"] = "centre"  # which square of a tall image is kept; wide ones keep their centre
    resolution: int = Field(ge=32, le=4096)  # side of the stored square, pixels
    crop_size: int = Field(default=224, ge=16, le=1024)  # side of a subject crop, pixels
    crop_margin: float = Field(default=0.1, ge=0, le=1)  # around the mask's box, share of its longer side
    image_format: Literal["png", "jpg"] = "jpg"
    shard_size: int = Field(default=1000, ge=1, le=100_000)  # source images in a shard

    @model_validator(mode="after")
    def _parts_fit(self) -> DatasetConfig:
        if self.segmentation.kind == "head_and_shoulders" and self.faces.kind == "none":
            raise ValueError("segmentation: head_and_shoulders draws below faces; set faces.kind to mtcnn or sidecar")
        if self.require_face and self.faces.kind == "none":
            raise ValueError("require_face: nothing can be kept with faces.kind none; set mtcnn or sidecar")
        if isinstance(self.faces, MtcnnFaces) and self.faces.min_face > self.resolution:
            raise ValueError(f"faces.min_face: {self.faces.min_face} is larger than the resolution {self.resolution}")
        return self

    def reads_sidecars(self) -> bool:
        """Whether any annotator needs the files beside the images."""
        return "sidecar" in (self.captions.kind, self.segmentation.kind, self.faces.kind)


def load_dataset(path: Path | str) -> DatasetConfig:
    """Read a declaration. Raises ConfigError that names the file, the field and the values allowed there."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); give the path of a file like datasets/miniature.yaml"
        ) from error
    try:
        values = yaml.safe_load(text)
    except Exception as error:  # YAMLError, and ValueError for a month 13, RecursionError, ...
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected fields such as name, source, captions; found {type(values).__name__}")
    try:
        return DatasetConfig.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise ConfigError(f"{path}: the declaration has problems:\n{problems}") from None


def _describe(problem: Any) -> str:
    """One line for one pydantic error: the field as written in the file, what is wrong, what is allowed."""
    fields, model = _resolve(problem["loc"])
    field, kind, context = ".".join(fields) or "(whole file)", problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = sorted(model.model_fields) if model else []
        near = difflib.get_close_matches(fields[-1], allowed, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{field}: unknown field{hint} Allowed here: {', '.join(allowed)}"
    if kind == "union_tag_invalid":
        return f"{field}.kind: {context['tag']!r} is unknown. Allowed: {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"{field}.kind: missing. Every {fields[-1]} needs a kind"
    if kind == "missing":
        return f"{field}: missing, and it has no default"
    return f"{field}: {re.sub('^Value error, ', '', problem['msg'])} (found {problem['input']!r:.80})"


def _resolve(location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """The field path without pydantic's union tags, and the model that the last field belongs to."""
    fields: list[str] = []
    models: list[type[BaseModel]] = [DatasetConfig]
    owner: type[BaseModel] | None = DatasetConfig
    for part in map(str, location):
        tagged = [
            m for m in models if "kind" in m.model_fields and get_args(m.model_fields["kind"].annotation) == (part,)
        ]
        if len(models) > 1 and tagged:
            models = tagged
            continue
        fields.append(part)
        owner = models[0]
        models = _models_in(owner.model_fields[part].annotation) if part in owner.model_fields else []
        if not models:
            break
    return fields, owner


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The declaration models among a field's possible types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
