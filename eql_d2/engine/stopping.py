"""Stopping a run from outside: the step is finished, a checkpoint written, every process ends.

A process of a run takes SIGTERM, SIGINT and SIGHUP alike, also where the shell that started it ignores SIGINT, as it
does in the background of a script; SIGHUP stays ignored under nohup. In evaluation, and before training, it ends at
once. What does not end by itself is ended: a collective operation may wait for a process that is gone.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import Checkpointer
from detectron2.engine import HookBase
from detectron2.utils import comm

from eql_d2.child_processes import STOP_SIGNALS
from eql_d2.losses.distributed import sum_over_processes

STOPPED_STATUS = 75
"""Exit status of a run that was stopped and can be resumed from a checkpoint (EX_TEMPFAIL: try again)."""
REPEAT_SECONDS = 3.0  # a terminal and the parent process both tell of one Ctrl-C


class RunStopped(SystemExit):
    """A run ends because it was told to.

    Args:
        signal_number: that told it.
        checkpoint: what it can be resumed from; empty if there is nothing.

    Attributes:
        code: exit status: :data:`STOPPED_STATUS` with a checkpoint, else 128 and the signal's number, as of a process
            that the signal ended.
        sentence: for the user.
    """

    code: int

    def __init__(self, signal_number: int, checkpoint: str = "") -> None:
        super().__init__(STOPPED_STATUS if checkpoint else 128 + signal_number)
        way_out = f"go on from {checkpoint} with --resume" if checkpoint else "there is no checkpoint to go on from"
        self.signal_number = signal_number
        self.checkpoint = checkpoint
        self.sentence = f"stopped by {signal.Signals(signal_number).name}; {way_out}"


class StopRequest:
    """What a process has been told, and whether it has a step to finish first.

    Attributes:
        signal_number: of the first signal; None as long as there is none.
        has_step: True while a step trains; else a signal raises :class:`RunStopped` where the process is.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.has_step = False
        self._since = 0.0

    @contextlib.contextmanager
    def listen(self, grace: float) -> Iterator[None]:
        """Take the signals inside the block.

        Args:
            grace: seconds after which a process that was told to end is ended.
        """
        if threading.current_thread() is not threading.main_thread():  # which alone takes signals
            yield
            return
        self.signal_number, self.has_step = None, False
        before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGCHLD)}
        heard, told = os.pipe()
        os.set_blocking(told, False)
        ended = threading.Event()
        threading.Thread(target=_end_after_grace, args=(heard, grace, ended), daemon=True).start()
        wakeup = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if not (number == getattr(signal, "SIGHUP", None) and before[number] == signal.SIG_IGN):
                signal.signal(number, self._take)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            ended.set()
            os.close(told)
            self.signal_number, self.has_step = None, False

    def _take(self, number: int, _: Any) -> None:
        if self.signal_number is not None:
            if time.monotonic() - self._since > REPEAT_SECONDS:  # impatience, or the end of a scheduler's
                os._exit(128 + number)
            return
        self.signal_number, self._since = number, time.monotonic()
        # Loaders' workers may have been told as well; PyTorch raises an error when one ends.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not self.has_step:
            raise RunStopped(number)


stop_request = StopRequest()
"""That of this process."""


def _end_after_grace(heard: int, grace: float, ended: threading.Event) -> None:
    """End the process some time after a signal; the main thread may wait for what never comes, and not see it."""
    while True:
        numbers = os.read(heard, 1)
        if not numbers:
            os.close(heard)
            return
        if numbers[0] in STOP_SIGNALS:
            if ended.wait(grace):
                continue
            os.write(2, f"stopped: {grace:g} seconds after {signal.Signals(numbers[0]).name}, without more\n".encode())
            os._exit(128 + numbers[0])


class StopWhenAsked(HookBase):
    """Ends training after the step in which some process was told to stop, with a checkpoint.

    Before the hooks that evaluate and write, after all that have state. What processes do not have in common is
    gathered into the checkpoint (``local_state`` of a hook), so that the resumed run equals one that was not stopped.

    Args:
        checkpointer: of the run.
        eval_period: ``TEST.EVAL_PERIOD``.
    """

    def __init__(self, checkpointer: Checkpointer, eval_period: int) -> None:
        self._checkpointer = checkpointer
        self._eval_period = eval_period
        self._local_states: list[dict[str, Any]] = []

    def before_step(self) -> None:
        """From here on the step is finished first."""
        stop_request.has_step = True
        self._local_states = []

    def after_step(self) -> None:
        """Stop if some process was told to; the same decision on all of them."""
        iteration = self.trainer.iter + 1
        number = self._agreed_signal()
        evaluates = iteration == self.trainer.max_iter or (self._eval_period > 0 and iteration % self._eval_period == 0)
        if number or evaluates:
            self._gather_local_states()
        if number and iteration < self.trainer.max_iter:
            self.save()
            comm.synchronize()  # before a process that is gone can fail the others
            raise RunStopped(number)
        if evaluates:
            stop_request.has_step = False
            self._raise_if_told()

    def after_train(self) -> None:
        """Do not begin the last evaluation if told to stop."""
        stop_request.has_step = False
        self._raise_if_told()

    def _raise_if_told(self) -> None:
        if stop_request.signal_number is not None and self.trainer.iter + 1 >= self.trainer.max_iter:
            raise RunStopped(stop_request.signal_number)

    def _agreed_signal(self) -> int:
        told = stop_request.signal_number or 0
        if comm.get_world_size() == 1:
            return told
        device = next(self.trainer.model.parameters()).device
        told_by_all = sum_over_processes(torch.tensor([told, told > 0], device=device))
        # Processes may have got different signals; which of them is named does not matter.
        return int(told_by_all[0] / told_by_all[1]) if told_by_all[1] else 0

    def _gather_local_states(self) -> None:
        if comm.get_world_size() == 1:
            mine = self._local_state()
            self._local_states = [mine] if mine else []
        else:
            self._local_states = comm.all_gather(self._local_state())

    def _local_state(self) -> dict[str, Any]:
        hooks = [hook for hook in self.trainer._hooks if hasattr(hook, "local_state")]
        return {type(hook).__qualname__: hook.local_state() for hook in hooks}

    def save(self) -> None:
        """Write the checkpoint of the last step, if that is complete and has none; on the first process."""
        name = f"model_{self.trainer.iter:07d}"
        if not (self._local_states and comm.is_main_process() and self.trainer.iter < self.trainer.max_iter - 1):
            return
        if Path(self._checkpointer.get_checkpoint_file()).stem != name:
            self._checkpointer.save(name, iteration=self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        """What the processes do not have in common, if it has been gathered in this step."""
        return {"local_states": self._local_states} if self._local_states else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the hooks what this process had; with another number of processes there is no such thing."""
        states = state_dict["local_states"]
        if len(states) != comm.get_world_size():
            return
        for hook in self.trainer._hooks:
            state = states[comm.get_rank()].get(type(hook).__qualname__)
            if state is not None:
                hook.load_local_state(state)
