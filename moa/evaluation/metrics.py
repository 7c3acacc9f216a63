"""The numbers of the evaluation, as pure functions of arrays: no files, no models, no randomness.

Letters: d embedding width, H x W pixels, S seeds, P prompts, F faces. IP and PC follow FastComposer's protocol, which
the MoA paper uses (section 4); the others measure its further claims: the scene stays the prior's, a swap changes the
person only, images of several seeds differ as much as the prior's, two people are not mixed up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class PersonBox:
    """How far people reach around their face: `head` face widths from its centre to either side down to the chin (the
    face's lower edge), `side` below it, `above` face heights over its upper edge, `below` face heights under the
    chin."""

    head: float
    side: float
    above: float
    below: float


@dataclass(frozen=True)
class PairMatch:
    """The two faces of an image of two people: `ip_first`, `ip_second` IP with their own reference, `ip` the smaller of
    them, `leakage` mean similarity to the other's reference (all 0..1), `assigned` whether both are nearer to their own
    reference than to the other."""

    ip_first: float
    ip_second: float
    ip: float
    leakage: float
    assigned: bool


def identity_preservation(face: np.ndarray | None, reference: np.ndarray) -> float:
    """IP of one image, 0..1: cosine of two unit face embeddings `[d]`, clamped at 0; no face (None) counts 0."""
    if face is None:
        return 0.0
    return float(max(np.dot(face, reference), 0.0))


def match_faces(faces: np.ndarray, references: np.ndarray) -> PairMatch | None:
    """Who is who in an image of two people: unit `faces [F, d]` against unit `references [2, d]`.

    The two faces, one per reference, whose cosines add up to most (optimal matching); further faces are ignored. None
    with fewer than two faces. The matching prefers a face's own reference by construction: two faces that resemble
    nobody in particular are `assigned` half of the time, which is the chance level; of three, the best two are in 65 %.
    """
    if len(faces) < 2:
        return None
    similarity = np.asarray(references) @ np.asarray(faces).T  # [2, F]
    _, chosen = linear_sum_assignment(similarity, maximize=True)
    between = similarity[:, chosen]  # [2 references, 2 faces], own on the diagonal
    clamped = np.maximum(between, 0.0)
    own, other = np.diag(clamped), clamped[[1, 0], [0, 1]]
    assigned = between[0, 0] > between[1, 0] and between[1, 1] > between[0, 1]
    return PairMatch(float(own[0]), float(own[1]), float(own.min()), float(other.mean()), bool(assigned))


def prompt_consistency(image: np.ndarray, text: np.ndarray) -> float:
    """PC of one image, -1..1: cosine of the unit CLIP embeddings `[d]` of image and prompt, neither clamped nor
    scaled."""
    return float(np.dot(image, text))


def mean_consistency(image: np.ndarray, texts: np.ndarray) -> float | None:
    """Mean PC, -1..1, of one image `[d]` against several `texts [P, d]`; None for no text. A cosine of CLIP has no
    zero: against prompts that nobody asked for, this says where an image's PC begins."""
    return float(np.mean(np.asarray(texts) @ np.asarray(image))) if len(texts) else None


def prompt_rank(image: np.ndarray, texts: np.ndarray) -> int | None:
    """Rank, 1 is best, of the first of `texts [P, d]`, the own prompt, by cosine with `image [d]`; None for a single
    text, among which there is nothing to be told apart. A tie counts for the own prompt."""
    if len(texts) < 2:
        return None
    similarity = np.asarray(texts) @ np.asarray(image)
    return 1 + int((similarity > similarity[0]).sum())


def person_region(face: tuple[float, float, float, float], person: PersonBox, width: int, height: int) -> np.ndarray:
    """Where the person of a face stands: bool `[H, W]`, a box for the head and one for the body in units of the face
    (all that is detected), clipped to the image. `face` is `[x0, y0, x1, y1]` in pixels."""
    x0, y0, x1, y1 = face
    centre, face_width, face_height = (x0 + x1) / 2, x1 - x0, y1 - y0
    region = np.zeros((height, width), dtype=bool)
    for reach, top, bottom in (
        (person.head * face_width, y0 - person.above * face_height, y1),
        (person.side * face_width, y1, y1 + person.below * face_height),
    ):
        region[_pixels(top, bottom), _pixels(centre - reach, centre + reach)] = True
    return region


def _pixels(start: float, stop: float) -> slice:
    return slice(max(0, int(np.floor(start))), max(0, int(np.ceil(stop))))


def change(image: np.ndarray, other: np.ndarray, region: np.ndarray) -> tuple[float | None, float | None]:
    """Mean absolute difference, 0..1, between two images of the same prompt and seed: (inside, outside) a region.

    `image` and `other` are uint8 `[H, W, 3]`; `region` is bool `[H, W]`, True where the person stands. Against the
    prior's image it measures whether personalization leaves the context alone, against another subject's whether a swap
    stays local: a large change inside with a small one outside. A side without pixels is None.
    """
    if image.shape != other.shape:
        raise ValueError(f"an image of {image.shape} cannot be compared with one of {other.shape}")
    difference = np.maximum(image, other) - np.minimum(image, other)  # no wrap-around, no wider type
    total = int(difference.sum(dtype=np.int64))
    within = int((difference * region[..., None]).sum(dtype=np.int64))  # a third of the time that indexing takes
    inside, pixels = int(region.sum()), region.size
    scale = 255.0 * image.shape[2]
    return (
        within / (inside * scale) if inside else None,
        (total - within) / ((pixels - inside) * scale) if inside < pixels else None,
    )


def layout_diversity(layouts: np.ndarray) -> np.ndarray:
    """For each of S images of one prompt, `[S]`, 0..1: mean over the others of the mean absolute difference of their
    thumbnails, uint8 `[S, 8, 8, 3]`. S must be at least 2."""
    flat = np.asarray(layouts, np.float64).reshape(len(layouts), -1) / 255
    return _mean_to_others(np.abs(flat[:, None] - flat[None]).mean(axis=2))


def content_diversity(embeddings: np.ndarray) -> np.ndarray:
    """For each of S images of one prompt, `[S]`, 0..2: mean over the others of the cosine distance of their unit CLIP
    embeddings `[S, d]`. S must be at least 2."""
    unit = np.asarray(embeddings, np.float64)
    return _mean_to_others(np.maximum(1 - unit @ unit.T, 0.0))


def _mean_to_others(distance: np.ndarray) -> np.ndarray:
    """Row means `[S]` of a distance table `[S, S]` without its diagonal."""
    if len(distance) < 2:
        raise ValueError("diversity needs at least two images")
    return (distance.sum(axis=1) - np.diag(distance)) / (len(distance) - 1)
