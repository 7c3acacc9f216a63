"""How images differ from one another: from the prior's (context kept?), from other subjects' (swap local?), from those
at other seeds (diversity, and the yardstick of what another scene is). Columns `context_change_*`, `swap_change_*`,
`seed_change_*`, `diversity_*` of the scores.

Against the prior's image, the person is where the prior shows one: a method whose people outgrow that place changes the
scene. Between two subjects' images, or two seeds', it is where either shows one; a pair of which one shows nobody is
not compared, for nobody knows what of it is scene.

Pixels are compared scene by scene: a scene is one method, prompt, seed and class word, its images are the subjects
with that word; or one prior, prompt and class word, its images are the seeds. At most one scene is in memory, its
images are opened once, and only when the journal lacks a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from moa.evaluation.files import json_digest
from moa.evaluation.journal import Journal
from moa.evaluation.measure import READERS, Measurement, open_image
from moa.evaluation.metrics import PersonBox, change, content_diversity, layout_diversity, person_region

Seen = Mapping[str, Measurement | str]  # by path; a string says why there is no measurement
Columns = dict[str, float]
Box = tuple[float, float, float, float]
Change = tuple[float | None, float | None]  # inside, outside


@dataclass(frozen=True)
class Scene:
    """Images to compare with one another, under the columns' name (`swap_change`, `seed_change`), and with the prior's;
    `prior` is None where there is nothing to compare with. `people` are those of the images, where each has one."""

    name: str
    images: tuple[str, ...]
    prior: str | None = None
    people: Mapping[str, str] = field(default_factory=dict)


class SceneComparer:
    """Compares the images below `folder`, with every comparison kept in the journal."""

    def __init__(self, folder: Path, person: PersonBox, journal: Journal):
        self.folder, self.person, self.journal = folder, person, journal

    def columns(self, scene: Scene, seen: Seen) -> dict[str, Columns]:
        """The change columns of each image; what cannot be compared is left out."""
        opened = self._open(scene)
        columns: dict[str, Columns] = {image: {} for image in scene.images}
        others: dict[str, list[Change]] = {image: [] for image in scene.images}
        if scene.prior:
            for image in scene.images:
                faces = _faces(seen, scene.prior) or _faces(seen, image)
                columns[image] |= _named("context_change", [self._change(image, scene.prior, faces, seen, opened)])
        for one, other, difference in self._between(scene, seen, opened):
            others[one].append(difference)
            others[other].append(difference)
        return {image: columns[image] | _named(scene.name, others[image]) for image in scene.images}

    def between(self, scene: Scene, seen: Seen) -> list[tuple[str, str, Change]]:
        """The change between each two images, in their order; None where they cannot be compared."""
        return self._between(scene, seen, self._open(scene))

    def _open(self, scene: Scene) -> _Pixels:
        return _Pixels(self.folder, [*scene.images, *filter(None, [scene.prior])])

    def _between(self, scene: Scene, seen: Seen, opened: _Pixels) -> list[tuple[str, str, Change]]:
        found = []
        for one, other in combinations(scene.images, 2):
            faces = _faces(seen, one, other)
            found.append((one, other, self._change(one, other, faces if len(faces) == 2 else [], seen, opened)))
        return found

    def _change(self, image: str, other: str, faces: Sequence[Box], seen: Seen, opened: _Pixels) -> Change:
        """Change inside and outside the people with these faces; nothing without a face, without one of the images, or
        for images of two sizes."""
        a, b = seen[image], seen[other]
        if isinstance(a, str) or isinstance(b, str) or (a.width, a.height) != (b.width, b.height) or not faces:
            return None, None
        key = json_digest(["change", sorted([a.digest, b.digest]), faces, vars(self.person)])
        known = self.journal.get(key)
        if known is None:
            region = np.any([person_region(face, self.person, a.width, a.height) for face in faces], axis=0)
            inside, outside = change(opened.by_path[image], opened.by_path[other], region)
            known = {"inside": inside, "outside": outside}
            self.journal.add(key, known)
        return known["inside"], known["outside"]


class _Pixels:
    """The images of a scene, opened together by threads, when one is first asked for."""

    def __init__(self, folder: Path, images: Sequence[str]):
        self.folder, self.images = folder, images

    @cached_property
    def by_path(self) -> dict[str, np.ndarray]:
        with ThreadPoolExecutor(READERS) as pool:
            opened = pool.map(lambda image: np.asarray(open_image(self.folder / image)), self.images)
            return dict(zip(self.images, opened, strict=True))


def _faces(seen: Seen, *images: str) -> list[Box]:
    """The largest face of each image that shows one, in an order of its own."""
    found = (seen[image] for image in images)
    return sorted(record.faces[0].box for record in found if not isinstance(record, str) and record.faces)


def diversity_columns(images: Sequence[str], seen: Seen) -> dict[str, Columns]:
    """`diversity_*` of images that differ by their seed alone; nothing for fewer than two that could be read."""
    found = {image: record for image in images if not isinstance(record := seen[image], str)}
    if len(found) < 2:
        return {}
    layout = layout_diversity(np.stack([record.layout for record in found.values()]))
    content = content_diversity(np.stack([record.clip for record in found.values()]))
    return {
        image: {"diversity_layout": float(a), "diversity_content": float(b)}
        for image, a, b in zip(found, layout, content, strict=True)
    }


def _named(name: str, changes: Sequence[Change]) -> Columns:
    """Means over the comparisons that could be made, under their columns' names."""
    columns = {}
    for side, values in zip(("inside", "outside"), zip(*changes, strict=True), strict=False):
        known = [value for value in values if value is not None]
        if known:
            columns[f"{name}_{side}"] = float(np.mean(known))
    return columns
