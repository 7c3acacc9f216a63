"""Real photographs of people beside the project; CelebA's licence keeps them out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CELEBA = DATA / "celeba-15"
needs_photographs = pytest.mark.skipif(
    not CELEBA.is_dir(), reason=f"the 15 CelebA photographs are not at {CELEBA} (non-commercial licence)"
)
