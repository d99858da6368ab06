"""Workers in other processes: batches of texts go to whoever is free, and their answers come back in order.

They are plain actors of Ray. Ray Data would want its whole input in the cluster's memory, or on a disk that all its
machines share. Here the command's own machine reads the file and is a few batches ahead, so any file will do, and
memory does not grow with it. The model goes to the workers through Ray, too, and needs no shared disk.

A worker that dies costs the batches that it had. They go to the others, and a new worker takes its place.
"""

import heapq
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deebert.base.errors import UserError, one_line
from deebert.inference.answering import Answering
from deebert.inference.classifier import Text

log = logging.getLogger(__name__)

PATIENCE_S = 30  # without a worker, until that is told
QUEUE = 2  # batches that a worker has: while it answers one, the next is on its way
AHEAD = 4  # batches per worker that are read before the first of them is answered
MAX_DEATHS = 3  # of workers over the same batch, or before they have begun; then it is no accident


class Answerer:
    """What a worker does, in a process of its own."""

    def __init__(self, answering: Answering, threads: int) -> None:
        torch.set_num_threads(threads)
        self._answering = answering

    def about(self) -> tuple[dict[str, str], str]:
        """What its answers depend on, and what its last bits depend on."""
        return self._answering.classifier.identity, torch.backends.cpu.get_cpu_capability()

    def records(self, texts: list[Text]) -> np.ndarray:
        return self._answering.records(texts)


@dataclass(order=True)
class _Batch:
    """A batch of texts, which Ray keeps until it is answered, and how many workers have died over it."""

    number: int
    texts: Any = field(compare=False)
    deaths: int = field(default=0, compare=False)


@dataclass
class _Worker:
    """An actor, and what it has been asked and has not answered: at first about itself."""

    actor: Any
    asked: deque[tuple[Future, _Batch | None]]

    @property
    def is_up(self) -> bool:
        return not self.asked or self.asked[0][1] is not None


class Pool:
    """The workers of one command.

    Args:
        ray: the package, connected to a cluster.
        threads: that a worker computes with.

    Raises:
        UserError: the cluster has no machine for a worker.
    """

    def __init__(self, ray: Any, answering: Answering, threads: int) -> None:
        self._ray = ray
        self._identity = answering.classifier.identity
        gpus = int(self._identity["device"] == "cuda")
        self._size = _places(ray.nodes(), threads, gpus)
        if not self._size:
            needed = f"{threads} cores{' and a GPU' if gpus else ''}"
            raise UserError(f"--ray: no machine of the cluster has {needed}, which a worker takes")
        self._hardware: str | None = None
        self._kind = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Answerer)
        self._given = ray.put(Answering(answering.classifier, answering.threshold_nats)), threads
        self._workers = [self._started() for _ in range(self._size)]
        self._failed_starts = 0
        self._again: list[_Batch] = []  # a heap
        self._answered: dict[int, np.ndarray] = {}
        self._read = self._given_out = 0  # batches
        self._is_read = False  # all of them

    def _started(self) -> _Worker:
        actor = self._kind.remote(*self._given)
        return _Worker(actor, deque([(actor.about.remote().future(), None)]))

    def answers(self, batches: Iterator[list[Text]]) -> Iterator[np.ndarray]:
        """See `Cluster.answers`."""
        while True:
            self._hand_out(batches)
            while self._given_out in self._answered:
                yield self._answered.pop(self._given_out)
                self._given_out += 1
                self._hand_out(batches)
            if self._is_read and self._given_out == self._read:
                return
            self._receive()

    def _hand_out(self, batches: Iterator[list[Text]]) -> None:
        """Give batches to all workers that can take one."""
        while free := [worker for worker in self._workers if worker.is_up and len(worker.asked) < QUEUE]:
            batch = heapq.heappop(self._again) if self._again else self._next(batches)
            if batch is None:
                return
            worker = min(free, key=lambda each: len(each.asked))
            worker.asked.append((worker.actor.records.remote(batch.texts).future(), batch))

    def _next(self, batches: Iterator[list[Text]]) -> _Batch | None:
        if self._read - self._given_out >= AHEAD * self._size:
            return None
        texts = next(batches, None)
        if texts is None:
            self._is_read = True
            return None
        self._read += 1
        return _Batch(self._read - 1, self._ray.put(texts))

    def _receive(self) -> None:
        """Wait until a worker answers, or has died, and see to all that have."""
        # Futures, as in Ray's own waiting a signal is lost or taken for Ctrl-C.
        first = {worker.asked[0][0]: worker for worker in self._workers if worker.asked}
        done, _ = wait(first, PATIENCE_S, FIRST_COMPLETED)
        if not done and not any(worker.is_up for worker in self._workers):
            free = self._ray.available_resources().get("CPU", 0)
            log.warning("ray: no worker could be started yet; %g cores of the cluster are free; waiting", free)
        for future in done:
            worker = first[future]
            if (error := future.exception()) is not None:
                self._bury(worker, error)
            elif (batch := worker.asked.popleft()[1]) is None:
                self._failed_starts = 0
                self._check_about(*future.result())
            else:
                self._answered[batch.number] = future.result()

    def _check_about(self, identity: dict[str, str], hardware: str) -> None:
        if identity != self._identity:
            differ = [
                f"{key} {identity[key]} (here {here})" for key, here in self._identity.items() if identity[key] != here
            ]
            raise UserError(f"--ray: a worker would answer otherwise than this machine: {', '.join(differ)}")
        if self._hardware not in (None, hardware):
            log.warning("ray: processors differ (%s, %s), so last digits may, too", self._hardware, hardware)
        self._hardware = hardware

    def _bury(self, worker: _Worker, error: BaseException) -> None:
        """Give what a dead worker had to others, and start another one; other errors are raised."""
        if not isinstance(error, self._ray.exceptions.RayActorError):
            cause = getattr(error, "cause", error)
            raise cause if isinstance(cause, UserError) else error
        if error.actor_init_failed:
            last = str(error).strip().splitlines()[-1]
            raise UserError(f"--ray: a worker cannot start; each machine needs the same deebert: {last.strip()}")
        self._workers.remove(worker)
        batches = [batch for _, batch in worker.asked if batch is not None]
        if batches:
            batches[0].deaths += 1
        else:
            self._failed_starts += not worker.is_up
        if max(self._failed_starts, *(batch.deaths for batch in batches[:1]), 0) >= MAX_DEATHS:
            what = "the same rows" if batches else "starting"
            raise UserError(f"--ray: {MAX_DEATHS} workers died of {what}, one after another: {one_line(error)}")
        log.warning("ray: a worker died; its rows go to another one")
        for batch in batches:
            heapq.heappush(self._again, batch)
        self._workers.append(self._started())

    def end(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)


def _places(nodes: list[dict[str, Any]], threads: int, gpus: int) -> int:
    """How many workers there is room for, in a cluster where nobody else is at work."""
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [int(room.get("CPU", 0)) // threads for room in rooms]
    return sum(min(each, int(room.get("GPU", 0))) if gpus else each for each, room in zip(cpus, rooms, strict=True))
