"""Grids of images: subjects x prompts, and one grid for each question of the ablations (appendix B of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

from reports.album import GRID_EDGE, Album, PromptName
from reports.evaluation_format import MethodSummary
from reports.images import Thumb
from reports.selection import spread
from reports.shots import Shot
from reports.tables import ComparisonRow, comparison_rows

SMALL_GRID_EDGE, ABLATION_EDGE = 104, 200
MANY_SHOTS = 500  # beyond this a grid uses the smaller thumbnails
CAPTION = ("ip", "pc")
QUESTIONS = {
    "no_moa": "With and without the MoA layers",
    "no_spacetime": "With and without the spacetime encoding",
    "base": "Another base checkpoint",
}


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
    """One question: `rows` are (subject, prompt, reference, shots), shots parallel to `methods`, None where there is no
    image. `comparison` is MoA minus the ablation, on another base MoA minus the prior there; None where nobody compared
    them."""

    title: str
    methods: list[MethodSummary]
    rows: list[tuple[str, str, Thumb, list[Shot | None]]]
    comparison: ComparisonRow | None


def grid(album: Album) -> Grid:
    """All subjects x all prompts at one seed, every method in each cell; thinned evenly when it would be too large."""
    rows = album.rows[album.rows["seed"] == album.seed]
    all_subjects, all_prompts = album.subjects(rows), album.prompts(rows)
    methods = album.evaluation.methods
    fit = album.room // len(methods)
    prompts = spread(all_prompts, max(fit // len(all_subjects), 8))
    subjects = spread(all_subjects, max(fit // len(prompts), 1))
    edge = GRID_EDGE if len(methods) * len(prompts) * len(subjects) <= MANY_SHOTS else SMALL_GRID_EDGE
    words = dict(zip(rows["subject"], rows["word"], strict=True))
    table = []
    for subject in subjects:
        cells = [
            [album.at(m.method, subject, prompt, album.seed, edge, CAPTION) for m in methods] for prompt in prompts
        ]
        kept = [[shot for shot in cell if shot] for cell in cells]
        table.append((subject, words[subject], album.reference(subject), kept))
    names = [album.prompt(prompt) for prompt in prompts]
    return Grid(methods, names, table, album.seed, len(all_prompts), len(all_subjects))


def ablation_grids(album: Album) -> list[AblationGrid]:
    """One grid for each ablation with images, the one without MoA layers first."""
    made = [_ablation_grid(album, ablation) for ablation in album.evaluation.ablations]
    return [grid for grid in made if grid]


def _ablation_grid(album: Album, ablation: MethodSummary, count: int = 4) -> AblationGrid | None:
    """Same subject, prompt and seed in each row: the prior and MoA, then the ablation, beside its own prior where its
    base is another."""
    evaluation, moa = album.evaluation, album.shown
    other_base = ablation.compared_with not in (None, moa.compared_with)
    named = [album.prior, moa, evaluation.method(ablation.compared_with) if other_base else None, ablation]
    methods = list({method.method: method for method in named if method}.values())
    rows = album.rows[(album.rows["seed"] == album.seed) & (album.rows["method"] == ablation.method)]
    subjects, prompts = album.subjects(rows), album.prompts(rows)
    if not subjects:
        return None
    table = []
    for index, prompt in enumerate(spread(prompts, count)):
        subject = subjects[index % len(subjects)]
        shots = [album.at(m.method, subject, prompt, album.seed, ABLATION_EDGE) for m in methods]
        text = next((shot.prompt for shot in shots if shot), prompt)
        table.append((subject, text, album.reference(subject), shots))
    compared = next((row for row in comparison_rows(evaluation) if row.method == ablation.method), None)
    question = QUESTIONS.get("base" if other_base else ablation.role or "", f"MoA beside “{ablation.label}”")
    return AblationGrid(question, methods, table, compared)
