"""What was kept and what was dropped, in numbers: the statistics of a shard, and quality.json over all shards.

Histograms have fixed edges, so shards add up without being read again: `counts[i]` is the number of values in
`[edges[i], edges[i+1])`; values beyond the last edge are in the last bin.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from typing import Any

from preprocessing.samples import Sample

EDGES: dict[str, list[float]] = {
    "subjects_per_image": list(range(1, 10)),
    "subject_area": [round(0.05 * i, 2) for i in range(21)],
    "face_height": [round(0.05 * i, 2) for i in range(21)],
    "caption_words": list(range(0, 42, 2)),
    "brightness": list(range(0, 257, 16)),
}
DUPLICATE_EXAMPLES = 20


class Statistics:
    """Counts and histograms of samples; adds up over samples and over shards."""

    def __init__(self) -> None:
        self.histograms = {name: [0] * (len(edges) - 1) for name, edges in EDGES.items()}
        self.counts: dict[str, Counter[str]] = {"words": Counter(), "captions": Counter(), "subjects": Counter()}

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        metadata = sample.metadata
        subjects = metadata["subjects"]
        self._value("subjects_per_image", len(subjects))
        self._value("caption_words", len(metadata["caption"].split()))
        self._value("brightness", sample.brightness)
        self.counts["captions"]["repaired" if metadata["caption_repaired"] else "as_given"] += 1
        for subject in subjects:
            self._value("subject_area", subject["area"])
            self.counts["words"][subject["word"].lower()] += 1
            self.counts["subjects"]["with_face" if subject["face"] else "without_face"] += 1
            if subject["face"]:
                _, top, _, bottom = subject["face"]["box"]
                self._value("face_height", (bottom - top) / sample.side)

    def merge(self, values: dict[str, Any]) -> None:
        """Add what `as_json` of another shard gave."""
        for name, counts in self.histograms.items():
            self.histograms[name] = [a + b for a, b in zip(counts, values["histograms"][name], strict=True)]
        for name, counter in self.counts.items():
            counter.update(values["counts"][name])

    def as_json(self) -> dict[str, Any]:
        """Plain values for a shard's JSON."""
        return {"histograms": self.histograms, "counts": {name: dict(counter) for name, counter in self.counts.items()}}

    def _value(self, name: str, value: float) -> None:
        edges = EDGES[name]
        place = bisect.bisect_right(edges, value) - 1
        self.histograms[name][min(max(place, 0), len(edges) - 2)] += 1


def summarize(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """quality.json from the shards' JSON files."""
    total = Statistics()
    for shard in shards:
        total.merge(shard["statistics"])
    reasons = Counter(line["reason"] for shard in shards for line in shard["rejected"])
    samples = sum(shard["samples"] for shard in shards)
    return {
        "images": samples + sum(reasons.values()),
        "samples": samples,
        "rejected": {"total": sum(reasons.values()), "by_reason": dict(reasons)},
        "histograms": {name: {"edges": EDGES[name], "counts": counts} for name, counts in total.histograms.items()},
        **{name: dict(counter) for name, counter in total.counts.items()},
        "duplicates": duplicates(shards),
    }


def duplicates(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Images with equal bytes; `across_splits` counts groups in both splits, which leak training data."""
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for shard in shards:
        for name, digest in shard["sources"]:
            places[digest].append((shard["split"], name))
    groups = sorted((group for group in places.values() if len(group) > 1), key=lambda group: group[0][1])
    return {
        "groups": len(groups),
        "images": sum(len(group) for group in groups),
        "across_splits": sum(len({split for split, _ in group}) > 1 for group in groups),
        "examples": [[name for _, name in group] for group in groups[:DUPLICATE_EXAMPLES]],
    }
