"""How much of the layers saved becomes time saved? Prints one line of JSON.

    PYTHONPATH=src python benchmarks/early_exit.py --precision bf16 --lengths RTE

A BERT of full size with random weights answers random sentences whose lengths are drawn like a GLUE task's. Each ramp
gets the threshold at which as many samples leave there as a given distribution of exits wants, so the exits are real
decisions of the engine, but how many leave early is set. Everything is compared with the plain backbone in the same
run: no ramps, same packing, precision and threads, and the last layer computed for the first token only.
"""

import argparse
import copy
import json
import resource
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.masking_utils import create_bidirectional_mask

from deebert.base.stage import told_in_one_line
from deebert.cli.arguments import count, some_of
from deebert.data.batches import batches_by_length
from deebert.data.encoded import Encoded
from deebert.exits.criteria import Criterion, Entropy, LayerThresholds
from deebert.exits.grids import NEXT_TO_NOBODY
from deebert.exits.rule import entropy, layers_saved_frac
from deebert.inference.clock import hardware_name, race
from deebert.inference.engine import PACK_TOKENS, Engine
from deebert.inference.precisions import PRECISIONS
from deebert.model import DeeBert
from deebert.ramps import KINDS

# Tokens, special ones included, at these quantiles of the validation split under bert-base-uncased's vocabulary.
QUANTILES = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)
LENGTHS = {
    "SST-2": (4, 10, 12, 16, 19, 21, 24.5, 27, 30, 34, 40, 44, 55),
    "RTE": (17, 29, 34, 38, 43, 48.4, 53, 59.6, 71.2, 98.6, 128, 128, 128),
}
SIZES = {  # layers, width, attention heads
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "tiny": (6, 128, 2),
}
FAMILIES: dict[str, dict[str, Any]] = {  # what tells a model of each from the others, by config.json
    "bert": {},
    "mpnet": {},
    "modernbert": {"classifier_pooling": "cls"},
    "deberta-v2": {  # version 3
        "relative_attention": True,
        "position_buckets": 256,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
}
PARTS = ("all", "32", "1", "rivals", "memory")
CPU = torch.device("cpu")
PADDED_LENGTH = 128  # what the paper's code pads every sentence to


def random_model(size: str, max_tokens: int, ramp: str, family: str = "bert") -> DeeBert:
    layers, width, heads = SIZES[size]
    config = AutoConfig.for_model(
        family,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_tokens,
        initializer_range=0.05,  # more than usual, so that different sentences get visibly different answers
        **FAMILIES[family],
    )
    backbone = AutoModelForSequenceClassification.from_config(config)
    return DeeBert(backbone, KINDS[ramp](layers - 1, width, 2)).eval()


def random_sentences(task: str, count: int, vocabulary: int) -> Encoded:
    rng = np.random.default_rng(0)
    lengths = np.interp(rng.random(count), QUANTILES, LENGTHS[task]).round().astype(int)
    return Encoded.of([rng.integers(1000, vocabulary, n) for n in lengths], [[0] * n for n in lengths])


def exit_shares(num_layers: int, saved: float) -> np.ndarray:
    """Shares (L,) of the samples that leave at each layer, of geometric form, with the saving of equation 2."""
    layers = np.arange(1, num_layers + 1)
    low, high = -2.0, 2.0
    while high - low > 1e-9:
        rate = (low + high) / 2
        shares = np.exp(rate * layers) / np.exp(rate * layers).sum()
        low, high = (low, rate) if shares @ layers > num_layers * (1 - saved) else (rate, high)
    return shares


def thresholds_for(entropies: np.ndarray, shares: np.ndarray) -> tuple[float, ...]:
    """A threshold per ramp such that of all samples `shares` (L,) leave at each layer; `entropies` is (N, L)."""
    live = np.ones(len(entropies), dtype=bool)
    thresholds = []
    for layer, share in enumerate(shares[:-1]):
        there = np.sort(entropies[live, layer])
        leave = min(round(share * len(entropies)), len(there) - 1)
        thresholds.append(float((there[leave - 1] + there[leave]) / 2) if leave else 0.0)
        live &= entropies[:, layer] >= thresholds[-1]
    return tuple(thresholds)


def all_entropies(engine: Engine, sentences: Encoded) -> np.ndarray:
    """Entropy (N, L) at every head, as the engine itself computes it."""

    class Listener(Entropy):
        def step(self, logits: torch.Tensor, layer: int, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            heard.append(entropy(logits))
            return super().step(logits, layer, state)

    rows = []
    for sentence in sentences:
        heard: list[torch.Tensor] = []
        answers = engine.answer(sentence, Listener(NEXT_TO_NOBODY))
        rows.append(torch.cat([*heard, entropy(torch.from_numpy(answers.logits))]))
    return torch.stack(rows).numpy()


def compare(
    engine: Engine, sentences: Encoded, size: int, criteria: dict[str, Criterion], rounds: int
) -> dict[str, Any]:
    """Time of each criterion against the plain backbone, `size` sentences to a call."""
    batches = [sentences[start : start + size] for start in range(0, len(sentences), size)]
    result: dict[str, Any] = {}
    plain_s = []
    for name, criterion in criteria.items():
        times = race(engine.answer, partial(engine.answer, criterion=criterion), batches, rounds)
        plain_s.append(np.median(times.plain.sum(axis=1)))
        layers = np.concatenate([engine.answer(batch, criterion).exit_layers for batch in batches])
        layers_saved = layers_saved_frac(float(layers.mean()), engine.num_layers)
        saved = times.time_saved()
        result[name] = {"layers_saved_frac": round(layers_saved, 3), **{k: round(v, 3) for k, v in saved.items()}}
        if layers_saved > 0:
            result[name]["time_saved_per_layers_saved"] = round(saved["time_saved_frac"] / layers_saved, 3)
    return {"plain_samples_per_s": round(len(sentences) / float(np.median(plain_s)), 2), **result}


def walk(backbone: Any, inputs: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the hidden states (B, T, H) after layer 1, 2, ... of a BERT; who stops asking runs no deeper layer."""
    hidden = backbone.bert.embeddings(input_ids=inputs["input_ids"])
    mask = create_bidirectional_mask(
        config=backbone.config, inputs_embeds=hidden, attention_mask=inputs["attention_mask"]
    )
    for layer in backbone.bert.encoder.layer:
        hidden = layer(hidden, mask)
        yield hidden


def one_padded(model: DeeBert, sentence: Encoded, thresholds: tuple[float, ...]) -> int:
    """The exit layer of one sentence padded to 128 tokens, on Hugging Face's layers: the way of the paper's code."""
    padded = sentence.padded(np.array([0]), model.backbone.config.pad_token_id, CPU, PADDED_LENGTH)
    with torch.inference_mode():
        for layer, hidden in enumerate(walk(model.backbone, padded), 1):
            if layer < model.num_layers and entropy(model.ramps.ramp(layer, hidden[:, 0])) < thresholds[layer - 1]:
                break
    return layer


def hugging_face(backbone: Any, sentences: Encoded) -> None:
    """The whole data set through Hugging Face's own forward: sorted by length, padded, as many tokens to a batch."""
    for rows in batches_by_length(sentences.lengths, PACK_TOKENS):
        with torch.inference_mode():
            backbone(**sentences.padded(rows, backbone.config.pad_token_id, CPU))


def rivals(
    engine: Engine,
    untouched: DeeBert,
    sentences: Encoded,
    single: int,
    criterion: LayerThresholds,
    rounds: int,
) -> dict[str, Any]:
    """The engine against what people have: one padded sentence at a time, and Hugging Face's own forward."""
    own = copy.deepcopy(untouched.backbone).to(torch.bfloat16 if engine.precision == "bf16" else torch.float32)
    alone = list(sentences[:single])
    padded = [one_padded(untouched, sentence, criterion.thresholds_nats) for sentence in alone]
    against_padded = race(
        lambda _: [one_padded(untouched, sentence, criterion.thresholds_nats) for sentence in alone],
        lambda _: engine.answer(sentences, criterion),
        [None],
        rounds,
    )
    against_own = race(partial(hugging_face, own), engine.answer, [sentences], rounds)
    rate = np.median(against_padded.plain / against_padded.early_exit) * len(sentences) / single
    same = engine.answer(sentences, criterion).exit_layers[:single] == np.array(padded)
    return {
        "samples_per_s_over_one_at_a_time_padded_to_128_in_fp32": round(float(rate), 2),
        "same_exit_layer_as_there_frac": round(float(same.mean()), 4),
        "plain_samples_per_s_over_hugging_face_sorted_and_padded": round(
            float(np.median(against_own.plain / against_own.early_exit)), 3
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--ramp", choices=KINDS, default="pooler")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--lengths", choices=LENGTHS, default="SST-2")
    parser.add_argument("--samples", type=count, default=512, help="sentences of the batched part")
    parser.add_argument("--single", type=count, default=48, help="sentences of the part one at a time")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--parts", type=some_of(PARTS), default=PARTS, help=f"some of {','.join(PARTS)}; all of them")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = random_model(args.size, PADDED_LENGTH, args.ramp)
    untouched = copy.deepcopy(model)
    engine = Engine(model, args.precision, CPU)  # `gpu.py` is for GPUs
    sentences = random_sentences(args.lengths, args.samples, model.backbone.config.vocab_size)
    single = sentences[: args.single]
    entropies = all_entropies(engine, sentences)
    criteria: dict[str, Criterion] = {"threshold 0": Entropy(0.0), "nobody leaves": Entropy(NEXT_TO_NOBODY)}
    for saved in (0.3, 0.5, 0.7):
        fitted = thresholds_for(entropies, exit_shares(engine.num_layers, saved))
        criteria[f"{100 * saved:.0f} % saved"] = LayerThresholds(fitted, drop_points=0)
    half_saved = criteria["50 % saved"]
    result: dict[str, Any] = {
        "device": hardware_name(engine.device),
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        **{
            name: getattr(args, name)
            for name in ("size", "ramp", "precision", "lengths", "samples", "single", "rounds")
        },
    }
    if "all" in args.parts:
        result["all at once"] = compare(engine, sentences, len(sentences), criteria, args.rounds)
    if "32" in args.parts:
        result["32 at a time"] = compare(engine, sentences, 32, criteria, args.rounds)
    if "1" in args.parts:
        result["one at a time"] = compare(engine, single, 1, criteria, args.rounds)
    if "rivals" in args.parts:
        result["at 50 % saved"] = rivals(engine, untouched, sentences, args.single, half_saved, args.rounds)
    if "memory" in args.parts:
        peaks = []
        for times_as_many in (1, 4):
            engine.answer(sentences.take(np.tile(np.arange(len(sentences)), times_as_many)), half_saved)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        result["peak_memory_mib"] = {"once": round(peaks[0]), "four times the samples": round(peaks[1])}
    print(json.dumps(result))


if __name__ == "__main__":
    with told_in_one_line():
        main()
