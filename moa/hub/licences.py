"""The terms a published model carries, and their acceptance by the person who publishes it.

A model inherits the terms of what it was made from: its base weights, its training pictures, the models that
annotated them. `LICENCES` holds them by preset; every published folder carries them twice, as `licences.json` for
programs and as `LICENSE.md` for people. Terms that restrict use must be accepted before anything is uploaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moa.errors import LicenceRefusedError

OPENRAIL_TEXT = Path(__file__).parent / "templates" / "creativeml-openrail-m.md"


class Component(BaseModel):
    """One thing a model was made from, and its terms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["weights", "training data", "annotation", "image encoder"]
    name: str
    licence: str
    source: str
    terms: str


class Licences(BaseModel):
    """All terms of a published model.

    `hub_licence` is the Hub's identifier ("mit", "other"); `name` names the terms where that is "other". `restricted`
    terms must be accepted to publish. `full_text` says whether LICENSE.md ends with the CreativeML Open RAIL-M, which
    its own paragraph 4 demands for derivatives of Stable Diffusion 1.5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub_licence: str
    name: str
    notice: str
    restricted: bool
    full_text: bool
    components: tuple[Component, ...]


_STABLE_DIFFUSION = Component(
    role="weights",
    name="Stable Diffusion 1.5",
    licence="CreativeML Open RAIL-M",
    source="https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
    terms="Derivatives carry the licence and its use restrictions. Changed: a personalization expert and routers were "
    "added to the attention layers of the U-Net; the original weights are unchanged.",
)
_CLIP = Component(
    role="image encoder",
    name="CLIP ViT-L/14",
    licence="MIT",
    source="https://github.com/openai/CLIP",
    terms="Its model card calls any deployed use out of scope.",
)

_MINIATURE = Licences(
    hub_licence="cc0-1.0",
    name="CC0-1.0",
    notice="Every picture behind this model was drawn by a program of the same project; it shows no real person.",
    restricted=False,
    full_text=False,
    components=(
        Component(
            role="weights",
            name="miniature zoo",
            licence="CC0-1.0",
            source="this project",
            terms="Trained from scratch by this project, dedicated to the public domain.",
        ),
        Component(
            role="training data",
            name="miniature world",
            licence="CC0-1.0",
            source="this project",
            terms="Rendered cartoon people and scenes, dedicated to the public domain.",
        ),
    ),
)

_FFHQ_SD15 = Licences(
    hub_licence="other",
    name="creativeml-openrail-m-and-ffhq-non-commercial",
    notice="For non-commercial use only, because the training photographs are; the use restrictions of the CreativeML "
    "Open RAIL-M (Attachment A below) apply to this model and to everything derived from it, and must be passed on.",
    restricted=True,
    full_text=True,
    components=(
        _STABLE_DIFFUSION,
        Component(
            role="training data",
            name="Flickr-Faces-HQ (FFHQ)",
            licence="CC BY-NC-SA 4.0",
            source="https://github.com/NVlabs/ffhq-dataset",
            terms="Non-commercial, cite the authors (Karras, Laine, Aila, 2019), state changes, share alike. Each "
            "photograph has an author and a licence of its own (CC BY, CC BY-NC, public domain, US government works).",
        ),
        Component(
            role="annotation",
            name="BLIP-2 (Flan-T5 XL)",
            licence="MIT",
            source="https://huggingface.co/Salesforce/blip2-flan-t5-xl",
            terms="Wrote the captions. Another language model behind BLIP-2 brings its own licence.",
        ),
        Component(
            role="annotation",
            name="Mask2Former",
            licence="CC BY-NC 4.0 (weights)",
            source="https://github.com/facebookresearch/Mask2Former",
            terms="Drew the person masks; its weights are treated as non-commercial.",
        ),
        _CLIP,
    ),
)

_PHOTOS_SD15 = Licences(
    hub_licence="other",
    name="creativeml-openrail-m-and-private-photographs",
    notice="Trained on photographs of people who agreed to it, as whoever published this model declares; the use "
    "restrictions of the CreativeML Open RAIL-M (Attachment A below) apply to this model and to everything derived "
    "from it, and must be passed on.",
    restricted=True,
    full_text=True,
    components=(
        _STABLE_DIFFUSION,
        Component(
            role="training data",
            name="photographs of the publisher",
            licence="private, not redistributed",
            source="the publisher",
            terms="The people shown agreed to the training and to this publication, and may withdraw.",
        ),
        _CLIP,
    ),
)

LICENCES: dict[str, Licences] = {"miniature": _MINIATURE, "ffhq_sd15": _FFHQ_SD15, "photos_sd15": _PHOTOS_SD15}
"""Terms by preset."""


def require_acceptance(licences: Licences, *, accepted: bool) -> None:
    """Refuse to go on with restricted terms that nobody accepted.

    Raises:
        LicenceRefusedError: names the terms and how to accept them.
    """
    if licences.restricted and not accepted:
        names = "; ".join(f"{part.name}: {part.licence}" for part in licences.components)
        raise LicenceRefusedError(
            f"accept_licences: {licences.notice} Terms: {names}. "
            "If you accept them for what you publish, set accept_licences"
        )


def licence_files(licences: Licences) -> dict[str, bytes]:
    """`licences.json` and `LICENSE.md` of a published folder."""
    record = json.dumps(licences.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    return {"licences.json": record.encode(), "LICENSE.md": _licence_text(licences).encode()}


def _licence_text(licences: Licences) -> str:
    lines = [f"# Licence: {licences.name}", "", licences.notice, ""]
    for part in licences.components:
        lines += [
            f"## {part.name} ({part.role})",
            "",
            f"{part.licence}. {part.terms}",
            "",
            f"Source: {part.source}",
            "",
        ]
    if licences.full_text:
        lines += ["---", "", OPENRAIL_TEXT.read_text(encoding="utf-8").strip(), ""]
    return "\n".join(lines)
