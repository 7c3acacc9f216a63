"""The routers (figure 6 of the paper): where each layer listens to the prior at each step, as maps and as means."""

from __future__ import annotations

from dataclasses import dataclass

from reports.album import HERO_EDGE, Album
from reports.charts import Chart, spans
from reports.evaluation_format import RouterExample, RouterMaps
from reports.images import Thumb
from reports.lines import Line, line_chart

PARTS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up", "attn1": "self", "attn2": "cross"}
LEFT_OUT = ("attentions", "transformer_blocks")
TILE, HEIGHT = 76, 720  # pixels: a map in the sheet, and the sheet as a whole, are at most this large
TONES, NAMES = ("prior", "moa"), ("background", "person")


@dataclass(frozen=True)
class Example:
    """An image and the sprite of its router maps: columns are steps, rows are layers. `shares` says how much of the
    background and of the person came from the prior, in the mean over the maps, or ""."""

    subject: str
    prompt: str
    seed: int
    shares: str
    reference: Thumb
    image: Thumb
    sprite: Thumb


@dataclass(frozen=True)
class RouterView:
    """`layers` and `steps` name the rows and columns of every sprite, `opened` is the map to begin with, as (layer,
    step); `charts` show the means over `n` images."""

    layers: list[str]
    steps: list[str]
    opened: tuple[int, int]
    n: int
    examples: list[Example]
    charts: list[Chart]

    @property
    def sheet_width(self) -> int:
        """How wide a sprite is shown, pixels."""
        return len(self.steps) * min(TILE, HEIGHT // len(self.layers))


def router_view(album: Album, maps: RouterMaps) -> RouterView:
    """Everything the page shows of router.json."""
    folder, thumbs = album.evaluation.folder, album.thumbs
    layers = [short_name(layer.name) for layer in maps.layers]
    examples = [
        Example(
            example.subject,
            album.prompt_for(example.prompt_id, example.subject) or example.prompt_id,
            example.seed,
            _shares(example),
            album.reference(example.subject),
            thumbs.thumb(folder / example.image, HERO_EDGE),
            thumbs.router_maps(folder / example.sprite, len(maps.steps), len(maps.layers)),
        )
        for example in maps.examples
    ]
    charts = [chart for chart in (_by_layer(maps, layers), _by_step(maps)) if chart]
    return RouterView(layers, [f"{step:g}" for step in maps.steps], clearest(maps), maps.n, examples, charts)


def _shares(example: RouterExample) -> str:
    if example.background is None or example.foreground is None:
        return ""
    return f"prior share {example.background:.2f} of the background, {example.foreground:.2f} of the person"


def clearest(maps: RouterMaps) -> tuple[int, int]:
    """The layer and step whose router tells person and background apart most, so that a reader sees one at once."""
    places = [(layer, step) for layer in range(len(maps.layers)) for step in range(len(maps.steps))]

    def gap(place: tuple[int, int]) -> float:
        layer, step = place
        background, person = maps.background[layer][step], maps.foreground[layer][step]
        return background - person if background is not None and person is not None else -1.0

    return max(places, key=gap)


def short_name(layer: str) -> str:
    """A U-Net layer as people name it: "up 1.0 cross" for up_blocks.1.attentions.0.transformer_blocks.0.attn2; other
    names stay."""
    parts = layer.split(".")
    if parts[0] not in PARTS or parts[-1] not in PARTS:
        return layer
    places = [part for part in parts[1:-1] if part not in LEFT_OUT]
    shown = places[:-1] if places[-1:] == ["0"] else places  # mostly an attention has one transformer block
    return " ".join(filter(None, [PARTS[parts[0]], ".".join(shown), PARTS[parts[-1]]]))


def _by_layer(maps: RouterMaps, layers: list[str]) -> Chart | None:
    rows = []
    for name, background, foreground in zip(layers, maps.background, maps.foreground, strict=True):
        means = _mean(background), _mean(foreground)
        if means[0] is not None and means[1] is not None:
            rows.append((name, means[0], means[1]))
    return spans("Prior share by layer, mean over the steps", rows, TONES, NAMES) if rows else None


def _by_step(maps: RouterMaps) -> Chart | None:
    lines = []
    for name, tone, table in zip(NAMES, TONES, (maps.background, maps.foreground), strict=True):
        means = [_mean(column) for column in zip(*table, strict=True)]
        points = [(number, mean) for number, mean in enumerate(means, 1) if mean is not None]
        if points:
            lines.append(Line(name, tone, *zip(*points, strict=True)))
    title = "Prior share by step, mean over the layers"
    return line_chart(title, lines, x="denoising step, 1 is noise", low=0.0, high=1.0)


def _mean(values: list[float | None] | tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
