"""How fast are both trainings beside the way of the paper's code, and do they score the same? Prints lines of JSON.

    PYTHONPATH=src python benchmarks/training.py --size mini --lengths RTE
    PYTHONPATH=src python benchmarks/training.py --model /models/minilm --glue /data/GLUE --task RTE --parts scores

The parts finetuning and ramps time single steps: both ways take turns in one run, and what counts is their ratio. A
BERT of the size asked for, with random weights, trains on random sentences whose lengths are drawn like a GLUE task's,
or a given one on real sentences. The part scores needs real ones: it trains from start to end, each way with each seed,
and prints a line whenever a training is done.

The paper's way pads to 128 tokens, computes in float32, takes 8 samples to a step and, to train ramps, runs the whole
backbone in every step, with its dropout on and gradients through it.
"""

import argparse
import copy
import dataclasses
import json
import math
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from early_exit import LENGTHS, PADDED_LENGTH, random_sentences
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, PreTrainedTokenizerFast

from deebert.base.devices import pick_device, resolve_precision
from deebert.base.recipe import Recipe
from deebert.base.stage import told_in_one_line
from deebert.cli.arguments import count, some_of
from deebert.data.encoded import Encoded, encode
from deebert.data.scores import METRICS
from deebert.data.sources import classic
from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.encoders.resolve import resolve
from deebert.encoders.start import Wanted, begin
from deebert.inference.clock import processor_name, race
from deebert.ramps import PoolerRamps, Ramps
from deebert.settings.train_ramps import TrainRamps
from deebert.training.checkpoints import Checkpoints
from deebert.training.first_token import place_to_cut
from deebert.training.loop import epoch_batches, finetune, score
from deebert.training.objective import find
from deebert.training.objective_names import names
from deebert.training.plan import Plan, Samples
from deebert.training.ramp_plan import RampPlan
from deebert.training.ramps import train_ramps
from deebert.training.states import States, first_token_states
from deebert.training.step import MAX_GRADIENT_NORM, Training

SIZES = {  # layers, width, attention heads
    "base": (12, 768, 12),
    "mini": (6, 384, 12),
    "tiny": (3, 64, 2),
}
PARTS = ("finetuning", "ramps", "objectives", "memory", "scores")
CPU = torch.device("cpu")
BATCH_SIZE = 8  # the paper's
OUR_RAMPS = TrainRamps(ramp="pooler", epochs=12, learning_rate=1e-3, batch_size=256, weight_decay=25000.0)
KINDS = {  # of what PyTorch spends a step's time on
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "dropout": ("aten::bernoulli_", "aten::native_dropout"),
    "optimizer and clipping": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::mul_", "Optimizer."),
    "casts and copies": ("aten::copy_", "aten::_to_copy", "aten::fill_", "aten::zero_"),
}


def random_model(size: str) -> PreTrainedModel:
    layers, width, heads = SIZES[size]
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width
    )
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def padding_tokenizer() -> PreTrainedTokenizerFast:
    """One that can do nothing but pad, as BERT's does."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"[PAD]": 0})), pad_token="[PAD]")


def padded(plan: Plan, rows: np.ndarray, padding: str) -> tuple[dict[str, Tensor], Tensor]:
    """Samples padded to PADDED_LENGTH (`max_length`, the paper's way) or to the `longest` of them, and their labels."""
    width = PADDED_LENGTH if padding == "max_length" else None
    inputs = plan.train.encoded.padded(rows, plan.tokenizer.pad_token_id, CPU, width)
    return inputs, torch.from_numpy(plan.train.labels[rows])


def paper_optimizer(
    weights: Iterable[Parameter], plan: Plan
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LinearLR]:
    """The same for both of its stages: no warm-up, no weight decay."""
    optimizer = torch.optim.AdamW(weights, lr=plan.recipe.learning_rate, weight_decay=0.0)
    steps = plan.recipe.epochs * math.ceil(len(plan.train.labels) / BATCH_SIZE)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)


