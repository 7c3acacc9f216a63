"""The pictures of one evaluation, arranged: hero strip, subject x prompt grid, ablation grid, galleries, failures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.formats import MethodSummary
from reports.images import Thumb, Thumbnails
from reports.run_folder import Evaluation
from reports.selection import failures, galleries, in_order, one_prompt_per_category, spread, typical_subjects
from reports.shots import Shot, ShotMaker, tones

HERO_EDGE, GRID_EDGE, SMALL_GRID_EDGE = 320, 160, 112
GRID_SHOTS = 1800  # at SMALL_GRID_EDGE about 4 kB each: the page stays under 15 MB
MANY_SHOTS = 500  # beyond this a grid uses the smaller thumbnails


@dataclass(frozen=True)
class Column:
    """A column of the hero strip: a method, and the subject injected (None for the prior)."""

    method: MethodSummary
    tone: str
    subject: str | None
    reference: Thumb | None


@dataclass(frozen=True)
class PromptName:
    """A prompt as a heading: its id, category and text with the class word left open."""

    id: str
    category: str
    text: str


@dataclass(frozen=True)
class Hero:
    """Rows of one prompt each; `shots` are parallel to `columns`, None where there is no image."""

    columns: list[Column]
    rows: list[tuple[str, list[Shot | None]]]
    seed: int


@dataclass(frozen=True)
class Grid:
    """`rows` are (subject, word, reference, cells); a cell holds one shot per method, cells are parallel to
    `prompts`."""

    methods: list[MethodSummary]
    prompts: list[PromptName]
    rows: list[tuple[str, str, Thumb, list[list[Shot]]]]
    seed: int
    all_prompts: int
    all_subjects: int

    def place(self, method: str) -> int:
        """The position of a method among `methods`."""
        return next(index for index, known in enumerate(self.methods) if known.method == method)

    @property
    def partial(self) -> bool:
        """Whether some subjects or prompts were left out for size."""
        return len(self.prompts) < self.all_prompts or len(self.rows) < self.all_subjects


@dataclass(frozen=True)
class AblationGrid:
    """Rows of one subject and prompt each; `shots` are parallel to `methods`, None where there is no image."""

    methods: list[MethodSummary]
    rows: list[tuple[str, str, Thumb, list[Shot | None]]]
    seed: int


@dataclass(frozen=True)
class Card:
    """A gallery item: reference, the prior's image at that prompt and seed (if there is one), and the image itself."""

    reference: Thumb
    prior: Shot | None
    shot: Shot


