"""What `recorded.py` needs of CUDA: work as a graph, a second stream, and memory that both sides see."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

# PyTorch has 32 streams of a GPU and hands them out in turn. So two models may have the same ones.
_one_records = threading.Lock()


class CudaGraphs:
    """Graphs of one GPU. None of them may be replayed while another one is."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()  # one for all, since none runs beside another
        self._recording, self._aside = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._is_beside = False

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do `work`, and record it; what is returned does it again, on the same memory.

        Done once before, it has loaded what it runs. It must not wait for the GPU, nor depend on what is there. Where
        it fails, as without memory, nothing is left under way, and the next one can be recorded.
        """
        current = torch.cuda.current_stream(self._device)
        with _one_records:
            self._recording.wait_stream(current)
            try:
                with torch.cuda.stream(self._recording):
                    work()
                    return self._captured(work)
            finally:
                self._is_beside = False
                for stream in (self._recording, self._aside):
                    current.wait_stream(stream)

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Not by `torch.cuda.graph`, which gives all free memory back each time.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            if self._is_beside:  # else the end would be another error
                self.join()
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            self._pool = torch.cuda.graph_pool_handle()  # the old one may still be taken for one that records
            raise
        graph.capture_end()
        return graph.replay

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """A block that runs beside what follows it, until `join`."""
        self._aside.wait_stream(torch.cuda.current_stream(self._device))
        self._is_beside = True
        with torch.cuda.stream(self._aside):
            yield

    def join(self) -> None:
        """Have what follows wait for the block."""
        torch.cuda.current_stream(self._device).wait_stream(self._aside)
        self._is_beside = False

    def seen_by_both(self, count: int) -> tuple[np.ndarray, Tensor]:
        """`count` numbers, int64, as the host sees them and as the GPU does: memory of the host that both use.

        What a kernel writes there the host sees at once; a copy would take 10 us more to begin.
        """
        ours = torch.zeros(count, dtype=torch.int64, device="cpu", pin_memory=True)
        return ours.numpy(), torch.as_tensor(_OnGpu(ours), device=self._device)

    def is_idle(self) -> bool:
        """Whether all that was started has been done.

        Raises:
            RuntimeError: it failed.
        """
        return torch.cuda.current_stream(self._device).query()

    def wait(self) -> None:
        """Until all that was started has been done, or has failed."""
        with contextlib.suppress(RuntimeError):
            torch.cuda.current_stream(self._device).synchronize()


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
