"""Data quality: what the preprocessing kept and dropped, from the shard manifest, quality.json and rejected.jsonl.

quality.json is free in what it counts, so it is shown by shape: a number is a fact, a mapping of names to numbers a
bar list (a fact, if it has one name), and `{"edges": [n+1 numbers], "counts": [n numbers]}` a histogram. Other shapes
are passed over, and so is what the manifest counts already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reports.charts import Chart, histogram
from reports.run_folder import Dataset

MAX_BARS = 12
COUNTED = ("images", "samples", "rejected")  # of quality.json; the manifest and rejected.jsonl say the same

REASONS = {
    "unreadable": "the file cannot be decoded",
    "too_small": "smaller than the dataset's resolution",
    "too_large": "too large to decode safely",
    "no_person": "no person found",
    "no_face": "no face found",
    "no_word": "no class word in the caption",
    "word_mask_mismatch": "words and person masks do not match",
    "truncated_caption": "the caption is too long for the tokenizer",
    "bad_annotation": "the annotation file is wrong",
}

UNITS = {  # what the bars of a histogram count, and by what
    "Subjects per image": "Images, by number of subjects: a bar begins at its number.",
    "Subject area": "Subjects, by their share of the image's pixels.",
    "Face height": "Faces, by their share of the image's height.",
    "Caption words": "Images, by words of the caption.",
    "Brightness": "Images, by mean brightness, 0 to 255.",
}


@dataclass(frozen=True)
class Bars:
    """A bar list: (name, count, share of the longest bar 0..1); `left_out` bars beyond MAX_BARS are not drawn."""

    title: str
    rows: list[tuple[str, float, float]]
    left_out: int = 0


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values fell in `[edges[i], edges[i+1])`."""

    edges: list[float]
    counts: list[float]


def rejections(dataset: Dataset) -> Bars:
    """Dropped images by reason, the commonest first."""
    named = {
        f"{reason}: {REASONS[reason]}" if reason in REASONS else reason: n
        for reason, n in dataset.rejected.most_common()
    }
    return _bars("Dropped images by reason", named)


def facts(quality: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The plain numbers of quality.json and the countings of one name, nested ones with their path as name."""
    found: list[tuple[str, float]] = []
    for title, value in _walk(quality):
        if isinstance(value, int | float):
            found.append((title, value))
        elif isinstance(value, dict) and len(value) == 1:
            found += [(f"{title}, {_words(name)}", n) for name, n in value.items()]
    return found


def bar_lists(quality: Mapping[str, Any]) -> list[Bars]:
    """The countings of quality.json that have something to compare."""
    found = [(title, value) for title, value in _walk(quality) if isinstance(value, dict) and len(value) > 1]
    return [_bars(title, {_words(name): n for name, n in value.items()}) for title, value in found]


def histograms(quality: Mapping[str, Any]) -> list[tuple[Chart, str]]:
    """The chart of each histogram of quality.json, with what it counts ("" where nobody says); an empty one is left
    out."""
    found = [(title, value) for title, value in _walk(quality) if isinstance(value, Histogram)]
    charts = [histogram(title, value.edges, value.counts) for title, value in found]
    return [(chart, UNITS.get(chart.title, "")) for chart in charts if chart]


def _walk(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float | dict[str, float] | Histogram]]:
    """Numbers, countings and histograms with their titles."""
    for name, part in value.items():
        if not path and name in COUNTED:
            continue
        title = f"{path}, {_words(name)}" if path else _words(name).capitalize()
        if _is_number(part):
            yield title, part
        elif not isinstance(part, dict) or not part:
            continue
        elif _is_histogram(part):
            yield _words(name).capitalize(), Histogram(part["edges"], part["counts"])
        elif all(_is_number(item) for item in part.values()):
            yield title, dict(part)
        else:
            yield from _walk(part, title)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_histogram(value: Mapping[str, Any]) -> bool:
    edges, counts = value.get("edges"), value.get("counts")
    if not (isinstance(edges, list) and isinstance(counts, list) and len(edges) == len(counts) + 1):
        return False
    return all(_is_number(item) for item in [*edges, *counts])


def _bars(title: str, counts: Mapping[str, float]) -> Bars:
    longest = max((abs(n) for n in counts.values()), default=0) or 1
    rows = [(name, n, abs(n) / longest) for name, n in sorted(counts.items(), key=lambda pair: -pair[1])]
    return Bars(title, rows[:MAX_BARS], max(len(rows) - MAX_BARS, 0))


def _words(name: str) -> str:
    return name.replace("_", " ")
