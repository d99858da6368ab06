"""Answers by the workers of a Ray cluster: batches of texts go to whoever is free, and come back in the order of rows.

The workers are plain actors. Ray Data would want its whole input in the cluster's memory, or on a disk that all its
machines share. Here the command's own machine reads the file and is a few batches ahead, so any file will do, and
memory does not grow with it. The model goes to the workers through Ray, too, and needs no shared disk.

A worker that dies costs the batches that it had. They go to the others, and a new worker takes its place.
"""

import heapq
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from deebert.base.errors import UserError, one_line
from deebert.inference.answering import Answering
from deebert.inference.classifier import Text

log = logging.getLogger(__name__)

AUTO = "auto"
CONNECT_S = 10  # until an address counts as one that cannot be reached
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


class Cluster:
    """A Ray cluster, as a context manager: within the block this process is connected to it.

    Args:
        address: HOST:PORT, or `auto`: what this program is connected to, else what RAY_ADDRESS says, else the cluster
            that `ray start` has made this machine a part of, else a new one of this machine alone, which ends with the
            block.
        threads: that a worker computes with; it takes as many cores, and on GPUs one GPU, too.

    Raises:
        UserError: Ray is missing, or the cluster cannot be reached.
    """

    def __init__(self, address: str, threads: int) -> None:
        self.threads = threads
        self._address = os.environ.get("RAY_ADDRESS") or AUTO if address == AUTO else address
        self._ray = _ray()
        self._is_ours = False

    def __enter__(self) -> Self:
        if self._address == AUTO and self._ray.is_initialized():
            return self
        before = signal.getsignal(signal.SIGTERM)
        try:
            log.info("ray: %s", self._connect())
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray has set its own
        self._is_ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def _connect(self) -> str:
        """Connect; return what to."""
        options = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        if self._address != AUTO:
            _check_reachable(self._address)
        try:
            if self._address == AUTO:
                try:
                    self._ray.init(num_cpus=_cores(), **options)
                    return f"started on this machine, with {_cores()} cores"
                except ValueError:  # there is a cluster, of which nobody may say how many cores it has
                    self._ray.init(**options)
            else:
                self._ray.init(self._address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--ray: cannot connect to {self._address}: {one_line(error)}") from None
        return f"connected to {self._ray.get_runtime_context().gcs_address}"

    def answers(self, answering: Answering, batches: Iterator[list[Text]]) -> Iterator[np.ndarray]:
        """Records of each batch of texts, in the order of the batches (see `Answering.records`).

        Raises:
            UserError: no worker can be had, they are of another kind than this process, or the same texts end one after
                another.
        """
        pool = _Pool(self._ray, answering, self.threads)
        try:
            yield from pool.answers(batches)
        finally:
            pool.end()


class _Pool:
    """The workers of one command."""

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


def _ray() -> Any:
    """The package, quiet and telling nobody that it is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(f"--ray: {error.name} is not installed; expected `pip install 'deebert[ray]'`") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def _check_reachable(address: str) -> None:
    """UserError where nothing answers at HOST:PORT; Ray itself would wait for a minute, and then end the process."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal():
        raise UserError(f"--ray: {address} is no address of a cluster; expected HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"--ray: cannot connect to {address}: {reason}") from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _places(nodes: list[dict[str, Any]], threads: int, gpus: int) -> int:
    """How many workers there is room for, in a cluster where nobody else is at work."""
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [int(room.get("CPU", 0)) // threads for room in rooms]
    return sum(min(each, int(room.get("GPU", 0))) if gpus else each for each, room in zip(cpus, rooms, strict=True))
