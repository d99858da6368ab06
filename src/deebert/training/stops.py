"""When a training is told to stop: Ctrl-C, SIGTERM, a closed terminal, or the end of DVC.

All processes of a training stop together.
"""

import enum
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deebert.base.errors import UserError
from deebert.base.stage import ENDINGS
from deebert.training import processes


class Stop(enum.IntEnum):
    """Why a training is to end; 0 stands for no reason."""

    CTRL_C = 1
    SIGTERM = 2
    END_OF_DVC = 3
    SIGHUP = 4

    @property
    def told(self) -> str:
        return ("Ctrl-C", "SIGTERM", "the end of DVC", "SIGHUP")[self - 1]


REASONS = {signal.SIGINT: Stop.CTRL_C, **{number: Stop[number.name] for number in ENDINGS}}


@contextmanager
def stop_requests() -> Iterator[Callable[[], Stop | None]]:
    """Yield a function to ask between two steps: why this process is to end now, or None while it is to go on.

    Reasons are Ctrl-C, SIGTERM (what `kill`, SLURM and clouds send first), SIGHUP (a terminal that is closed) and, in a
    stage, the end of the DVC that started it: DVC would delete whatever the stage still writes, and a new DVC find it
    in the way. A second Ctrl-C or SIGTERM does not wait for the next step. Of SIGHUP two are usual, by the system and
    by the shell.

    One of several processes does wait: torchrun sends each signal again that the processes have already had. For the
    same reason a process that leaves the block by an exception is deaf to all from then on.
    """
    received: list[Stop] = []
    parent = os.getppid() if "DVC_STAGE" in os.environ else None
    is_alone = processes.count() == 1

    def note(number: int, _frame: object) -> None:
        received.append(REASONS[number])
        if is_alone and REASONS[number] is not Stop.SIGHUP:
            signal.signal(number, before[number])

    def reason() -> Stop | None:
        if received:
            return received[0]
        return Stop.END_OF_DVC if parent is not None and os.getppid() != parent else None

    before = {number: signal.getsignal(number) for number in REASONS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    after = dict.fromkeys(before, signal.SIG_IGN)
    try:
        yield reason
        after = before
    finally:
        for number, handler in (before if is_alone else after).items():
            signal.signal(number, handler)


def stopped(stage: str, reason: Stop, state: str) -> BaseException:
    """What all processes raise on a `reason` to stop; `state` tells how `stage` leaves things."""
    told = f"{stage}: stopped by {reason.told}; {state}"
    return processes.told_once(KeyboardInterrupt(told) if reason is Stop.CTRL_C else UserError(told))
