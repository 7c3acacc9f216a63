"""Training curves: which series stand in which chart, and what their legends say.

pytest tests/reports/test_training.py
"""

from __future__ import annotations

import pytest

from reports.formats import Metric
from reports.training import panels

METRICS = [
    Metric(step=5, loss=0.9, loss_masked=0.8, router_background=0.5),
    Metric(step=10, validation_masked=0.3, validation_masked_wrong=0.4),
    Metric(step=15, loss=0.7, loss_masked=0.6),
    Metric(step=20, validation_masked=0.2, validation_masked_wrong=0.5),
]


def test_a_chart_is_drawn_of_the_lines_that_measured_its_series() -> None:
    """Validations are no points of other curves."""
    found = {panel.title: panel for panel in panels(METRICS)}
    assert list(found) == ["Loss", "Held-out people", "Router"]
    assert found["Loss"].chart.rows[1:] == [
        ["total loss", 5, pytest.approx(0.9)],
        ["total loss", 15, pytest.approx(0.7)],
        ["masked noise loss", 5, pytest.approx(0.8)],
        ["masked noise loss", 15, pytest.approx(0.6)],
    ]


def test_a_legend_says_whose_line_it_is_and_where_it_begins_and_ends() -> None:
    found = {panel.title: panel.legend for panel in panels(METRICS)}
    assert found["Held-out people"] == [
        ("with their own subject", "moa", 0.3, 0.2),
        ("with another picture's subject", "ablation", 0.4, 0.5),
    ]
    assert found["Router"] == [("prior share, background", "prior", 0.5, 0.5)]


def test_nothing_measured_is_nothing_drawn() -> None:
    assert panels([]) == panels([Metric(step=1)]) == []
