"""A new objective is one module: found by its name, trained by the loop, unknown to every other training."""

import ast
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from deebert.base.errors import UserError
from deebert.base.recipe import Recipe
from deebert.data.encoded import encode
from deebert.training import objectives
from deebert.training.checkpoints import Checkpoints
from deebert.training.loop import finetune, score
from deebert.training.objective import Objective, find
from deebert.training.objective_names import names
from deebert.training.objectives.full_depth import FullDepth
from deebert.training.plan import Plan, Samples, key
from deebert.training.step import Training, class_weights
from tests import tiny

PACKAGE = Path(objectives.__path__[0]).parent
CPU = torch.device("cpu")
FRAME = tiny.samples(64)
SAMPLES = Samples(encode(tiny.tokenizer(), FRAME, ["sentence"]), FRAME["label"].to_numpy())
RECIPE = Recipe(epochs=3, learning_rate=1e-2, batch_size=16, full_depth_frac=0.0)
PLAN = Plan(tiny.tokenizer(), SAMPLES, SAMPLES, "accuracy", RECIPE, 1, "fp32", FullDepth)

MADE_UP = '''
"""A ramp after the first layer learns beside the head, faster; word embeddings stay as they are."""
from torch import nn
from torch.nn.functional import cross_entropy

from deebert.training.objective import Objective, Trained


class MadeUp(Objective):
    def __init__(self, model):
        super().__init__(model)
        self.ramp = nn.Linear(model.config.hidden_size, model.config.num_labels)

    def trained(self, model):
        words = model.get_input_embeddings().weight
        rest = [weight for weight in model.parameters() if weight is not words]
        return [Trained(rest), Trained(list(self.ramp.parameters()), 0.1)]

    def loss(self, model, inputs, labels):
        output = model(**inputs, output_hidden_states=True)
        early = self.ramp(output.hidden_states[1][:, 0])
        return sum(cross_entropy(each.float(), labels, reduction="sum") for each in (output.logits, early))


OBJECTIVE = MadeUp
'''


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Objective]:
    """An objective of which there is one file and nothing else."""
    (tmp_path / "made_up.py").write_text(MADE_UP)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "deebert.training.objectives.made_up", raising=False)
    return find("made_up")


