"""What newer PyTorch warns of in Detectron2 and fvcore; who uses this project's tools cannot act on it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGES = (
    ".*torch.jit.script",
    "torch.meshgrid",
    ".*broadcast_buffers",
    ".*given NumPy array is not writable",
    "TypedStorage is deprecated",
    "This DataLoader will create",  # more processes than the machine has cores: said by PyTorch for each loader
)


def silence_known_warnings() -> None:
    """Ignore them from now on, in this process. The tools do so; importing this package does not."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Ignore them inside the block."""
    with warnings.catch_warnings():
        silence_known_warnings()
        yield
