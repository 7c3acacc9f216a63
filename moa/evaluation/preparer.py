"""Who cuts the people of a suite's photographs out of them, and how the results say it.

A model that was trained on a segmentation model's masks is evaluated on those masks, too: another preparer's crops are
not what it learnt from. Figures of different preparers do not compare (`moa.evaluation.yardstick`). It works on the
CPU, whatever the evaluation has, so that its crops are the same: there are few.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import facenet_pytorch

from moa.evaluation.suite import FolderSubjects, Suite
from moa.models import folder_digest
from moa.preparation import PortraitPreparer, SegmentationPreparer, SubjectPreparer

MTCNN_WEIGHTS = Path(facenet_pytorch.__file__).parent / "data"


def load_preparer(segmenter: Path | None) -> SubjectPreparer:
    """A Mask2Former in the folder `segmenter`; without one the pipeline's own face finder and silhouette. Raises
    `PreparerWeightsError` naming the folder."""
    return SegmentationPreparer(segmenter) if segmenter else PortraitPreparer()


def describe_preparer(suite: Suite, segmenter: Path | None) -> dict[str, Any] | None:
    """Name, and digest of the weights, of what `load_preparer` loads: JSON-able, written into the results. None where
    nobody is cut out: people of shards are so already."""
    if not isinstance(suite.subjects, FolderSubjects):
        return None
    kind = SegmentationPreparer if segmenter else PortraitPreparer
    return {"name": kind.__name__, "weights": folder_digest(segmenter or MTCNN_WEIGHTS)}
