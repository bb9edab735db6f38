"""Becomes the program named by its arguments, tied to the life of the process that started it: `leash.py PARENT PROGRAM ARG...`

On Linux the kernel kills it (SIGKILL) when PARENT dies, however PARENT dies. Elsewhere it becomes the program and nothing more.
Run as a script of its own, so that nothing of Python is called between fork and exec of a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the line above
            os._exit(1)
    os.execvp(program, [program, *arguments])


if __name__ == "__main__":
    main()
