"""A `python` for tests that start many: it has its server, see `server.py`, run what it was told to run.

It stands for that process: what it reads and prints, its folder, its environment and the files it has been handed open
are that process' own. It passes on SIGTERM and SIGINT, ends as that process ends, and if it is killed, that process is.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path


def handed_open() -> list[int]:
    """The files that this process has from its parent: all but those that it has opened itself."""
    handed = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the list's own is closed by now
            handed += [int(path.name)] if os.get_inheritable(int(path.name)) else []
    return sorted(handed)


def main() -> None:
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(Path(__file__).parent / "socket"))
    request = {"program": __file__, "arguments": sys.argv[1:], "folder": str(Path.cwd())}
    request["environment"] = dict(os.environ)
    request["max_file_bytes"] = resource.getrlimit(resource.RLIMIT_FSIZE)
    request["files"] = handed_open()
    content = json.dumps(request).encode()
    socket.send_fds(server, [len(content).to_bytes(4, "big")], request["files"])
    server.sendall(content)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    answer = server.recv(4)
    if len(answer) != 4:
        sys.exit("the server of warm Pythons has ended")
    status = int.from_bytes(answer, "big", signed=True)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
