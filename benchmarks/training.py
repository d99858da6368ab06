"""How fast are both trainings, beside the way of the paper's code? Prints one line of JSON.

    PYTHONPATH=src python benchmarks/training.py --size mini --lengths RTE

A BERT of the size asked for, with random weights, trains on random sentences whose lengths are drawn like a GLUE
task's. The paper's way pads to 128 tokens, computes in float32, takes 8 samples to a step and, to train ramps, runs the
whole backbone in every step, with its dropout on and gradients through it. Both ways take turns in one run; what counts
is their ratio.
"""

import argparse
import copy
import json
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from early_exit import LENGTHS, PADDED_LENGTH, processor_name, random_sentences
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, PreTrainedTokenizerFast

from deebert.backbones import Recipe
from deebert.cpu_step import ATTENTION, WordGradient
from deebert.devices import pick_device, resolve_precision
from deebert.inputs import collate, token_counts
from deebert.model import Ramps, walk
from deebert.params import TrainRamps
from deebert.timing import race
from deebert.training import (
    MAX_GRADIENT_NORM,
    Plan,
    Samples,
    States,
    _adamw,
    _epoch_batches,
    _first_token_only,
    _step,
    first_token_states,
    train_ramps,
)

SIZES = {  # layers, width, attention heads
    "base": (12, 768, 12),
    "mini": (6, 384, 12),
    "tiny": (3, 64, 2),
}
BATCH_SIZE = 8  # the paper's
PAPER_RAMP_EPOCHS = {"RTE": 3, "SST-2": 1}  # that its time is counted for
OUR_RAMPS = TrainRamps(epochs=12, learning_rate=1e-3, batch_size=256, weight_decay=25000.0, precision="auto")
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