def trained(plan: Plan, folder: Path, head: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights of a tiny model after `plan`, whose checkpoints go to `folder`; its head starts `head` times as large."""
    model = tiny.model("bert", layers=2, initializer_range=0.1)
    model.classifier.weight.data *= head
    with Checkpoints(folder / "checkpoints" / "home") as checkpoints:
        finetune(model, plan, CPU, checkpoints)
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_names(made_up: type[Objective]) -> None:
    """The names are those of the files in the folder; another one is a line that lists them."""
    assert "full_depth" in names() and "made_up" in names()
    assert find("full_depth") is FullDepth
    told = f"objective: 'deep' is not allowed; expected one of {', '.join(names())}$"
    with pytest.raises(UserError, match=told):
        find("deep")


def test_nobody_imports_an_objective() -> None:
    """No module of the package names an objective, so that a new one is no dep of a training without it."""
    for file in PACKAGE.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            assert not (module or "").startswith("deebert.training.objectives"), file


def test_a_made_up_objective_trains(made_up: type[Objective], tmp_path: Path) -> None:
    """What it trains changes, what it leaves out does not, and the whole repeats to the bit."""
    plan = dataclasses.replace(PLAN, objective=made_up)
    start = tiny.model("bert", layers=2, initializer_range=0.1).state_dict()
    weights, again, other = trained(plan, tmp_path), trained(plan, tmp_path), trained(PLAN, tmp_path)
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(weights[words], start[words]) and not torch.equal(other[words], start[words])
    assert {name for name in start if torch.equal(weights[name], start[name])} <= {words}
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in weights.items())


def test_rates_and_state_of_its_own_modules(made_up: type[Objective]) -> None:
    """They have their own learning rate in every step, belong to a checkpoint, and start the same for a seed."""
    model = tiny.model("bert", layers=2)
    plan = dataclasses.replace(PLAN, objective=made_up)
    with Training(model, plan) as training:
        first = training.joint.objective.ramp.weight.clone()
        training.set_rate(0.5)
        assert [group["lr"] for group in training.optimizer.param_groups] == pytest.approx([5e-3, 5e-3, 5e-2, 5e-2])
        training.step(np.arange(16))
        assert not torch.equal(training.joint.objective.ramp.weight, first)
        names_of_state = set(training.state())
    assert {"weight.objective.ramp.weight", "exp_avg.objective.ramp.bias"} <= names_of_state
    assert {name.split(".")[0] for name in names_of_state if "word_embeddings" in name} == {"weight"}
    assert all(weight.requires_grad for weight in model.parameters())
    torch.rand(3)
    assert torch.equal(Training(model, plan).joint.objective.ramp.weight, first)


@pytest.mark.parametrize(("full_depth_frac", "head"), [(0.0, 1.0), (0.25, 1.0), (0.25, 0.0)])
def test_a_broken_off_training_goes_on(
    made_up: type[Objective], full_depth_frac: float, head: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules of the objective's own are part of what is saved, and so is what the phase before has trained.

    A head of zeros does not show where the last layer can be cut. It does so after some steps, but that counts neither
    with a break nor without.
    """
    recipe = dataclasses.replace(RECIPE, full_depth_frac=full_depth_frac)
    plan = dataclasses.replace(PLAN, objective=made_up, recipe=recipe)
    expected = trained(plan, tmp_path / "undisturbed", head)
    steps = 0
    original = Training.step

    def failing(self: Training, rows: np.ndarray, number: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise RuntimeError("power failure")
        return original(self, rows, number)

    monkeypatch.setenv("DEEBERT_CHECKPOINT_EVERY_S", "0")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power failure"):
        patched.setattr(Training, "step", failing)
        trained(plan, tmp_path, head)
    counted = []
    monkeypatch.setattr(Training, "step", lambda self, *step: counted.append(step) or original(self, *step))
    found = trained(plan, tmp_path, head)
    assert len(counted) == 12 - 6
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


class Twice(FullDepth):
    """The same as full depth, but for its name and a factor."""

    def loss(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return 2 * super().loss(model, inputs, labels)


def test_the_objective_is_part_of_the_key() -> None:
    """States of one objective are not taken up by another."""
    model = tiny.model("bert", layers=2)
    plans = (PLAN, dataclasses.replace(PLAN, objective=Twice))
    assert len({key({}, model, plan) for plan in plans}) == 2


def test_balanced_weights_are_n_by_c_n_c() -> None:
    """Each class has the same share of the loss, all samples together weigh N, and a class without any is refused."""
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights("balanced", labels, 3)
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3], rtol=1e-6)
    np.testing.assert_allclose(np.bincount(labels, weights[labels]), 10 / 3, rtol=1e-6)
    assert class_weights("none", labels, 4) is None
    with pytest.raises(UserError, match="class 3 has no train sample"):
        class_weights("balanced", labels, 4)


def test_class_weights_weigh_the_loss(tmp_path: Path) -> None:
    """A step minimises the weighted sum over the batch's size; equal classes train as without weights, to the bit."""
    rows = np.arange(16)
    skewed = dataclasses.replace(SAMPLES, labels=np.where(np.arange(64) < 48, 0, 1))
    losses = {}
    for kind in ("none", "balanced"):
        plan = dataclasses.replace(PLAN, train=skewed, class_weights=kind)
        with Training(tiny.model("bert", layers=2), plan) as training:
            training.set_rate(0.0)
            losses[kind] = float(training.step(rows))
    assert losses["balanced"] == pytest.approx(losses["none"] * 64 / (2 * 48), rel=1e-5)
    equal = dataclasses.replace(SAMPLES, labels=np.arange(64) % 2)
    plan = dataclasses.replace(PLAN, train=equal)
    weights = trained(plan, tmp_path / "none")
    for name, weight in trained(dataclasses.replace(plan, class_weights="balanced"), tmp_path / "balanced").items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("changed", [{"weight_decay": 0.5}, {"adam_beta2": 0.5}, {"warmup_frac": 0.5}])
def test_every_setting_of_the_recipe_has_a_part(changed, tmp_path: Path) -> None:
    """Another decay, beta or warm-up gives other weights."""
    plan = dataclasses.replace(PLAN, recipe=dataclasses.replace(PLAN.recipe, **changed))
    one, other = trained(PLAN, tmp_path), trained(plan, tmp_path)
    assert not all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_matrices_alone_decay() -> None:
    """Biases and norms do not; and the optimizer has the recipe's beta."""
    plan = dataclasses.replace(PLAN, recipe=dataclasses.replace(PLAN.recipe, weight_decay=0.5, adam_beta2=0.9))
    groups = Training(tiny.model("bert", layers=2), plan).optimizer.param_groups
    for group in groups:
        assert {weight.ndim > 1 for weight in group["params"]} <= {group["weight_decay"] == 0.5}
        assert group["betas"] == (0.9, 0.9)


def test_every_step_draws_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two steps drop the same numbers: each begins with a seed of its own."""
    seeds, original = [], Training.step

    def step(self, *arguments):
        seeds.append(torch.default_generator.initial_seed())
        return original(self, *arguments)

    monkeypatch.setattr(Training, "step", step)
    trained(PLAN, tmp_path)
    assert len(seeds) == len(set(seeds)) == 12


def test_dropout_has_no_part_in_a_score() -> None:
    """Of a model in training mode: the same score each time, that of eval mode; and the mode stays."""
    model = tiny.model("bert", layers=2, hidden_dropout_prob=0.9).train()
    scores = [score(model, PLAN) for _ in range(5)]
    assert model.training and scores == [score(model.eval(), PLAN)] * 5


def test_no_step_follows_a_gradient_longer_than_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However steep the loss is."""
    norms, original = [], torch.optim.AdamW.step

    def step(self, *arguments):
        grads = [weight.grad for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained(PLAN, tmp_path, head=100.0)
    assert len(norms) == 12 and max(norms) == pytest.approx(1, rel=1e-3)
