"""What one process of each machine does before the others do it, such as a download that they all need."""

from collections.abc import Callable
from typing import TypeVar

from detectron2.utils import comm

from eql_d2.errors import ToldByAnother, UserError

T = TypeVar("T")


def first_on_each_machine(act: Callable[[], T]) -> T:
    """Let the first process of each machine act, and the others once it is done; all processes have to call it.

    Args:
        act: finds for the others what the first has done, as a file in a cache.

    Raises:
        UserError: the first process of a machine raised one; it is told by one process alone, and the others raise
            :class:`ToldByAnother`.
    """
    if comm.get_world_size() == 1:
        return act()
    result, mistake = None, ""
    first = comm.get_local_rank() == 0
    if first:
        try:
            result = act()
        except UserError as error:
            mistake = str(error)
    mistakes = comm.all_gather(mistake)
    if any(mistakes):
        speaker = next(rank for rank, told in enumerate(mistakes) if told)
        raise (UserError if speaker == comm.get_rank() else ToldByAnother)(mistakes[speaker])
    return result if first else act()  # type: ignore[return-value]
