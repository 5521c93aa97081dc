"""Long-tailed object detection and instance segmentation on Detectron2."""

import warnings

__version__ = "0.1.0"

# Detectron2 and fvcore use what newer PyTorch deprecates; a user of this project cannot act on it.
for _message in (
    ".*torch.jit.script",
    "torch.meshgrid",
    ".*broadcast_buffers",
    ".*given NumPy array is not writable",
    "TypedStorage is deprecated",
):
    warnings.filterwarnings("ignore", message=_message)
