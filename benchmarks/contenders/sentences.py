"""Sentences that all contenders answer, tokenised and padded beforehand, in one file of arrays.

Groups of batches have names: of the number of sentences to a batch, and `calibration`. A batch's arrays are
`GROUP/NUMBER/input_ids` and so on, and `GROUP/NUMBER/rows` says which sentences are in it.
"""

from pathlib import Path

import numpy as np

from contenders.interface import ALONE, Batch

ROWS = "rows"


class Written:
    """The file, read as far as it is asked for; it needs nothing but NumPy.

    Attributes:
        count: sentences.
        alone: numbers of those that are timed one at a time.
    """

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path, allow_pickle=False)
        self.count = int(self._arrays["count"])
        self.alone = self._arrays["alone"].tolist()
        prefix = f"{ALONE}/0/"
        inputs = [key.removeprefix(prefix) for key in self._arrays.files if key.startswith(prefix)]
        self._names = [name for name in inputs if name != ROWS]

    def batches(self, group: str, most: int | None = None) -> list[Batch]:
        """The first `most` batches, or all."""
        return [
            {name: self._arrays[f"{group}/{i}/{name}"] for name in self._names}
            for i in range(self._number(group))[:most]
        ]

    def rows(self, group: str) -> list[np.ndarray]:
        """Which sentences are in each batch."""
        return [self._arrays[f"{group}/{i}/{ROWS}"] for i in range(self._number(group))]

    def _number(self, group: str) -> int:
        """How many batches there are."""
        return sum(key.startswith(f"{group}/") and key.endswith(f"/{ROWS}") for key in self._arrays.files)
