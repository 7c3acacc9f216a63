"""The first screen: the prior's image, the method's images for several subjects, and the ablations, at one seed."""

from __future__ import annotations

from dataclasses import dataclass

from reports.album import HERO_EDGE, Album
from reports.evaluation_format import MethodSummary
from reports.images import Thumb
from reports.selection import one_prompt_per_category, typical_subjects
from reports.shots import Shot

CAPTION = ("ip", "pc")
MAX_ABLATIONS = 2
GROUPS = {
    "prior": "The prior’s picture",
    "moa": "MoA: same prompt, same noise, a person added",
    "champion": "Champion: same prompt, same noise, a person added",
    "ablation": "Ablations, with the first person",
}


@dataclass(frozen=True)
class Column:
    """A column of the hero strip: a method, and the subject injected with its class word (None for the prior)."""

    method: MethodSummary
    tone: str
    subject: str | None
    word: str | None
    reference: Thumb | None


@dataclass(frozen=True)
class Hero:
    """Rows of one prompt each; `shots` are parallel to `columns`, None where there is no image."""

    columns: list[Column]
    rows: list[tuple[str, list[Shot | None]]]
    seed: int

    @property
    def groups(self) -> list[tuple[str, str, int]]:
        """(kind, what its columns show, number of columns) from left to right."""
        kinds = [column.method.kind if column.subject else "prior" for column in self.columns]
        return [(kind, GROUPS[kind], kinds.count(kind)) for kind in dict.fromkeys(kinds)]


def hero(album: Album, subjects: int = 3, prompts: int = 2) -> Hero | None:
    """The prior once, the shown method for several subjects, the ablations on the same base for the first of them.
    None where the shown method has no image."""
    rows = album.rows[album.rows["seed"] == album.seed]
    ablations = [m for m in album.evaluation.ablations if m.compared_with == album.shown.compared_with][:MAX_ABLATIONS]
    named = typical_subjects(rows, album.shown.method, subjects + (not ablations))
    if not named:
        return None
    columns = [_column(album, album.shown, subject) for subject in named]
    if album.prior and album.prior is not album.shown:
        columns.insert(0, Column(album.prior, album.tones[album.prior.method], None, None, None))
    columns += [_column(album, method, named[0]) for method in ablations if method is not album.shown]
    of_shown = rows[rows["method"] == album.shown.method]
    chosen = one_prompt_per_category(of_shown, album.prompts(of_shown), prompts)
    return Hero(columns, [_row(album, columns, named[0], prompt) for prompt in chosen], album.seed)


def _column(album: Album, method: MethodSummary, subject: str) -> Column:
    word = album.rows.loc[album.rows["subject"] == subject, "word"].iloc[0]
    return Column(method, album.tones[method.method], subject, word, album.reference(subject))


def _row(album: Album, columns: list[Column], first: str, prompt: str) -> tuple[str, list[Shot | None]]:
    """The prior's image is the same for every subject of a word; the first one's row stands for it."""
    shots = [
        album.at(column.method.method, column.subject or first, prompt, album.seed, HERO_EDGE, CAPTION)
        for column in columns
    ]
    return next((shot.prompt for shot in shots if shot), album.prompt(prompt).text), shots