class Pictures:
    """Arranges the images of one evaluation; `thumbs` is shared by all evaluations of a page."""

    def __init__(self, evaluation: Evaluation, rows: pd.DataFrame, thumbs: Thumbnails) -> None:
        self.evaluation, self.rows = evaluation, rows
        self.make = ShotMaker(evaluation, rows, thumbs)
        self.tones = tones(evaluation.methods)
        self.prior, self.moa, self.ablation = (evaluation.first(kind) for kind in ("prior", "moa", "ablation"))
        self.shown = self.moa or evaluation.methods[-1]  # the method that galleries and rules look at
        self.seed = int(rows["seed"].min())
        suite = evaluation.suite
        self.texts = {prompt.id: prompt.text for prompt in suite.prompts} if suite else {}
        self.prompt_order = list(self.texts)

    def prompt(self, prompt_id: str) -> PromptName:
        """The heading of a prompt; without suite.json its text is that of the first row."""
        row = self.rows[self.rows["prompt_id"] == prompt_id].iloc[0]
        return PromptName(prompt_id, row["category"], self.texts.get(prompt_id, row["prompt"]).replace("{word}", "…"))

    def hero(self, subjects: int = 3, prompts: int = 2) -> Hero:
        """The prior once, the method for several subjects, the first ablation for the first; all at one seed."""
        rows = self.rows[self.rows["seed"] == self.seed]
        named = typical_subjects(rows, self.shown.method, subjects + (self.ablation is None))
        if not named:
            return Hero([], [], self.seed)
        columns = [self._column(self.shown, subject) for subject in named]
        if self.prior and self.prior is not self.shown:
            columns.insert(0, Column(self.prior, self.tones[self.prior.method], None, None))
        if self.ablation and self.ablation is not self.shown:
            columns.append(self._column(self.ablation, named[0]))
        chosen = one_prompt_per_category(rows[rows["method"] == self.shown.method], self.prompt_order, prompts)
        return Hero(columns, [self._hero_row(columns, named, prompt) for prompt in chosen], self.seed)

    def _column(self, method: MethodSummary, subject: str) -> Column:
        return Column(method, self.tones[method.method], subject, self.make.reference(subject, GRID_EDGE))

    def _hero_row(self, columns: list[Column], named: list[str], prompt: str) -> tuple[str, list[Shot | None]]:
        subjects = [column.subject or named[0] for column in columns]
        shots = [
            self.make.at(c.method.method, s, prompt, self.seed, HERO_EDGE)
            for c, s in zip(columns, subjects, strict=True)
        ]
        text = next((shot.prompt for shot in shots if shot), self.prompt(prompt).text)
        return text, shots

    def grid(self) -> Grid:
        """All subjects x all prompts at one seed, every method in each cell; thinned evenly when it would be too
        large."""
        rows = self.rows[self.rows["seed"] == self.seed]
        all_subjects, all_prompts = in_order(rows, "subject"), in_order(rows, "prompt_id", self.prompt_order)
        methods = self.evaluation.methods
        fit = GRID_SHOTS // len(methods)
        prompts = spread(all_prompts, max(fit // len(all_subjects), 8))
        subjects = spread(all_subjects, max(fit // len(prompts), 1))
        edge = GRID_EDGE if len(methods) * len(prompts) * len(subjects) <= MANY_SHOTS else SMALL_GRID_EDGE
        words = dict(zip(rows["subject"], rows["word"], strict=True))
        table = []
        for subject in subjects:
            cells = [[self.make.at(m.method, subject, prompt, self.seed, edge) for m in methods] for prompt in prompts]
            kept = [[shot for shot in cell if shot] for cell in cells]
            table.append((subject, words[subject], self.make.reference(subject, GRID_EDGE), kept))
        names = [self.prompt(prompt) for prompt in prompts]
        return Grid(methods, names, table, self.seed, len(all_prompts), len(all_subjects))

    def ablation_grid(self, count: int = 6) -> AblationGrid | None:
        """With and without the MoA layers: same subject, prompt and seed in each row. None without an ablation."""
        if self.ablation is None:
            return None
        methods = self.evaluation.methods
        rows = self.rows[(self.rows["seed"] == self.seed) & (self.rows["method"] == self.ablation.method)]
        subjects, prompts = in_order(rows, "subject"), in_order(rows, "prompt_id", self.prompt_order)
        if not subjects:
            return None
        pairs = [(subjects[index % len(subjects)], prompt) for index, prompt in enumerate(spread(prompts, count))]
        table = []
        for subject, prompt in pairs:
            shots = [self.make.at(m.method, subject, prompt, self.seed, HERO_EDGE // 2) for m in methods]
            text = next((shot.prompt for shot in shots if shot), prompt)
            table.append((subject, text, self.make.reference(subject, GRID_EDGE), shots))
        return AblationGrid(methods, table, self.seed)

    def galleries(self, count: int = 4) -> dict[str, list[Card]]:
        """Best, median, worst and random of the shown method, as cards; without a scored image, nothing."""
        found = galleries(self.rows, self.shown.method, count)
        return {name: [self._card(row) for row in rows.itertuples()] for name, rows in found.items() if len(rows)}

    def failures(self, count: int = 8) -> list[tuple[MethodSummary, int, list[Card]]]:
        """For each method with unscored images: how many, and some of them."""
        found = []
        for method in sorted(self.evaluation.methods, key=lambda m: m is not self.shown):
            total = int(((self.rows["method"] == method.method) & (self.rows["outcome"] != "scored")).sum())
            if total:
                rows = failures(self.rows, method.method, count)
                found.append((method, total, [self._card(row) for row in rows.itertuples()]))
        return found

    def _card(self, row: object) -> Card:
        method, subject, prompt, seed = row.method, row.subject, row.prompt_id, int(row.seed)  # type: ignore[attr-defined]
        shot = self.make.at(method, subject, prompt, seed, GRID_EDGE)
        assert shot is not None  # the row came from the same table
        has_prior = self.prior is not None and self.prior.method != method
        prior = self.make.at(self.prior.method, subject, prompt, seed, GRID_EDGE) if has_prior and self.prior else None
        return Card(self.make.reference(subject, GRID_EDGE), prior, shot)
