"""Sentences that all contenders answer, tokenised and padded beforehand, in one file of arrays.

Groups of batches have names: of the number of sentences to a batch, and `calibration`. A batch's arrays are
`GROUP/NUMBER/input_ids` and so on, and `GROUP/NUMBER/rows` says which sentences are in it.
"""

from pathlib import Path

import numpy as np

from contenders.interface import Batch

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

    def batches(self, group: str) -> list[Batch]:
        found: dict[int, dict[str, np.ndarray]] = {}
        for key in self._arrays.files:
            name, _, rest = key.partition("/")
            if name == group:
                number, _, array = rest.partition("/")
                found.setdefault(int(number), {})[array] = self._arrays[key]
        return [{name: each for name, each in found[i].items() if name != ROWS} for i in sorted(found)]

    def rows(self, group: str) -> list[np.ndarray]:
        numbers = sum(key.startswith(f"{group}/") and key.endswith(f"/{ROWS}") for key in self._arrays.files)
        return [self._arrays[f"{group}/{i}/{ROWS}"] for i in range(numbers)]
