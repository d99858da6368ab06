"""Objectives that train ramps with the backbone minimise what they say, and start after full depth where asked to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from deebert.base.recipe import Recipe
from deebert.data.encoded import encode
from deebert.encoders.known import KNOWN_MODELS
from deebert.training.checkpoints import Checkpoints
from deebert.training.loop import finetune
from deebert.training.objective import RAMP_RATE, AllHeads, FullDepth, find
from deebert.training.objective_names import names
from deebert.training.plan import Phase, Plan, Samples, phases
from deebert.training.states import first_token_states
from deebert.training.step import Training
from tests import tiny

CPU = torch.device("cpu")
FRAME = tiny.samples(70)
SAMPLES = Samples(encode(tiny.tokenizer(), FRAME, ["sentence"]), FRAME["label"].to_numpy())
RECIPE = Recipe(epochs=2.2, learning_rate=1e-3, batch_size=16, warmup_frac=0.2)  # 11 steps, 6 of them at full depth
PLAN = Plan(tiny.tokenizer(), SAMPLES, SAMPLES, "accuracy", RECIPE, 1, "fp32", find("alternating"))
OTHERS = [name for name in names() if name != "full_depth"]
WEIGHTS = torch.tensor([0.5, 2.0])
each_objective = pytest.mark.parametrize("name", OTHERS)


def heads_of(objective: AllHeads, model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Logits (B, C) of each head, from the states one by one: mean 0 and spread 1, dense, tanh, linear."""
    answer = model(**inputs, output_hidden_states=True)
    made = []
    for layer, (_, first, _, second) in enumerate(objective.ramps, start=1):
        state = answer.hidden_states[layer][:, 0]
        centred = state - state.mean(dim=1, keepdim=True)
        spread = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        pooled = torch.tanh(centred / spread @ first.weight.T + first.bias)
        made.append(pooled @ second.weight.T + second.bias)
    return [*made, answer.logits]


def weighted(each: Tensor, labels: Tensor) -> Tensor:
    return (each * WEIGHTS[labels]).sum()


def alternating(heads: list[Tensor], labels: Tensor, step: int) -> Tensor:
    counted = heads if step % 2 else heads[-1:]
    return sum(weighted(cross_entropy(logits, labels, reduction="none"), labels) for logits in counted)


EXPECTED: dict[str, Callable[[list[Tensor], Tensor, int], Tensor]] = {"alternating": alternating}


