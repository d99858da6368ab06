"""When does early exit pay on a GPU? Prints one line of JSON.

    PYTHONPATH=src python benchmarks/gpu.py --size base

A model of full size with random weights answers random sentences as long as SST-2's, so many to a call. It is compared
with itself at full depth, with the same kernels started one by one as PyTorch does without graphs, and with Hugging
Face's own forward in float16 on sorted, padded batches. Exits are set as in early_exit.py. All contenders take turns.
"""

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from early_exit import (
    FAMILIES,
    LENGTHS,
    PADDED_LENGTH,
    SIZES,
    exit_shares,
    random_model,
    random_sentences,
    thresholds_for,
)

from deebert.base.devices import pick_device
from deebert.base.stage import told_in_one_line
from deebert.cli.arguments import count, counts
from deebert.data.batches import batches_by_length
from deebert.data.encoded import Encoded
from deebert.exits.criteria import Criterion, Entropy, LayerThresholds
from deebert.exits.grids import NEXT_TO_NOBODY
from deebert.exits.rule import entropy, layers_saved_frac
from deebert.inference.clock import hardware_name, race
from deebert.inference.cuda_graphs import CudaGraphs
from deebert.inference.engine import Engine
from deebert.inference.precisions import PRECISIONS, resolve
from deebert.ramps import KINDS

PADDED_TOKENS = 65536  # to one of Hugging Face's batches


def hugging_face(backbone: Any, sentences: Encoded) -> np.ndarray:
    """Classes (N,) by Hugging Face's own forward: sorted by length and padded."""
    answers = np.empty(len(sentences), dtype=np.int64)
    for rows in batches_by_length(sentences.lengths, PADDED_TOKENS):
        with torch.inference_mode():
            inputs = sentences.padded(rows, backbone.config.pad_token_id, backbone.device)
            answers[rows] = backbone(**inputs).logits.argmax(dim=-1).cpu().numpy()
    return answers


class ByKernel(CudaGraphs):
    """Nothing is recorded: the host starts each kernel anew."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work


def compare(engine: Engine, own: Any, sentences: Encoded, size: int, saved: list[float], rounds: int) -> dict[str, Any]:
    """Times of each contender over that of the engine at full depth, `size` sentences to a call."""
    by_kernel = copy.copy(engine)
    by_kernel.recorded = engine.recorded and engine.recorded.with_graphs(ByKernel)
    batches = [sentences[start : start + size] for start in range(0, len(sentences), size)]
    entropies = entropy(torch.from_numpy(engine.all_logits(sentences))).numpy()
    criteria: dict[str, Criterion] = {"nobody leaves": Entropy(NEXT_TO_NOBODY)}
    for share in saved:
        fitted = thresholds_for(entropies, exit_shares(engine.num_layers, share))
        criteria[f"{100 * share:.0f} % saved"] = LayerThresholds(fitted, drop_points=0)
    result: dict[str, Any] = {}
    for name, criterion in criteria.items():
        times = race(engine.answer, partial(engine.answer, criterion=criterion), batches, rounds)
        layers = np.concatenate([engine.answer(batch, criterion).exit_layers for batch in batches])
        result[name] = {
            "layers_saved_frac": round(layers_saved_frac(float(layers.mean()), engine.num_layers), 3),
            "time_over_full_depth": round(1 - times.time_saved()["time_saved_frac"], 3),
        }
    others = {"kernel by kernel": by_kernel.answer, "Hugging Face, fp16": partial(hugging_face, own)}
    for name, other in others.items():
        times = race(engine.answer, other, batches, rounds)
        result[name] = {"time_over_full_depth": round(1 - times.time_saved()["time_saved_frac"], 3)}
    return {"full_depth_ms_per_call": round(1e3 * float(np.median(times.plain)), 3), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--family", choices=FAMILIES, default="bert")
    parser.add_argument("--ramp", choices=KINDS, default="linear")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--lengths", choices=LENGTHS, default="SST-2")
    parser.add_argument(
        "--to-a-call", type=counts, default=[1, 32, 64, 256, 1024, 4096], help="sentences, comma-separated"
    )
    parser.add_argument("--rounds", type=count, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = pick_device()
    model = random_model(args.size, PADDED_LENGTH, args.ramp, args.family)
    own = copy.deepcopy(model.backbone).to(device, torch.float16 if device.type == "cuda" else torch.float32)
    vocabulary = model.backbone.config.vocab_size
    engine = Engine(model, resolve(args.precision, device), device)
    result = {
        "device": hardware_name(device),
        "torch": version("torch"),
        **{name: getattr(args, name) for name in ("size", "family", "ramp", "precision", "lengths", "rounds")},
    }
    for size in args.to_a_call:
        sentences = random_sentences(args.lengths, max(size, 16), vocabulary)
        result[f"{size} to a call"] = compare(engine, own, sentences, size, [0.3, 0.6, 0.75], args.rounds)
    labels = hugging_face(own, sentences)
    result["same_label_as_hugging_face_frac"] = float((engine.answer(sentences).logits.argmax(1) == labels).mean())
    print(json.dumps(result))


if __name__ == "__main__":
    with told_in_one_line():
        main()
