"""All images of one evaluation, by key: what the sections that show pictures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.images import Thumb, Thumbnails, absent
from reports.run_folder import Evaluation
from reports.selection import in_order
from reports.shots import Shot, measures, tones

HERO_EDGE, GRID_EDGE = 320, 160  # pixels of large and ordinary thumbnails
CAPTION = ("ip", "pc", "context_change_outside")


@dataclass(frozen=True)
class PromptName:
    """A prompt as a heading: its id, category and text with the class word left open."""

    id: str
    category: str
    text: str


class Album:
    """The images of `rows`, which has one row per image; `thumbs` is shared by all evaluations of a page.

    `room` is how many shots the grid of this evaluation may hold.
    """

    def __init__(self, evaluation: Evaluation, rows: pd.DataFrame, thumbs: Thumbnails, room: int) -> None:
        self.evaluation, self.rows, self.thumbs, self.room = evaluation, rows, thumbs, room
        self.tones = tones(evaluation.methods)
        self.shown, self.prior = evaluation.shown, evaluation.prior
        self.seed = int(rows["seed"].min())
        suite = evaluation.suite
        self._texts = {prompt.id: prompt.text for prompt in suite.prompts} if suite else {}
        self._labels = {method.method: method.label for method in evaluation.methods}
        self._rows = {(row.method, row.subject, row.prompt_id, row.seed): row for row in rows.itertuples(index=False)}

    def at(
        self, method: str, subject: str, prompt: str, seed: int, edge: int, columns: Sequence[str] = CAPTION
    ) -> Shot | None:
        """The shot of that key, its thumbnail at most `edge` pixels, or None where no such image was asked for."""
        row = self.row(method, subject, prompt, seed)
        return None if row is None else self.shot(row, row.subject, edge, columns, row.category)

    def row(self, method: str, subject: str, prompt: str, seed: int) -> Any:
        """The row of that key, or None."""
        return self._rows.get((method, subject, prompt, seed))

    def reference(self, subject: str, edge: int = GRID_EDGE) -> Thumb:
        """The reference image of a subject, as the model saw it."""
        return self.thumbs.thumb(self.evaluation.folder / "references" / f"{subject}.png", edge)

    def subjects(self, rows: pd.DataFrame) -> list[str]:
        """The subjects of some rows."""
        return in_order(rows, "subject")

    def prompts(self, rows: pd.DataFrame) -> list[str]:
        """The prompt ids of some rows, in the order of the suite."""
        return in_order(rows, "prompt_id", list(self._texts))

    def prompt(self, prompt_id: str) -> PromptName:
        """The heading of a prompt; without suite.json its text is that of the first row."""
        row = self.rows[self.rows["prompt_id"] == prompt_id].iloc[0]
        return PromptName(prompt_id, row["category"], self._texts.get(prompt_id, row["prompt"]).replace("{word}", "…"))

    def prompt_for(self, prompt_id: str, subject: str) -> str | None:
        """The prompt as it was asked for a subject, or None where no such image is known."""
        row = next((r for (_, who, what, _), r in self._rows.items() if who == subject and what == prompt_id), None)
        return None if row is None else row.prompt

    def shot(self, row: Any, subject: str, edge: int, columns: Sequence[str], category: str = "") -> Shot:
        """The shot of a row of `scores` or `pairs`; `subject` is what the page calls the people in it."""
        has_file = isinstance(row.image, str) and row.image
        path = self.evaluation.folder / row.image if has_file else None
        return Shot(
            suite=self.evaluation.folder.name,
            method=row.method,
            label=self._labels.get(row.method, row.method),
            tone=self.tones.get(row.method, "ablation-3"),
            subject=subject,
            prompt_id=row.prompt_id,
            category=category,
            prompt=row.prompt,
            seed=int(row.seed),
            outcome=row.outcome,
            measures=measures(row, columns),
            image=self.thumbs.thumb(path, edge) if path else absent("image missing"),
        )
