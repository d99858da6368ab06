"""Locks on open files and folders. The kernel lets go of them when their process ends, however it ends.

Not every system has them, nor every disk: Windows and some of Lustre and FUSE do not.
"""

import errno

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


class NoLocksError(Exception):
    """The system or the disk has no locks; the message says what it answered."""


def try_lock(handle: int, shared: bool = False) -> bool:
    """Lock what `handle` has open; False where another process has it.

    Args:
        shared: with others that ask for no more.

    Raises:
        NoLocksError: nobody can lock anything there.
        OSError: whatever else the system refuses.
    """
    if fcntl is None:
        raise NoLocksError("the system has none")
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise NoLocksError(error.strerror) from None
        raise
    return True