def padded(plan: Plan, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
    """Samples of fixed length, and their labels."""
    chosen = [plan.train.encoded[row] for row in rows]
    inputs = plan.tokenizer.pad(chosen, padding="max_length", max_length=PADDED_LENGTH, return_tensors="pt")
    return dict(inputs), torch.from_numpy(plan.train.labels[rows])


def paper_finetuning(model: PreTrainedModel, plan: Plan) -> Callable[[np.ndarray], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0)

    def step(rows: np.ndarray) -> None:
        inputs, labels = padded(plan, rows)
        cross_entropy(model(**inputs).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        model.zero_grad()

    return step


def our_finetuning(model: PreTrainedModel, plan: Plan) -> Callable[[np.ndarray], None]:
    model.train()
    optimizer, words = _adamw(model, plan.recipe), WordGradient(model)
    _first_token_only(model)
    model.set_attn_implementation(ATTENTION)
    return lambda rows: _step(model, plan, rows, optimizer, words)


def paper_ramps(model: PreTrainedModel, plan: Plan, is_frozen: bool) -> Callable[[np.ndarray], None]:
    """A step of its second stage; `is_frozen` leaves out the gradients through the backbone, which it throws away."""
    model.train()
    config = model.config
    ramps = Ramps(config.num_hidden_layers - 1, config.hidden_size, 2).train()
    optimizer = torch.optim.AdamW(ramps.parameters(), lr=2e-5, weight_decay=0.0)

    def step(rows: np.ndarray) -> None:
        inputs, labels = padded(plan, rows)
        with torch.set_grad_enabled(not is_frozen):
            first = torch.stack([hidden[:, 0] for hidden in walk(model, inputs)][:-1])
        logits = ramps(first, dropout=0.1)
        sum(cross_entropy(each, labels) for each in logits).backward()
        torch.nn.utils.clip_grad_norm_([*ramps.parameters(), *model.parameters()], MAX_GRADIENT_NORM)
        optimizer.step()
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


def layer_gflop(size: str, tokens: int) -> float:
    """One layer's products with its matrices, forward, without attention's own."""
    return 2 * tokens * 12 * SIZES[size][1] ** 2 / 1e9


def where_it_goes(step: Callable[[np.ndarray], None], batches: list[np.ndarray], plan: Plan) -> dict[str, float]:
    """Shares of a step's time by kind of work; data is making the batch, of which no kind above is part."""
    start = time.perf_counter()
    for rows in batches:
        collate(plan.tokenizer, plan.train.encoded, rows, torch.device("cpu"))
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
    ours = our_finetuning(copy.deepcopy(model), plan)
    times = race(paper_finetuning(copy.deepcopy(model), plan), ours, batches, args.rounds)
    paper_s, our_s = times.plain.sum(axis=1), times.early_exit.sum(axis=1)  # (rounds,)
    rows = np.concatenate(batches)
    tokens = int(token_counts(plan.train.encoded)[rows].sum())
    layers, width, _ = SIZES[args.size]
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    gflops = 3 * layers * layer_gflop(args.size, tokens) / float(np.median(our_s))
    return {
        "paper_ms_per_sample": round(1e3 * float(np.median(paper_s)) / len(rows), 2),
        "ours_ms_per_sample": round(1e3 * float(np.median(our_s)) / len(rows), 2),
        "times_as_fast": spread(paper_s / our_s),
        "share_of_peak": round(gflops / peak_gflops(width, dtype), 3),
        "where_it_goes": where_it_goes(ours, batches, plan),
    }


def compare_ramps(model: PreTrainedModel, plan: Plan, batches: list[np.ndarray], args: Any) -> dict[str, Any]:
    layers, width, _ = SIZES[args.size]
    tokens = int(token_counts(plan.train.encoded).sum())

    def frozen_pass(_: object) -> None:
        with first_token_states(model, plan.train.encoded, plan.precision):
            pass

    rng = np.random.default_rng(0)
    states = rng.standard_normal((args.states, layers - 1, width), dtype=np.float32)
    seen = States(states, rng.integers(0, 2, args.states))
    unseen = States(states[: args.states // 64], seen.labels[: args.states // 64])

    rates = []  # seconds per sample: the paper's per epoch, with gradients and without; our pass; all our epochs
    steps = [paper_ramps(copy.deepcopy(model), plan, is_frozen) for is_frozen in (False, True)]
    for number in range(args.rounds + 1):
        row = []
        for step in steps:
            start = time.perf_counter()
            for batch in batches:
                step(batch)
            row.append((time.perf_counter() - start) / sum(map(len, batches)))
        start = time.perf_counter()
        frozen_pass(None)
        row.append((time.perf_counter() - start) / len(plan.train.encoded))
        start = time.perf_counter()
        train_ramps(seen, unseen, "accuracy", 2, OUR_RAMPS, seed=1)
        row.append((time.perf_counter() - start) / args.states)
        if number:  # the first pays for memory and caches
            rates.append(row)
    with_gradients, without, frozen, epochs = np.array(rates).T
    paper_epochs = PAPER_RAMP_EPOCHS[args.lengths]
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    gflops = (layers - 1) * layer_gflop(args.size, tokens) / (float(np.median(frozen)) * len(plan.train.encoded))
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
    """One epoch of ramps on states on disk: time, and memory without the file's, which the system may drop."""

    def own_mib() -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((4096, layers - 1, width), dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        for start in range(0, samples, len(chunk)):
            file.write(chunk[: samples - start])
        file.flush()
        states = np.memmap(file, dtype=np.float32, mode="r+", shape=(samples, layers - 1, width))
        labels = rng.integers(0, 2, samples)
        before = own_mib()
        start = time.perf_counter()
        settings = TrainRamps(epochs=1, learning_rate=1e-3, batch_size=256, weight_decay=25000.0, precision="auto")
        train_ramps(States(states, labels), States(chunk[:256], labels[:256]), "accuracy", 2, settings, seed=1)
        seconds = time.perf_counter() - start
    return {
        "samples": samples,
        "states_gb": round(states.nbytes / 1e9, 2),
        "ms_per_sample_and_epoch": round(1e3 * seconds / samples, 3),
        "own_memory_mib": {"before": before, "after": own_mib()},
        "peak_with_the_file_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--lengths", choices=LENGTHS, default="RTE")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of ours")
    parser.add_argument("--samples", type=int, default=256, help="sentences of the frozen pass")
    parser.add_argument("--steps", type=int, default=8, help="of 8 samples, timed in each round")
    parser.add_argument("--states", type=int, default=2560, help="samples of the ramps' epochs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="finetuning,ramps", help="comma-separated; also memory")
    parser.add_argument("--large", type=int, default=400_000, help="samples of the part memory")
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the paper's way is written for a CPU here
    torch.manual_seed(0)
    model = random_model(args.size)
    sentences = random_sentences(args.lengths, args.samples, model.config.vocab_size)
    data = Samples(sentences, np.arange(args.samples) % 2)
    precision = resolve_precision(args.precision, pick_device())
    recipe = Recipe(epochs=1, learning_rate=2e-5, batch_size=BATCH_SIZE)
    plan = Plan(padding_tokenizer(), data, data, "accuracy", recipe, 1, precision)
    batches = _epoch_batches(token_counts(sentences), BATCH_SIZE, plan.seed, 0)[: args.steps]
    result: dict[str, Any] = {
        "device": processor_name(),
        "torch": version("torch"),
        **vars(args),
        "precision": precision,
    }
    if "finetuning" in args.parts:
        result["finetuning"] = compare_finetuning(model, plan, batches, args)
    if "ramps" in args.parts:
        result["ramps"] = compare_ramps(model, plan, batches, args)
    if "memory" in args.parts:
        layers, width, _ = SIZES[args.size]
        result["memory"] = [large_states(count, layers, width) for count in (args.large // 4, args.large)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
