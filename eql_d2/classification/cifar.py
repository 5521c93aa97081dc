"""CIFAR-10 and CIFAR-100 from their public archives, by torchvision."""

import fcntl
import logging
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from eql_d2.classification.image_set import ImageSet
from eql_d2.errors import UserError

SETS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}

logger = logging.getLogger(__name__)


def read_cifar(family: str, split: str, root: Path) -> ImageSet:
    """Read CIFAR; its archive is downloaded where it is not there yet, and its checksum verified.

    Args:
        family: "cifar10" or "cifar100".
        split: "train" or "test".
        root: folder of the archive and of what is unpacked from it.

    Raises:
        UserError: the archive is damaged, or is not there and cannot be downloaded.
    """
    dataset = SETS[family]
    archive = root / dataset.filename
    is_unpacked = (root / dataset.base_folder).is_dir()
    if archive.exists() and not check_integrity(str(archive), dataset.tgz_md5):
        raise UserError(
            f"{archive} is damaged (its MD5 checksum is not {dataset.tgz_md5}); delete it and get it again from "
            f"{dataset.url}."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f".{family}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a machine downloads, the others wait
            if not (archive.exists() or is_unpacked):
                logger.info("Downloading %s to %s.", dataset.url, root)
            content = dataset(str(root), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:  # no network; a download with another checksum
        raise UserError(
            f"{family} is not in {root} and cannot be downloaded ({error}); get {dataset.url} (MD5 "
            f"{dataset.tgz_md5}) elsewhere and put it there, or set DETECTRON2_DATASETS to the folder that has it."
        ) from None
    return ImageSet(f"{family}_{split}", tuple(content.classes), np.array(content.targets, np.int64), content.data)
