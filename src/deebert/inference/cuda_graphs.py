"""What `recorded.py` needs of CUDA: work as a graph, a second stream, and memory that both sides see."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


class CudaGraphs:
    """Graphs of one GPU. None of them may be replayed while another one is."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()  # one for all, since none runs beside another
        self._recording, self._aside = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do `work`, and record it; what is returned does it again, on the same memory.

        Done once before, it has loaded what it runs. It must not wait for the GPU, nor depend on what is there.
        """
        graph = torch.cuda.CUDAGraph()
        self._recording.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._recording):
            work()
            # Not by `torch.cuda.graph`, which gives all free memory back each time.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self._device).wait_stream(self._recording)
        return graph.replay

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """A block that runs beside what follows it, until `join`."""
        self._aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._aside):
            yield

    def join(self) -> None:
        """Have what follows wait for the block."""
        torch.cuda.current_stream(self._device).wait_stream(self._aside)

    def seen_by_both(self, count: int) -> tuple[np.ndarray, Tensor]:
        """`count` numbers, int64, as the host sees them and as the GPU does: memory of the host that both use.

        What a kernel writes there the host sees at once; a copy would take 10 us more to begin.
        """
        ours = torch.zeros(count, dtype=torch.int64, pin_memory=True)
        return ours.numpy(), torch.as_tensor(_OnGpu(ours), device=self._device)

    def is_idle(self) -> bool:
        """Whether all that was started has been done.

        Raises:
            RuntimeError: it failed.
        """
        return torch.cuda.current_stream(self._device).query()


class _OnGpu:
    """A pinned tensor, told of as memory of the GPU. Source: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""

    def __init__(self, pinned: Tensor) -> None:
        self._pinned = pinned
        self.__cuda_array_interface__ = {
            "shape": tuple(pinned.shape),
            "typestr": "<i8",
            "data": (pinned.data_ptr(), False),
            "version": 3,
        }
