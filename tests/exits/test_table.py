"""The table of criteria: one class and one entry are all that a new criterion takes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from deebert.analysis.baseline_table import BASELINES
from deebert.analysis.logits import SplitLogits
from deebert.analysis.sweep import choice_tables, scored_curve, split_tables
from deebert.data.encoded import Encoded
from deebert.exits.criteria import Criterion
from deebert.exits.table import CRITERIA, Entry
from deebert.figures.decision import draw_criteria
from deebert.inference.engine import Engine
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps
from deebert.reports.criteria_table import plot_template
from deebert.reports.document_blocks import BLOCKS, Run
from deebert.settings.entropy_sweep import EntropySweep, Risk
from tests import tiny
from tests.heads import heads

ROOT = Path(__file__).parents[2]
LAYERS, LABELS, WIDTH = 4, 3, 16


@dataclass(frozen=True)
class LogitLead(Criterion):
    """Made up: leaves at the first ramp whose top logit is ahead of the second by more than the threshold."""

    threshold: float
    name: ClassVar[str] = "logit_lead"

    @property
    def setting(self) -> float:
        return self.threshold

    @staticmethod
    def read(logits: Tensor) -> Tensor:
        first, second = logits.float().topk(2, dim=-1).values.unbind(dim=-1)
        return first - second

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings > self.threshold, state

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, num_settings: int) -> list["LogitLead"]:
        return [cls(threshold) for threshold in np.linspace(6.0, -1.0, num_settings).tolist()]


@pytest.fixture
def logit_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LogitLead` in the table."""
    entry = Entry("made-up lead", "at the first ramp whose top logit leads", "#117733", marker="v", grid=LogitLead.grid)
    monkeypatch.setitem(CRITERIA, "logit_lead", entry)


@pytest.mark.usefixtures("logit_lead")
def test_a_new_criterion_is_one_class_and_one_entry() -> None:
    """Its rows, its curve in the figure, its colour in `dvc plots` and its line in the documents come by themselves."""
    logits, labels = heads(1, LABELS)
    saved = SplitLogits(logits, labels, np.arange(len(labels)), np.full(len(labels), 5))
    settings = EntropySweep(1, (0.2,), 40, (1.0,), Risk((0.05,), 0.1), 0.1)
    given = (scored_curve("validation", saved, "accuracy", settings), saved, settings)
    tables = split_tables(*given) | choice_tables(*given)
    rows = [row for row in tables["sweep"] if row["criterion"] == "logit_lead"]
    for row, criterion in zip(rows, LogitLead.grid(LAYERS, LABELS, 40), strict=True):
        assert row["threshold"] == criterion.threshold
        layers = criterion.exit_layers(torch.from_numpy(logits))
        assert row["mean_exit_layer"] == pytest.approx(layers.double().mean().item())

    header = {
        **{"task": "RTE", "model": "bert-base", "metric": "accuracy", "num_layers": LAYERS},
        **{"splits": ["validation"], "test_splits": [], "n": {"validation": len(labels)}},
    }
    for ax in draw_criteria(header, tables["sweep"]).axes:
        (line,) = [line for line in ax.get_lines() if line.get_label() == "made-up lead"]
        assert (line.get_color(), line.get_marker(), len(line.get_xdata())) == ("#117733", "v", 40)

    template = plot_template(json.loads((ROOT / ".dvc/plots/criteria.json").read_text()))
    scale = template["spec"]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True))["logit_lead"] == "#117733"
    assert "\n| `logit_lead` | at the first ramp whose top logit leads | " in BLOCKS["criteria"](
        Run({}, tables, {}, {})
    )


@pytest.mark.usefixtures("logit_lead")
def test_a_new_criterion_runs_live() -> None:
    """The engine lets samples leave by it where it lets them leave on saved logits, and they get the same answers."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=LABELS)
    torch.manual_seed(0)
    ramps = PoolerRamps(LAYERS - 1, WIDTH, LABELS)
    with torch.no_grad():
        ramps.out_weight.mul_(6)
    model = DeeBert(backbone, ramps).eval()
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 20, 60).tolist()
    encoded = Encoded.of([rng.integers(2, tiny.VOCAB_SIZE, n).tolist() for n in lengths])
    with torch.inference_mode():
        logits = model(**encoded.padded(np.arange(len(encoded)), 1, torch.device("cpu")))
    engine = Engine(model)
    depths = set()
    for criterion in CRITERIA["logit_lead"].grid(LAYERS, LABELS, 6):
        layers = criterion.exit_layers(logits)
        depths |= set(layers.tolist())
        live = engine.answer(encoded, criterion)
        np.testing.assert_array_equal(live.exit_layers, layers.numpy())
        expected = logits[torch.arange(len(layers)), layers - 1]
        np.testing.assert_allclose(live.logits, expected.numpy(), atol=1e-4)
    assert len(depths) > 2


@pytest.mark.parametrize(("name", "entry"), (CRITERIA | BASELINES).items(), ids=CRITERIA | BASELINES)
def test_an_entry_can_be_drawn(name: str, entry: Entry) -> None:
    """Colours are as CSS and Matplotlib both take them, and whatever has no line has marks."""
    assert re.fullmatch(r"#[0-9A-F]{6}", entry.color)
    assert entry.line or entry.marker
    assert entry.label and entry.leaves and "|" not in entry.leaves


def test_no_two_curves_look_alike() -> None:
    """No name stands in both tables, and no two entries share colour, line and marker."""
    entries = [*CRITERIA.values(), *BASELINES.values()]
    assert not set(CRITERIA) & set(BASELINES)
    assert len({(entry.color, entry.line, entry.marker) for entry in entries}) == len(entries)
    assert len({entry.label for entry in entries}) == len(entries)
