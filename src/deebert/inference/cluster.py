"""A Ray cluster, as far as a command needs it: found or started, and quiet. This alone imports Ray."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from deebert.base import cores
from deebert.base.errors import UserError, one_line
from deebert.inference.answering import Answering
from deebert.inference.classifier import Text
from deebert.inference.workers import Pool

log = logging.getLogger(__name__)

AUTO = "auto"
CONNECT_S = 10  # until an address counts as one that cannot be reached
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of a change to come
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # else a dead worker is a page on standard output
}


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
                    self._ray.init(num_cpus=cores.count(), **options)
                    return f"started on this machine, with {cores.count()} cores"
                except ValueError:  # there is a cluster, of which nobody may say how many cores it has
                    self._ray.init(**options)
            else:
                self._ray.init(self._address, **options)
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            *_, reason = str(error.__cause__ or error).strip().splitlines() or [""]  # the rest is a traceback
            raise UserError(f"--ray: cannot connect to {self._address}: {one_line(Exception(reason))}") from None
        return f"connected to {self._ray.get_runtime_context().gcs_address}"

    def answers(self, answering: Answering, batches: Iterator[list[Text]]) -> Iterator[np.ndarray]:
        """Records of each batch of texts, in the order of the batches (see `Answering.records`).

        Raises:
            UserError: no worker can be had, they are of another kind than this process, or the same texts end one after
                another.
        """
        pool = Pool(self._ray, answering, self.threads)
        try:
            yield from pool.answers(batches)
        finally:
            pool.end()


def _ray() -> Any:
    """The package, quiet and telling nobody that it is used."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
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
