"""The tables of an evaluation folder, `<name>.parquet` and `<name>.csv`: scores, swaps and pairs are made, written and
read in one way. What their columns mean: datasets/FORMAT.md, section 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moa.errors import ScoresError
from moa.evaluation.files import write_file


@dataclass(frozen=True)
class ScoreTable:
    """A table: `columns` in their order, of which `numbers` are floats, null where nothing was measured; `key` names a
    row. `later` are columns that tables of earlier versions lack: there they are read as null."""

    name: str
    columns: Sequence[str]
    numbers: Sequence[str]
    key: Sequence[str]
    later: Sequence[str] = ()

    def of(self, rows: Sequence) -> pd.DataFrame:
        """The table of some rows: mappings, or lists in the order of the columns."""
        return pd.DataFrame(rows, columns=list(self.columns)).astype(dict.fromkeys(self.numbers, "float64"))

    def write(self, folder: Path, rows: pd.DataFrame) -> None:
        """Writes both files into `folder`; a null is an empty field in the CSV."""
        write_file(folder / f"{self.name}.parquet", lambda file: file.write(rows.to_parquet(index=False)))
        write_file(folder / f"{self.name}.csv", lambda file: file.write(rows.to_csv(index=False).encode()))

    def read(self, folder: Path) -> pd.DataFrame:
        """The rows of the parquet file. Raises `ScoresError` naming the file, and the column at fault."""
        path = folder / f"{self.name}.parquet"
        try:
            rows = pd.read_parquet(path)
        except Exception as error:  # pyarrow and pandas raise a dozen unrelated types on a broken file
            raise ScoresError(f"{path}: cannot be read ({error}); run the evaluation again") from error
        rows = rows.assign(**{column: np.nan for column in self.later if column not in rows})
        missing = [column for column in self.columns if column not in rows]
        if missing:
            raise ScoresError(f"{path}: lacks column {missing[0]}; run the evaluation again")
        if rows.duplicated(list(self.key)).any():
            raise ScoresError(f"{path}: holds a ({', '.join(self.key)}) more than once; run the evaluation again")
        return rows


FACE_COLUMNS = ["face_x0", "face_y0", "face_x1", "face_y1", "face_probability", "face_size"]
SHOWN_COLUMNS = ["item_shown", "scene_shown"]
CHANGES = ("context_change", "swap_change", "seed_change")
CHANGE_COLUMNS = [f"{change}_{side}" for change in CHANGES for side in ("inside", "outside")]
DIVERSITY_COLUMNS = ["diversity_layout", "diversity_content"]
_SCORE_NUMBERS = [
    *["ip", "pc", "pc_other", "pc_rank", *SHOWN_COLUMNS, *FACE_COLUMNS],
    *[*CHANGE_COLUMNS, *DIVERSITY_COLUMNS, "generation_seconds"],
]
_CHANGES = ["change_inside", "change_outside"]
_PAIR_NUMBERS = ["faces", "ip_first", "ip_second", "ip", "leakage", "assigned", "reference_similarity", "pc"]
_TWO_PEOPLE = ["method", "first", "second", "prompt_id", "seed"]

SCORES = ScoreTable(
    "scores",
    ["method", "subject", "word", "prompt_id", "category", "prompt", "seed", "image", "outcome", *_SCORE_NUMBERS],
    numbers=_SCORE_NUMBERS,
    key=["method", "subject", "prompt_id", "seed"],
    later=["pc_other"],
)
SWAPS = ScoreTable("swaps", [*_TWO_PEOPLE, "image", "other", *_CHANGES], numbers=_CHANGES, key=_TWO_PEOPLE)
PAIRS = ScoreTable(
    "pairs",
    [
        *["method", "first", "second", "first_word", "second_word", "prompt_id", "prompt", "seed", "image", "outcome"],
        *_PAIR_NUMBERS,
    ],
    numbers=_PAIR_NUMBERS,
    key=_TWO_PEOPLE,
)
