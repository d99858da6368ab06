"""What both trainings write down beside their weights: the points of a curve, and what a result depends on."""

import math
from fractions import Fraction
from typing import Any

import torch
import transformers

from deebert.training import processes

CURVE_POINTS = 50  # of the training loss, each the mean over the steps since the one before


def whole_steps(share: float, steps: int) -> int:
    """`share` times `steps`, rounded up; `share` is the decimal that was written, not the nearest binary fraction.

    1.1 epochs of 100 steps are 110 steps, where `math.ceil(1.1 * 100)` gives 111.
    """
    return math.ceil(Fraction(str(share)) * steps)


def curve_points(steps: int) -> dict[int, int]:
    """CURVE_POINTS numbers of steps, as even as can be, each with the one before it; the last is `steps`."""
    ends = sorted({math.ceil(Fraction(point * steps, CURVE_POINTS)) for point in range(1, CURVE_POINTS + 1)})
    return dict(zip(ends, [0, *ends], strict=False))


def environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on beside seed and settings.

    On a CPU a training gives the same bytes whenever all of this is the same. On a GPU it need not: some kernels of its
    backward pass add up in the order in which threads happen to finish, and PyTorch's deterministic ones, which are
    slower and do not exist for everything, are not asked for. The draws are the same there, and two runs differ by
    rounding that grows from step to step.
    """
    is_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
