"""What both trainings write down beside their weights: the points of a curve, and what a result depends on."""

import math
from typing import Any

import torch
import transformers

from deebert.training import processes

CURVE_POINTS = 50  # of the training loss, each the mean over the steps since the one before


def curve_points(steps: int) -> dict[int, int]:
    """CURVE_POINTS numbers of steps, as even as can be, each with the one before it; the last is `steps`."""
    ends = sorted({math.ceil(point * steps / CURVE_POINTS) for point in range(1, CURVE_POINTS + 1)})
    return dict(zip(ends, [0, *ends], strict=False))


def environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on beside seed and settings."""
    is_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
