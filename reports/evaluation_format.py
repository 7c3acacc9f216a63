"""An evaluation folder as frozen pydantic models: what a report shows of suite.json, summary.json and router.json of
datasets/FORMAT.md section 6, format `moa-evaluation/5`.

Units: IP 0..1, PC -1..1, rates, shares and changes 0..1; `low` and `high` bound the 95 % interval over
subjects (over prompts for a prior's own statistics). A measurement nobody took is None.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from reports.formats import Estimate, FileModel

FORMAT = "moa-evaluation/5"

Outcome = Literal["scored", "no_face", "no_reference_face", "no_reference", "missing", "unreadable"]
PairOutcome = Literal["scored", "too_few_faces", "no_reference_face", "no_reference", "missing", "unreadable"]
Verdict = Literal["yes", "no", "undecided", "unmeasured"]
Kind = Literal["prior", "moa", "champion", "ablation"]


def inside(value: str) -> str:
    """A path that stays in the evaluation folder. Raises `ValueError` for one that leaves it."""
    if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
        raise ValueError(f"{value!r} leaves the evaluation folder")
    return value


InsidePath = Annotated[str, AfterValidator(inside)]


class Statistic(Estimate):
    """A mean over `n` distinct images (of a comparison: pairs of images), None for none, with its 95 % interval, None
    where there are too few identities for one."""

    n: int = Field(ge=0)


class Breakdown(FileModel):
    """The scores of one method on one category, prompt, subject or face size."""

    n: int = Field(ge=0)
    ip: Statistic | None = None
    pc: Statistic | None = None
    followed: Statistic | None = None
    item_shown: Statistic | None = None
    scene_shown: Statistic | None = None


class MethodSummary(FileModel):
    """All about one method: `n` distinct images that could be read, scores, and the scores again by category, prompt,
    subject and face size.

    `compared_with` is the prior on the same base (None for priors); `role` says which part an ablation lacks.
    """

    method: str
    label: str
    kind: Kind
    role: Literal["no_moa", "no_spacetime"] | None = None
    compared_with: str | None = None
    n: int = Field(ge=0)
    ip: Statistic
    pc: Statistic
    detection_rate: Statistic
    followed: Statistic | None = None
    item_shown: Statistic | None = None
    scene_shown: Statistic | None = None
    context_change_inside: Statistic | None = None
    context_change_outside: Statistic | None = None
    swap_change_inside: Statistic | None = None
    swap_change_outside: Statistic | None = None
    seed_change_inside: Statistic | None = None
    seed_change_outside: Statistic | None = None
    diversity_layout: Statistic | None = None
    diversity_content: Statistic | None = None
    by_category: dict[str, Breakdown] = {}
    by_subject: dict[str, Breakdown] = {}
    by_prompt: dict[str, Breakdown] = {}
    by_face_size: dict[str, Breakdown] = {}
    outcomes: dict[str, int] = {}


class UpperBound(FileModel):
    """IP of another photograph of the same person, over `n` people: what a perfect model would reach."""

    n: int = Field(ge=0)
    ip: Statistic


class Comparison(FileModel):
    """`after` minus `before`, paired by subject, prompt and seed; both are names of methods. `n` pairs of readable
    images; a statistic has its own, of those that have the measurement."""

    before: str
    after: str
    n: int = Field(ge=0)
    ip: Statistic | None = None
    pc: Statistic | None = None
    item_shown: Statistic | None = None
    scene_shown: Statistic | None = None
    context_change_outside: Statistic | None = None


class PairSummary(FileModel):
    """One method on images of two subjects. `leakage` is the similarity of a face to the other person, `assigned` and
    `two_faces` are shares of the images."""

    method: str
    label: str
    kind: Kind
    n: int = Field(ge=0)
    ip: Statistic | None = None
    pc: Statistic | None = None
    leakage: Statistic | None = None
    assigned: Statistic | None = None
    two_faces: Statistic | None = None
    outcomes: dict[str, int] = {}


class Measured(FileModel):
    """One side of a claim: a figure and what it is of. `unit` is None in summaries written before figures had one."""

    label: str
    unit: str | None = None
    n: int = Field(ge=0)
    mean: float
    low: float | None = None
    high: float | None = None


class ClaimTest(FileModel):
    """One comparison that a claim is judged by: a quantity with its interval over subjects, the bound it is held
    against and the side of it that is claimed. `unit` as in `Measured`."""

    quantity: str
    unit: str | None = None
    n: int = Field(ge=0)
    mean: float
    low: float | None = None
    high: float | None = None
    bound: float
    side: Literal["above", "below"]
    verdict: Verdict


class Claim(FileModel):
    """One claim of the paper. `undecided`: the interval of a test spans its bound. `unmeasured`: this suite says
    nothing about it, and `note` says why."""

    id: str
    claim: str
    measure: str
    criterion: str
    value: Measured | None = None
    against: Measured | None = None
    tests: list[ClaimTest] = []
    verdict: Verdict
    note: str = ""


class PublishedRow(FileModel):
    """A figure from the literature. Never measured here."""

    method: str
    ip: float | None = None
    pc: float | None = None
    source: str


class Provenance(FileModel):
    """What was evaluated, by which code and command. `preparer` cut people out of photographs, None where they come cut
    out, and in summaries written before it was named."""

    repo_id: str | None = None
    commit: str | None = None
    adapter_digest: str | None = None
    evaluators: dict[str, Any] = {}
    preparer: dict[str, Any] | None = None
    command: str | list[str] | None = None
    code_commit: str | None = None


class Unscored(FileModel):
    """An image, or a subject, that could not be scored, and why."""

    what: str
    why: str


class Environment(FileModel):
    """Where the run that wrote the summary ran: versions, devices, how images were sampled."""

    python: str | None = None
    packages: dict[str, str] = {}
    devices: list[str] = []
    threads: int | None = None
    precision: str | None = None
    scheduler: str | None = None
    expert_interval: int | None = None


class Summary(FileModel):
    """`evaluation/<suite>/summary.json`. `yardstick` is the same in two evaluations whose scores compare, None in
    summaries written before there was one: nobody can say."""

    format: Literal["moa-evaluation/5"]
    suite: str
    version: int | str
    yardstick: str | None = None
    methods: list[MethodSummary] = Field(min_length=1)
    upper_bound: UpperBound | None = None
    comparisons: list[Comparison] = []
    pairs: list[PairSummary] | None = None
    claims: list[Claim] = []
    published: list[PublishedRow] = []
    unscored: list[Unscored] = []
    provenance: Provenance = Provenance()
    environment: Environment = Environment()

    @model_validator(mode="after")
    def _consistent(self) -> Summary:
        names = [method.method for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"a method is there twice: {names}")
        for comparison in self.comparisons:
            unknown = {comparison.before, comparison.after} - set(names)
            if unknown:
                raise ValueError(f"comparisons name {sorted(unknown)}, which methods do not hold")
        return self


class SuitePrompt(FileModel):
    """`text` holds `{word}` where the class word of the subject goes."""

    id: str
    category: str
    text: str


class Suite(FileModel):
    """`evaluation/<suite>/suite.json`. Of its people only their number is shown."""

    name: str
    title: str | None = None
    prompts: list[SuitePrompt] = []
    seeds: list[int] = []
    images: dict[str, Any] = {}
    evaluators: dict[str, Any] = {}
    people: list[Any] = []
    published_pairs: list[PublishedRow] = []


class RouterLayer(FileModel):
    """One MoA layer: its name, and the side of its latent grid in cells."""

    name: str
    size: int | list[int] | None = None


class RouterExample(FileModel):
    """An image whose router maps were recorded; `image` and `sprite` are paths in the evaluation folder, `background`
    and `foreground` its mean prior shares over layers and steps."""

    subject: str
    prompt_id: str
    seed: int
    image: InsidePath
    sprite: InsidePath
    background: float | None = None
    foreground: float | None = None


class RouterMaps(FileModel):
    """`router.json`: mean prior share of each layer (rows) at each step (columns), and the sprites of some images."""

    layers: list[RouterLayer] = Field(min_length=1)
    steps: list[int | float] = Field(min_length=1)
    background: list[list[float | None]]
    foreground: list[list[float | None]]
    n: int = Field(ge=0)
    examples: list[RouterExample] = []

    @model_validator(mode="after")
    def _layers_by_steps(self) -> RouterMaps:
        for name in ("background", "foreground"):
            table = getattr(self, name)
            if len(table) != len(self.layers) or any(len(row) != len(self.steps) for row in table):
                raise ValueError(f"{name} is not {len(self.layers)} layers x {len(self.steps)} steps")
        return self
