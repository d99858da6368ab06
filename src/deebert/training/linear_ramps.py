"""Linear ramps: multinomial logistic regression on standardised states, trained to its optimum.

The penalised loss is convex, so there is no learning rate and no number of epochs. What is to be set, the strength of
the penalty, is chosen by cross-validation on training samples. No validation sample is read for it. But the backbone
has been trained on those samples, so where it knows them by heart the penalty is too weak for others.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from deebert.base.rows import Row
from deebert.ramps import LinearRamps, Ramps
from deebert.training import finite
from deebert.training.logistic import Axes, Batch, Problem, Weights, losses_on
from deebert.training.ramp_plan import STAGE, RampPlan, Standard, curve_rows, shown
from deebert.training.stops import stop_requests, stopped

log = logging.getLogger(__name__)

STRENGTHS = tuple((10.0 ** np.arange(4.0, -1.0, -0.5)).tolist())  # from the strongest, whose optimum is found fastest
FOLDS = 3
BATCH, SCATTERED = 1024, 128  # samples at a time, which bound the memory: of those apart whole stretches are mapped
MAX_CHOOSING = 3000  # samples to choose on; a strength is a prior's, so what these say of it holds for more
PATIENCE = 2  # strengths in a row that are worse than the best one before the search ends
CLOSE, OPTIMAL = 1e-3, 3e-4  # largest derivative where to stop, while choosing and in the end


def train_linear_ramps(plan: RampPlan, standard: Standard) -> tuple[Ramps, list[Row]]:
    """Choose the strength of each ramp's penalty, then take all ramps to their optimum.

    Returns:
        The ramps, which read standardised states; and their curve. An epoch is a pass over all samples, and a step one
        of L-BFGS, which may take more than one pass.

    Raises:
        UserError: states or weights are not finite, or SIGTERM.
    """
    count, device = len(plan.train), standard.device
    labels = torch.tensor(plan.train.labels).to(device)  # a copy: a column of a table may be read-only
    rows: list[Row] = []
    with logging_redirect_tqdm(), stop_requests() as asked_to_stop:

        def check() -> None:
            if reason := asked_to_stop():
                raise stopped(STAGE, reason, "nothing is written")

        def read(rows: np.ndarray) -> Batch:
            check()
            return standard.read(plan.train, rows), labels[torch.from_numpy(rows).to(device)]

        folds = [joined(map(read, pieces(rows))) for rows in drawn_folds(count, plan.seed)]
        axes = Axes.of(folds)
        strengths = choose_strengths(folds, axes, plan.num_labels, check, device)
        log.info("penalties, chosen on training samples: %s", ", ".join(f"{each:.3g}" for each in strengths))
        del folds  # up to a few hundred MB
        passed = standard.passes(plan.train, BATCH)

        def batches() -> Iterator[Batch]:
            for batch in zip(passed(), labels.split(BATCH), strict=True):
                check()
                yield batch

        problem = Problem(batches, count, axes, strengths, plan.num_labels, device)
        with tqdm(desc="ramps", unit="pass", disable=None) as bar:

            def scores(weights: Weights) -> list[float]:
                return standard.scores(ramps_of(weights).to(device), plan.validation, plan.metric)

            def note(step: int, weights: Weights) -> None:
                bar.update(problem.passes - bar.n)
                bar.set_postfix(loss=f"{problem.losses.sum():.4f}", refresh=False)
                rows.extend(curve_rows(problem.passes, step, "train", "loss", problem.losses.tolist()))
                rows.extend(curve_rows(problem.passes, step, "validation", plan.metric, scores(weights)))

            best = problem.solve(OPTIMAL, noted=note)
    ramps = ramps_of(best)
    finite.check_weights(ramps.parameters(), STAGE, "are the states too large?")
    log.info("optimum after %d passes: validation %s %s", problem.passes, plan.metric, shown(scores(best)))
    return ramps, rows


def drawn_folds(count: int, seed: int) -> list[np.ndarray]:
    """The samples that choose a strength, in `FOLDS` folds, or fewer where there are fewer samples; each rising."""
    drawn = np.random.default_rng(seed).permutation(count)[:MAX_CHOOSING]
    return [np.sort(rows) for rows in np.array_split(drawn, min(FOLDS, count))]


def pieces(rows: np.ndarray) -> list[np.ndarray]:
    """Rows that lie apart in the file, few at a time."""
    return np.split(rows, range(SCATTERED, len(rows), SCATTERED))


def joined(batches: Iterable[Batch]) -> Batch:
    """All samples of `batches` in one."""
    states, labels = zip(*batches, strict=True)
    return torch.cat(states, dim=1), torch.cat(labels)


def choose_strengths(
    folds: Sequence[Batch],
    axes: Axes,
    num_labels: int,
    check: Callable[[], None] = lambda: None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """For each ramp the strength (R,) with the least cross-entropy on folds that were not trained on.

    From the strongest on, each strength starts from the optimum of the one before. The search ends once for every ramp
    `PATIENCE` strengths in a row were worse than its best. Of equals the stronger is taken.

    Args:
        check: called before each pass.
    """
    if len(folds) == 1:  # a single sample; the rest would be none
        return np.full(axes.num_ramps, STRENGTHS[0])
    losses: list[np.ndarray] = []
    starts: list[Weights | None] = [None] * len(folds)
    for strength in tqdm(STRENGTHS, desc="ramps: penalty", unit="strength", disable=None):
        losses.append(np.zeros(axes.num_ramps))
        for k, held_out in enumerate(folds):
            rest = [fold for i, fold in enumerate(folds) if i != k]

            def batches(rest: Sequence[Batch] = rest) -> Iterable[Batch]:
                check()
                return rest

            problem = Problem(batches, sum(len(labels) for _, labels in rest), axes, strength, num_labels, device)
            starts[k] = problem.solve(CLOSE, starts[k])
            losses[-1] += losses_on([held_out], starts[k])
        if (len(losses) - 1 - np.argmin(losses, axis=0) >= PATIENCE).all():
            break
    return np.array(STRENGTHS)[np.argmin(losses, axis=0)]


def ramps_of(weights: Weights) -> LinearRamps:
    """Ramps on the CPU with these weights."""
    weight, bias = (torch.from_numpy(each).float() for each in weights)
    ramps = LinearRamps(len(weight), weight.shape[2], weight.shape[1])
    ramps.load_state_dict({"out_weight": weight, "out_bias": bias})
    return ramps.eval()
