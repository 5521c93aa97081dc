"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
"""What tells a run to stop."""
DELAY_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Let the system send this process a signal when the one that started it is gone; Linux only, else nothing.

    Args:
        number: the signal; SIGKILL for a process that has nothing to lose.
        parent: process id of the parent, in case that it is gone already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def leave_stopping_to_parent(*_: object) -> None:
    """Let a loader's worker end when its parent does and not before: the parent may have a step to finish.

    A terminal and a scheduler signal all processes of a run at once; a worker that is gone at once would end the
    parent's step by an error. SIGTERM ends it a little later, as it may also come from the parent alone. Meant as
    ``worker_init_fn``.
    """
    _end_when_parent_is_gone()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, DELAY_SECONDS))


def end_pool_worker_with_parent(*_: object) -> None:
    """Let a process of a pool end when its parent does, which alone takes Ctrl-C; meant as ``initializer``."""
    _end_when_parent_is_gone()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_when_parent_is_gone() -> None:
    signal.set_wakeup_fd(-1)  # the parent's, when forked
    for number in STOP_SIGNALS[1:]:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