def paper_finetuning(model: PreTrainedModel, plan: Plan, padding: str = "max_length") -> Callable[[np.ndarray], None]:
    model.train()
    optimizer, schedule = paper_optimizer(model.parameters(), plan)

    def step(rows: np.ndarray) -> None:
        inputs, labels = padded(plan, rows, padding)
        cross_entropy(model(**inputs).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        model.zero_grad()

    return step


def fresh_ramps(model: PreTrainedModel) -> Ramps:
    return PoolerRamps(model.config.num_hidden_layers - 1, model.config.hidden_size, model.config.num_labels)


def paper_ramps(
    model: PreTrainedModel, ramps: Ramps, plan: Plan, is_frozen: bool = False, padding: str = "max_length"
) -> Callable[[np.ndarray], None]:
    """A step of its second stage; `is_frozen` leaves out the gradients through the backbone, which it throws away."""
    model.train()
    ramps.train()
    optimizer, schedule = paper_optimizer(ramps.parameters(), plan)

    def step(rows: np.ndarray) -> None:
        inputs, labels = padded(plan, rows, padding)
        with torch.set_grad_enabled(not is_frozen):
            states = model.base_model(**inputs, output_hidden_states=True).hidden_states
            first = torch.stack([hidden[:, 0] for hidden in states[1:-1]])
        logits = ramps(first, dropout=0.1)
        sum(cross_entropy(each, labels) for each in logits).backward()
        torch.nn.utils.clip_grad_norm_([*ramps.parameters(), *model.parameters()], MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.zero_grad()

    return step


def peak_gflops(width: int, dtype: torch.dtype) -> float:
    """The best rate of a matrix product of a layer's shape."""
    left, right = (torch.randn(rows, width, dtype=dtype) for rows in (2048, 4 * width))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        left @ right.T
        seconds.append(time.perf_counter() - start)
    return 2 * left.numel() * len(right) / min(seconds) / 1e9


def layer_gflop(width: int, tokens: int) -> float:
    """One layer's products with its matrices, forward, without attention's own."""
    return 2 * tokens * 12 * width**2 / 1e9


def where_it_goes(step: Callable[[np.ndarray], None], batches: list[np.ndarray], plan: Plan) -> dict[str, float]:
    """Shares of a step's time by kind of work; data is making the batch, of which no kind above is part."""
    start = time.perf_counter()
    for rows in batches:
        plan.train.encoded.padded(rows, plan.tokenizer.pad_token_id, CPU)
    data_s = time.perf_counter() - start
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for rows in batches:
            step(rows)
    whole_s = time.perf_counter() - start
    shares: Counter[str] = Counter()
    for event in seen.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other kernels")
        shares[kind] += event.self_cpu_time_total / 1e6 / whole_s
    shares["data"] = data_s / whole_s
    shares["Python between them"] = 1 - sum(shares.values())
    return {kind: round(share, 3) for kind, share in shares.most_common()}


def spread(ratios: np.ndarray) -> dict[str, float]:
    return {
        name: round(float(value), 2)
        for name, value in (("median", np.median(ratios)), ("min", ratios.min()), ("max", ratios.max()))
    }


def compare_finetuning(model: PreTrainedModel, plan: Plan, batches: list[np.ndarray], args: Any) -> dict[str, Any]:
    paper = paper_finetuning(copy.deepcopy(model), plan)
    own = copy.deepcopy(model)
    with Training(own, plan, place_to_cut(own)) as ours:
        times = race(paper, ours.step, batches, args.rounds)
        shares = where_it_goes(ours.step, batches, plan)
    paper_s, our_s = times.plain.sum(axis=1), times.early_exit.sum(axis=1)  # (rounds,)
    rows = np.concatenate(batches)
    tokens = int(plan.train.encoded.lengths[rows].sum())
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    whole_layers = layers - 2 / 3  # behind its attention, the last one is computed for the first token alone
    gflops = 3 * whole_layers * layer_gflop(width, tokens) / float(np.median(our_s))
    return {
        "paper_ms_per_sample": round(1e3 * float(np.median(paper_s)) / len(rows), 2),
        "ours_ms_per_sample": round(1e3 * float(np.median(our_s)) / len(rows), 2),
        "times_as_fast": spread(paper_s / our_s),
        "share_of_peak": round(gflops / peak_gflops(width, dtype), 3),
        "where_it_goes": shares,
    }


def compare_objectives(model: PreTrainedModel, plan: Plan, batches: list[np.ndarray], args: Any) -> dict[str, Any]:
    """CPU time of each objective's steps as a multiple of full depth's on the same batches; all take turns."""
    seconds: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        trainings = {}
        for name in sorted(names(), key=lambda name: name != "full_depth"):
            own = copy.deepcopy(model)
            training = Training(own, dataclasses.replace(plan, objective=find(name)), place_to_cut(own))
            trainings[name] = stack.enter_context(training)
        for number in range(args.rounds + 1):
            for name in trainings:
                seconds.setdefault(name, []).append([])
            for step, rows in enumerate(batches):
                for name, training in trainings.items():
                    start = time.process_time()
                    training.step(rows, step)
                    seconds[name][number].append(time.process_time() - start)
    rounds = {name: np.array(each)[1:].sum(axis=1) for name, each in seconds.items()}  # the first pays for memory
    return {name: spread(each / rounds["full_depth"]) for name, each in rounds.items()}


def states_of(
    model: PreTrainedModel, encoded: Encoded, precision: str, folder: str
) -> AbstractContextManager[np.ndarray]:
    return first_token_states(model, encoded, precision, CPU, Path(folder, "states", "here"))


def compare_ramps(model: PreTrainedModel, plan: Plan, batches: list[np.ndarray], args: Any) -> dict[str, Any]:
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    encoded = plan.train.encoded[: args.samples]
    tokens = int(encoded.lengths.sum())

    rng = np.random.default_rng(0)
    states = rng.standard_normal((args.states, layers - 1, width), dtype=np.float32)
    seen = States(states, rng.integers(0, 2, args.states))
    unseen = States(states[: args.states // 64], seen.labels[: args.states // 64])

    rates = []  # seconds per sample: the paper's per epoch, with gradients and without; our pass; all our epochs
    steps = [paper_ramps(copy.deepcopy(model), fresh_ramps(model), plan, is_frozen) for is_frozen in (False, True)]
    for number in range(args.rounds + 1):
        row = []
        for step in steps:
            start = time.perf_counter()
            for batch in batches:
                step(batch)
            row.append((time.perf_counter() - start) / sum(map(len, batches)))
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, states_of(model, encoded, plan.precision, folder):
            pass
        row.append((time.perf_counter() - start) / len(encoded))
        start = time.perf_counter()
        train_ramps(RampPlan(seen, unseen, "accuracy", 2, OUR_RAMPS, seed=1), CPU)
        row.append((time.perf_counter() - start) / args.states)
        if number:  # the first pays for memory and caches
            rates.append(row)
    with_gradients, without, frozen, epochs = np.array(rates).T
    paper_epochs = plan.recipe.epochs
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    whole = layers - 2 + 2 / 12  # of the last of these the keys and values alone, but for first tokens
    gflops = whole * layer_gflop(width, tokens) / (float(np.median(frozen)) * len(encoded))
    return {
        "paper_epochs": paper_epochs,
        "our_epochs": OUR_RAMPS.epochs,
        "paper_ms_per_sample_and_epoch": round(1e3 * float(np.median(with_gradients)), 2),
        "our_frozen_pass_ms_per_sample": round(1e3 * float(np.median(frozen)), 2),
        "our_epochs_ms_per_sample": round(1e3 * float(np.median(epochs)), 3),
        "times_as_fast": spread(paper_epochs * with_gradients / (frozen + epochs)),
        "times_as_fast_as_without_gradients_through_the_backbone": spread(paper_epochs * without / (frozen + epochs)),
        "whole_over_frozen_pass": spread((frozen + epochs) / frozen),
        "frozen_pass_share_of_peak": round(gflops / peak_gflops(width, dtype), 3),
    }


def large_states(samples: int, layers: int, width: int) -> dict[str, Any]:
    """One epoch of ramps on states on disk: time, and the most memory so far, the file's pages in it included."""
    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((4096, layers - 1, width), dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        for start in range(0, samples, len(chunk)):
            file.write(chunk[: samples - start])
        file.flush()
        states = np.memmap(file, dtype=np.float32, mode="r+", shape=(samples, layers - 1, width))
        labels = rng.integers(0, 2, samples)
        settings = dataclasses.replace(OUR_RAMPS, epochs=1)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        splits = States(states, labels), States(chunk[:256], labels[:256])
        train_ramps(RampPlan(*splits, "accuracy", 2, settings, seed=1), CPU)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {
        "samples": samples,
        "states_gb": round(states.nbytes / 1e9, 2),
        "ms_per_sample_and_epoch": round(1e3 * wall_s / samples, 3),
        "cpu_ms_per_sample_and_epoch": round(1e3 * cpu_s / samples, 3),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@dataclass(frozen=True)
class Task:
    """What is learned, and `start`, which makes the classifier to learn it from a seed."""

    start: Callable[[int], PreTrainedModel]
    plan: Plan


def random_task(args: argparse.Namespace, recipe: Recipe, precision: str) -> Task:
    def start(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return random_model(args.size)

    sentences = random_sentences(args.lengths, args.samples, start(0).config.vocab_size)
    data = Samples(sentences, np.arange(args.samples) % 2)
    return Task(start, Plan(padding_tokenizer(), data, data, "accuracy", recipe, 1, precision, find("full_depth")))


def real_task(args: argparse.Namespace, recipe: Recipe, precision: str) -> Task:
    """A GLUE task and a pretrained model, each from a folder."""
    data = classic.load(GLUE_TASKS[args.task], args.glue)
    task = data.task
    origin, wanted = resolve(str(args.model))[0], Wanted(task.name, task.label_names, PADDED_LENGTH)

    def start(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        model = begin(origin, wanted).model
        model.set_attn_implementation("eager")  # the paper's code has no other, and with dropout on it is the fastest
        return model

    tokenizer = begin(origin, wanted).tokenizer
    train, validation = (
        Samples(encode(tokenizer, frame, task.text_columns), frame["label"].to_numpy())
        for frame in (data["train"][: args.train_samples], data.validation)
    )
    return Task(start, Plan(tokenizer, train, validation, task.metrics[0], recipe, 1, precision, find("full_depth")))


def finetune_by_paper(model: PreTrainedModel, plan: Plan, padding: str) -> None:
    run_epochs(paper_finetuning(model, plan, padding), plan)


def finetune_by_ours(model: PreTrainedModel, plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        finetune(model, plan, CPU, checkpoints)


def ramps_by_paper(model: PreTrainedModel, plan: Plan, padding: str) -> Ramps:
    torch.manual_seed(plan.seed)
    ramps = fresh_ramps(model)
    run_epochs(paper_ramps(model, ramps, plan, padding=padding), plan)
    return ramps.eval()


def ramps_by_ours(model: PreTrainedModel, plan: Plan) -> Ramps:
    with (
        tempfile.TemporaryDirectory() as folder,
        states_of(model, plan.train.encoded, plan.precision, folder) as seen,
        states_of(model, plan.validation.encoded, plan.precision, folder) as unseen,
    ):
        splits = States(seen, plan.train.labels), States(unseen, plan.validation.labels)
        how = plan.metric, model.config.num_labels, OUR_RAMPS, plan.seed
        return train_ramps(RampPlan(*splits, *how), CPU)[0]


def run_epochs(step: Callable[[np.ndarray], None], plan: Plan) -> None:
    """All epochs of the paper's way: every sample once in each, in random order."""
    for _ in range(plan.recipe.epochs):
        for rows in torch.randperm(len(plan.train.labels)).split(BATCH_SIZE):
            step(rows.numpy())


WAYS = {
    "paper": (partial(finetune_by_paper, padding="max_length"), partial(ramps_by_paper, padding="max_length")),
    # The same but for rounding and the draws of dropout, since padding is masked; sooner done when only scores count.
    "paper-trimmed": (partial(finetune_by_paper, padding="longest"), partial(ramps_by_paper, padding="longest")),
    "ours": (finetune_by_ours, ramps_by_ours),
}


def ramp_scores(model: PreTrainedModel, ramps: Ramps, plan: Plan) -> list[float]:
    """The score after each layer but the last, in float32."""
    with (
        tempfile.TemporaryDirectory() as folder,
        states_of(model.eval(), plan.validation.encoded, "fp32", folder) as states,
        torch.inference_mode(),
    ):
        answers = ramps(torch.from_numpy(states).transpose(0, 1)).argmax(dim=2).numpy()  # (L-1, N)
    return [METRICS[plan.metric](plan.validation.labels, each) for each in answers]


def compare_scores(task: Task, ways: list[str], seeds: list[int], ramp_seeds: list[int]) -> dict[str, Any]:
    """Train from start to end by each of `ways`, print each score at once, and return mean and spread over seeds."""
    told: dict[tuple[str, str], list[tuple[Any, float]]] = {}

    def clocked(call: Callable[[PreTrainedModel, Plan], Any], name: tuple[str, str], model: Any, plan: Plan) -> None:
        """Call, score and tell; CPU time is told beside the clock's, which other work on the machine disturbs."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        result = call(model, plan)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        in_full = dataclasses.replace(plan, precision="fp32")
        reached = ramp_scores(model, result, plan) if isinstance(result, Ramps) else score(model, in_full)
        told.setdefault(name, []).append((reached, wall_s))
        row = {"way": name[0], "training": name[1], "seed": plan.seed, "score": np.round(reached, 4).tolist()}
        print(json.dumps({**row, "seconds": round(wall_s, 1), "cpu_seconds": round(cpu_s, 1)}), flush=True)

    for way in ways:
        finetune_model, make_ramps = WAYS[way]
        for seed in seeds:
            plan = dataclasses.replace(task.plan, seed=seed)
            model = task.start(seed)
            clocked(finetune_model, (way, "finetuning"), model, plan)
            if seed in ramp_seeds:
                clocked(make_ramps, (way, "ramps"), model, plan)
    return {
        " ".join(name): {
            "seeds": len(runs),
            "mean": np.mean([score for score, _ in runs], axis=0).round(4).tolist(),
            "standard_deviation": np.std([score for score, _ in runs], axis=0, ddof=1).round(4).tolist()
            if len(runs) > 1
            else None,
            "seconds": round(float(np.mean([seconds for _, seconds in runs])), 1),
        }
        for name, runs in told.items()
    }


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--lengths", choices=LENGTHS, default="RTE")
    parser.add_argument("--model", type=Path, help="a folder with a pretrained one, instead of --size")
    parser.add_argument("--glue", type=Path, help="a folder in the classic layout, instead of --lengths")
    parser.add_argument("--task", choices=GLUE_TASKS, default="RTE", help="of --glue")
    parser.add_argument("--train-samples", type=count, help="the first so many of its training split, otherwise all")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of ours")
    parser.add_argument("--epochs", type=count, default=3, help="of fine-tuning, and of the paper's ramps")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of fine-tuning, and of the paper's ramps")
    parser.add_argument("--samples", type=count, default=256, help="sentences of the frozen pass")
    parser.add_argument("--steps", type=count, default=8, help="of 8 samples, timed in each round")
    parser.add_argument("--states", type=count, default=2560, help="samples of the ramps' epochs")
    parser.add_argument("--rounds", type=count, default=3)
    help_on_parts = f"some of {','.join(PARTS)}; %(default)s"
    parser.add_argument("--parts", type=some_of(PARTS), default="finetuning,ramps", help=help_on_parts)
    parser.add_argument("--large", type=count, default=400_000, help="samples of the part memory")
    help_on_ways = f"of the part scores, some of {','.join(WAYS)}; %(default)s"
    parser.add_argument("--ways", type=some_of(WAYS), default="paper,ours", help=help_on_ways)
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], help="of the part scores")
    parser.add_argument("--ramp-seeds", type=numbers, default=[1, 2, 3], help="those of them whose ramps are trained")
    args = parser.parse_args()
    if (args.model is None) != (args.glue is None):
        parser.error("--model and --glue: give both or neither")
    if "scores" in args.parts and args.model is None:
        parser.error("--parts scores: needs --model and --glue")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the paper's way is written for a CPU here
    precision = resolve_precision(args.precision, pick_device())
    recipe = Recipe(epochs=args.epochs, learning_rate=args.learning_rate, batch_size=BATCH_SIZE)
    task = (real_task if args.model else random_task)(args, recipe, precision)
    plan = task.plan
    result: dict[str, Any] = {"device": processor_name(), "threads": torch.get_num_threads(), "torch": version("torch")}
    result |= {name: value for name, value in vars(args).items() if name not in ("model", "glue")}
    result["precision"] = precision
    if {"finetuning", "objectives", "ramps"} & set(args.parts):
        model = task.start(0)
        batches = epoch_batches(plan.train.encoded.lengths, BATCH_SIZE, plan.seed, 0)[: args.steps]
        if "finetuning" in args.parts:
            result["finetuning"] = compare_finetuning(model, plan, batches, args)
        if "objectives" in args.parts:
            result["step_cpu_time_over_full_depth"] = compare_objectives(model, plan, batches, args)
        if "ramps" in args.parts:
            result["ramps"] = compare_ramps(model, plan, batches, args)
    if "memory" in args.parts:
        layers, width, _ = SIZES[args.size]
        result["memory"] = [large_states(count, layers, width) for count in (args.large // 4, args.large)]
    if "scores" in args.parts:
        result["scores"] = compare_scores(task, args.ways, args.seeds, args.ramp_seeds)
    print(json.dumps(result))


if __name__ == "__main__":
    with told_in_one_line():
        main()
