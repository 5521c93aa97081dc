"""Images that cannot be read: named in evaluation, skipped and counted in training."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image, UnidentifiedImageError

from eql_d2.data.pictures import read_picture
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

DatasetDict = dict[str, Any]
REPORT_KEY = "unreadable_images"


class UnreadableImageError(UserError):
    """An image that is missing, unreadable, or not of the annotated size.

    Args:
        message: the sentence that says so.
        file_name: the image.
    """

    def __init__(self, message: str, file_name: str = "") -> None:
        super().__init__(message)
        self.file_name = file_name


class NamingMapper:
    """Detectron2's mapper with errors that name the image.

    Args:
        mapper: what turns a dataset dict into the model's input.
    """

    def __init__(self, mapper: Callable[[DatasetDict], DatasetDict]) -> None:
        self._mapper = mapper

    def __call__(self, dataset_dict: DatasetDict) -> DatasetDict:
        """Map one dataset dict.

        Raises:
            UnreadableImageError: the image is missing, unreadable, or not of the annotated size.
        """
        try:
            return self._mapper(dataset_dict)
        except (MemoryError, UserError):
            raise
        except Exception as error:
            reason = _reason(dataset_dict, error)
            if reason is None:
                raise
            file_name = dataset_dict["file_name"]
            raise UnreadableImageError(f"Image {file_name} {reason}", file_name) from None


def _reason(dataset_dict: DatasetDict, error: Exception) -> str | None:
    """What is wrong with the image, or None if the error is none of its reading."""
    if isinstance(error, FileNotFoundError):
        return "does not exist; complete the dataset's images."
    if isinstance(error, SizeMismatchError):
        return (
            f"is not {dataset_dict['width']}x{dataset_dict['height']} as annotated; correct these, or fetch it again."
        )
    if isinstance(error, UnidentifiedImageError):
        return "cannot be read (it is no picture); fetch it again."
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return (
            f"has over {limit} pixels, and such a file may be made to fill the memory; scale it down or cut it into "
            "tiles, or raise PIL.Image.MAX_IMAGE_PIXELS in a module of ENGINE.IMPORT."
        )
    if isinstance(error, OSError) or _reading_fails(dataset_dict["file_name"]):
        return f"cannot be read ({' '.join(str(error).split())}); fetch it again."
    return None


def _reading_fails(file_name: str) -> bool:
    """Whether the image alone raises an error; Pillow's decoders raise many kinds, e.g. SyntaxError for PNG."""
    try:
        read_picture(file_name, "BGR")
    except Exception:
        return True
    return False


class UnreadableImages:
    """The distinct images that training skipped: counted, logged once each, and limited.

    Args:
        limit: largest number of them, ``DATALOADER.MAX_UNREADABLE_IMAGES``.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sentences: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sentences)

    @property
    def sentences(self) -> dict[str, str]:
        """{file name: what is wrong with it}."""
        return dict(self._sentences)

    def restore(self, sentences: Mapping[str, str]) -> None:
        """Take up what an earlier run has logged already."""
        self._sentences.update(sentences)

    def add(self, sentences: Mapping[str, str]) -> None:
        """Count and log the images that are new.

        Args:
            sentences: {file name: what is wrong with it}.

        Raises:
            UserError: they are more than the limit.
        """
        for file_name, sentence in sentences.items():
            if file_name not in self._sentences:
                self._sentences[file_name] = sentence
                if self.limit:
                    logger.warning("Skipped unreadable image %d: %s", len(self), sentence)
        if len(self) > self.limit:
            raise too_many_unreadable(self._sentences, self.limit)


def too_many_unreadable(sentences: Mapping[str, str], limit: int) -> UserError:
    """The error of more unreadable images than the limit, or of no other image left.

    Args:
        sentences: {file name: what is wrong with it}, in the order in which they were met.
        limit: ``DATALOADER.MAX_UNREADABLE_IMAGES``.
    """
    last = list(sentences.values())[-1]
    if not limit:
        return UserError(last)
    if len(sentences) <= limit:
        return UserError(f"No training image was found in place of {len(sentences)} unreadable ones; the last: {last}")
    return UserError(
        f"{len(sentences)} training images cannot be read, and DATALOADER.MAX_UNREADABLE_IMAGES is {limit}; "
        f"the last: {last}"
    )