@each_objective
@pytest.mark.parametrize("step", [6, 7])
def test_the_loss_is_that_of_a_plain_loop_over_heads(name: str, step: int) -> None:
    """By the formula of the paper, head by head, with a weight for each class; gradients are the same, too."""
    model = tiny.model("bert")
    objective = find(name)(model)
    objective.class_weights, objective.step = WEIGHTS, step
    inputs, labels = tiny.inputs("bert", (7, 3, 9, 2)), torch.tensor([0, 1, 1, 0])
    weights = [*model.parameters(), *objective.parameters()]
    loss = objective.loss(model, inputs, labels)
    assert name in EXPECTED, f"expected the formula of {name} here, written once more"
    expected = EXPECTED[name](heads_of(objective, model, inputs), labels, step)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    found, wanted = (torch.autograd.grad(each, weights, allow_unused=True) for each in (loss, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_ramps_read_what_they_read_when_deployed(family: str, tmp_path: Path) -> None:
    """The state that a ramp learns from is the one after its layer that the frozen pass gives, in every family."""
    model = tiny.model(family)
    objective = find("alternating")(model)
    read: list[Tensor] = []
    for ramp in objective.ramps:
        ramp.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    encoded = SAMPLES.encoded[:4]
    inputs = encoded.padded(np.arange(4), tiny.tokenizer().pad_token_id, CPU)
    if family not in tiny.TYPED:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        logits = objective.logits(model, inputs)
    assert logits.shape == (3, 4, 2) and logits.dtype == torch.float32
    with first_token_states(model, encoded, "fp32", CPU, tmp_path / "a" / "b") as states:
        torch.testing.assert_close(torch.stack(read, dim=1), torch.from_numpy(np.array(states)), rtol=1e-4, atol=1e-4)


@each_objective
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_ramps_teach_the_layers_below_them(name: str, family: str) -> None:
    """The loss of a ramp reaches its own layer and those before it, not those behind it."""
    model = tiny.model(family)
    objective = find(name)(model)
    inputs = tiny.inputs(family, (7, 3, 9, 2))
    stack = next(
        part for part in model.base_model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 3
    )
    for ramp in (0, 1):
        loss = objective.cross_entropies(objective.logits(model, inputs), torch.tensor([0, 1, 1, 0]))[ramp]
        model.zero_grad()
        loss.backward()
        taught = [any(w.grad is not None and w.grad.abs().max() > 0 for w in layer.parameters()) for layer in stack]
        assert taught == [layer <= ramp for layer in range(3)]


@each_objective
def test_every_weight_has_a_part_in_every_step(name: str) -> None:
    """Several processes wait for the gradient of each: none is left out, in even steps and odd ones."""
    model = tiny.model("bert")
    objective = find(name)(model)
    for step in (0, 1):
        objective.step = step
        objective.zero_grad()
        model.zero_grad()
        objective.loss(model, tiny.inputs("bert", (4, 3)), torch.tensor([0, 1])).backward()
        for group in objective.trained(model):
            assert all(weight.grad is not None for weight in group.parameters)


def trained(plan: Plan, folder: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Weights of a tiny model after `plan`, whose checkpoints go to `folder`; and the record of it."""
    model = tiny.model("bert", layers=3, initializer_range=0.1)
    with Checkpoints(folder / "checkpoints" / "home") as checkpoints:
        record, _ = finetune(model, plan, CPU, checkpoints)
    return {name: weight.clone() for name, weight in model.state_dict().items()}, record


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    assert some.keys() == others.keys()
    return all(torch.equal(weight, others[name]) for name, weight in some.items())


class Noted:
    """Each step's number, objective and learning rates, noted on the way; one step may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[int, str, list[float]]] = []
        self.fails_at: int | None = None
        original = Training.step

        def step(training: Training, rows: np.ndarray, number: int) -> Tensor:
            if number == self.fails_at:
                raise RuntimeError("power failure")
            rates = sorted({group["lr"] for group in training.optimizer.param_groups})
            self.steps.append((number, type(training.joint.objective).__name__, rates))
            return original(training, rows, number)

        monkeypatch.setattr(Training, "step", step)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    return Noted(monkeypatch)


def with_share(plan: Plan, share: float) -> Plan:
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, full_depth_frac=share))


def test_phases() -> None:
    """Full depth takes its share of the steps, rounded up, and full depth alone is one phase whatever the share."""
    objective = PLAN.objective
    assert phases(PLAN, 11) == [Phase(FullDepth, 0, 6), Phase(objective, 6, 11)]
    assert phases(with_share(PLAN, 0.0), 11) == [Phase(objective, 0, 11)]
    assert phases(with_share(PLAN, 0.99), 11) == [Phase(FullDepth, 0, 11)]
    assert phases(dataclasses.replace(PLAN, objective=FullDepth), 11) == [Phase(FullDepth, 0, 11)]


def test_the_share_comes_with_the_model() -> None:
    """What is trained from scratch has full depth alone; what was pretrained has half of the epochs for its exits."""
    shares = {name: phases(dataclasses.replace(PLAN, recipe=known.recipe), 100) for name, known in KNOWN_MODELS.items()}
    both = [Phase(FullDepth, 0, 50), Phase(PLAN.objective, 50, 100)]
    assert shares.pop("toy-bert") == [Phase(FullDepth, 0, 100)]
    assert shares and all(found == both for found in shares.values())


def test_each_phase_has_a_schedule_of_its_own(noted: Noted, tmp_path: Path) -> None:
    """The rate rises and falls twice, ramps have the same peak whatever the recipe's, and the record says all this."""
    _, record = trained(PLAN, tmp_path)
    assert [(number, name) for number, name, _ in noted.steps] == [
        *((number, "FullDepth") for number in range(6)),
        *((number, "Alternating") for number in range(6, 11)),
    ]
    rates = np.array([[rates[0], rates[-1]] for *_, rates in noted.steps])
    shares = [0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4], [0, 1, 3 / 4, 1 / 2, 1 / 4]
    np.testing.assert_allclose(rates[:, 0], 1e-3 * np.concatenate(shares))
    np.testing.assert_allclose(rates[6:, 1], RAMP_RATE * np.array(shares[1]))
    assert record["objective"] == "alternating" and record["full_depth_frac"] == 0.5


@each_objective
def test_the_first_phase_is_full_depth_alone(name: str, tmp_path: Path) -> None:
    """After it the weights are, to the bit, those of full depth with as many epochs; then they move on."""
    plan = dataclasses.replace(PLAN, objective=find(name), recipe=dataclasses.replace(RECIPE, epochs=4))
    first = dataclasses.replace(plan, objective=FullDepth, recipe=dataclasses.replace(RECIPE, epochs=2))
    alone, record = trained(first, tmp_path)
    assert not {"objective", "full_depth_frac"} & record.keys()
    seen: dict[str, Tensor] = {}

    class Spy(plan.objective):
        def __init__(self, model: PreTrainedModel) -> None:
            super().__init__(model)
            seen.update({name: weight.clone() for name, weight in model.state_dict().items()})

    both, _ = trained(dataclasses.replace(plan, objective=Spy), tmp_path)
    assert same(seen, alone) and not same(both, alone)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of a training that nothing broke off."""
    return trained(PLAN, tmp_path_factory.mktemp("undisturbed"))[0]


@pytest.mark.parametrize("fails_at", [6, 7, 8])
def test_a_broken_off_training_goes_on(
    fails_at: int, undisturbed: dict[str, Tensor], noted: Noted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stops, at the end of a phase, after an even step or an odd one, the end has the same bytes."""
    monkeypatch.setenv("DEEBERT_CHECKPOINT_EVERY_S", "0")
    noted.fails_at = fails_at
    with pytest.raises(RuntimeError, match="power failure"):
        trained(PLAN, tmp_path)
    noted.fails_at = None
    found, _ = trained(PLAN, tmp_path)
    assert [number for number, *_ in noted.steps] == list(range(11))
    assert same(found, undisturbed)


def test_full_depth_heeds_no_share(tmp_path: Path) -> None:
    """Full depth is the same training, to the bit, whatever share is written beside it; another's share of 1 is it."""
    alone = dataclasses.replace(PLAN, objective=FullDepth)
    plans = [with_share(alone, 0.0), alone, with_share(PLAN, 1.0)]
    (weights, record), *others = (trained(plan, tmp_path) for plan in plans)
    assert all(same(weights, each) and record == told for each, told in others)


@each_objective
def test_bf16_and_class_weights_train(name: str, tmp_path: Path) -> None:
    """Products may be bf16; weights stay float32, finite and those of an ordinary classifier."""
    plan = dataclasses.replace(PLAN, objective=find(name), precision="bf16", class_weights="balanced")
    weights, record = trained(plan, tmp_path)
    assert weights.keys() == tiny.model("bert", layers=3).state_dict().keys()
    assert record["class_weights"] == "balanced" and record["precision"] == "bf16"
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights.values())
