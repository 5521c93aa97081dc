"""Which of torchvision's published ImageNet weights a file holds, by its checksum."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from torchvision import models
from torchvision.models import WeightsEnum

from eql_d2.errors import UserError

HASH_DIGITS = 8  # of SHA-256, in the names of torchvision's files


@lru_cache(maxsize=1)
def published_weights() -> dict[str, WeightsEnum]:
    """torchvision's weights of ResNets and ResNeXts by the checksum in their file's name."""
    found = {}
    for name in models.list_models(module=models, include=("resnet*", "resnext*")):
        for weights in models.get_model_weights(name):
            match = re.search(rf"-([0-9a-f]{{{HASH_DIGITS}}})\.pth$", weights.url)
            if match:
                found[match[1]] = weights
    return found


def check_imagenet_weights(path: Path) -> str:
    """Verify a file of torchvision's weights by its checksum, and say which it is.

    Args:
        path: the downloaded file.

    Returns:
        One sentence; a warning where the weights are not those that the papers start from.

    Raises:
        UserError: its name has the checksum of another file, as of a broken download.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:HASH_DIGITS]
    named = re.search(rf"-([0-9a-f]{{{HASH_DIGITS}}})\.pth$", path.name)
    if named and named[1] != digest:
        raise UserError(
            f"Weights {path} have the checksum {digest} and not the {named[1]} of their name; download them again."
        )
    return describe_checksum(digest)


def describe_checksum(digest: str) -> str:
    """One sentence on the weights of a checksum, see :func:`check_imagenet_weights`."""
    weights = published_weights().get(digest)
    if weights is None:
        return f"The checksum {digest} is of no weights that torchvision publishes; how they were trained is unknown."
    model = type(weights).__name__.removesuffix("_Weights")
    accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    fact = f"These are torchvision's {model} {weights.name} (top-1 {accuracy:.1f})"
    first = type(weights)["IMAGENET1K_V1"]
    if weights is first:
        return f"{fact}."
    return (
        f"WARNING: {fact}, but papers of that time start from {first.name} "
        f"(top-1 {first.meta['_metrics']['ImageNet-1K']['acc@1']:.1f}): {first.url.rpartition('/')[2]}."
    )
