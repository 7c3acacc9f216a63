"""Training curves from metrics.jsonl: what was minimised, how held-out people fare, where routers sent the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from reports.charts import Chart
from reports.formats import Metric
from reports.lines import Line, line_chart

LABELS = {
    "loss": "total loss",
    "loss_masked": "masked noise loss",
    "loss_router": "router loss",
    "loss_object": "object loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "router_background": "prior share, background",
    "router_foreground": "prior share, foreground",
    "samples_per_second": "samples per second",
    "validation_loss": "noise error, held out",
    "validation_masked": "with their own subject",
    "validation_masked_wrong": "with another picture's subject",
}


@dataclass(frozen=True)
class Panel:
    """One chart with its legend: (label, tone, first value, last value) for each line."""

    title: str
    note: str
    chart: Chart
    legend: list[tuple[str, str, float, float]]


def panels(metrics: list[Metric]) -> list[Panel]:
    """The charts that have at least one point."""
    wanted = [
        (
            "Loss",
            "Means over ranks and the steps between two lines.",
            [("loss", "moa"), ("loss_masked", "ablation")],
            None,
        ),
        (
            "Held-out people",
            "Noise error on their pixels: an adapter that uses its subject has the first line below the second.",
            [("validation_masked", "moa"), ("validation_masked_wrong", "ablation")],
            None,
        ),
        (
            "Held-out pictures",
            "Noise error on the whole picture, at noise that never changes.",
            [("validation_loss", "moa")],
            None,
        ),
        (
            "Router",
            "Mean share of the prior expert: should rise on the background and be lower on the person.",
            [("router_background", "prior"), ("router_foreground", "moa")],
            (0.0, 1.0),
        ),
        (
            "Router and object loss",
            "Before their weights.",
            [("loss_router", "moa"), ("loss_object", "ablation")],
            None,
        ),
        ("Gradient norm", "Before clipping.", [("grad_norm", "moa")], None),
        ("Speed", "Samples per second over all ranks.", [("samples_per_second", "moa")], None),
        ("Learning rate", "", [("lr", "moa")], None),
    ]
    made = [_panel(metrics, *row) for row in wanted]
    return [panel for panel in made if panel]


def _panel(
    metrics: list[Metric], title: str, note: str, series: list[tuple[str, str]], limits: tuple[float, float] | None
) -> Panel | None:
    lines = []
    for name, tone in series:
        points = [(metric.step, getattr(metric, name)) for metric in metrics if getattr(metric, name) is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(Line(LABELS[name], tone, xs, ys))
    low, high = limits or (None, None)
    chart = line_chart(f"{title} over training steps", lines, low=low, high=high)
    legend = [(line.label, line.tone, line.ys[0], line.ys[-1]) for line in lines]
    return Panel(title, note, chart, legend) if chart else None
