"""Pictures of any depth as 8 bits: the one rule of the doctor, training and prediction.

Detectron2 cuts at 255, so that a grey picture of 16 bits is white, and Pillow keeps the upper half of the bits of one
in colour, so that one of 12 bits is black. Here whole numbers are scaled by the depth that the largest of them needs
(8, 10, 12, 14 or 16 bits, those of sensors; beyond these the largest is white), and floating-point numbers from 0 to 1,
from 0 to 255, or from the smallest to the largest, the first that holds them.
"""

import io
import logging
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from PIL import Image, UnidentifiedImageError

from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

EXIF_ORIENTATION = 0x0112
Size = tuple[int, int]

PREFIX = "eight-bits://"
"""Before a path: what is opened is a picture of 8 bits."""

BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow's decoders raise for files that are missing, broken or no pictures."""

_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})  # Pillow's, all grey
_DEEP_COLOURS = re.compile(r"\b(RGB|RGBA|RGBX|RGBa|LA);16")  # Pillow's, of the data in the file
_SENSOR_BITS = (8, 10, 12, 14, 16)


def is_deep(image: Image.Image) -> bool:
    """Whether a picture, opened but not yet loaded, has more than 8 bits a channel."""
    return image.mode in _DEEP_MODES or _has_deep_colours(image)


def _has_deep_colours(image: Image.Image) -> bool:
    return any(_DEEP_COLOURS.search(str(tile[3])) for tile in getattr(image, "tile", ()))


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of more than 8 bits as one of 8 bits, without transparency; any other as it is."""
    if _has_deep_colours(image):
        colours = _deep_colours(image)
        return image if colours is None else Image.fromarray(np.round(_scaled(colours, whole=True)).astype(np.uint8))
    if not is_deep(image):
        return image
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.round(_scaled(values, whole=image.mode != "F")).astype(np.uint8))


def _deep_colours(image: Image.Image) -> np.ndarray | None:
    """(H, W, 3) float64, what an opened file says, which Pillow does not keep; None where OpenCV cannot tell."""
    file: Any = getattr(image, "fp", None)
    if file is None:
        return None
    file.seek(0)
    data = file.read()
    image.load()  # raises what is wrong with a broken file; OpenCV would give a part of it
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    return values[:, :, 2::-1].astype(np.float64)


def _scaled(values: np.ndarray, whole: bool) -> np.ndarray:
    """Values from 0 to 255."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if whole and low >= 0:
        tops = [2**bits - 1 for bits in _SENSOR_BITS]
        return values * (255 / next((top for top in tops if high <= top), high))
    if not whole and low >= 0 and high <= 255:
        return values * 255 if high <= 1 else values
    return (values - low) * (255 / max(high - low, 1e-12))


def check_png(image: Image.Image) -> None:
    """Make sure that the checksums of a PNG are right; the image cannot be decoded afterwards.

    Detectron2 takes what was decoded until a fault, and black below it, for the picture: Pillow decodes a PNG where its
    EXIF data is asked for, and errors of that are ignored.

    Raises:
        OSError: they are not.
    """
    if image.format == "PNG":
        try:
            image.verify()
        except SyntaxError as error:
            raise OSError(str(error)) from None


class _EightBits(PathHandler):
    """Opens pictures, those of more than 8 bits as PNG of 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self._told = False

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> Any:
        file = PathManager.open(path.removeprefix(PREFIX), "rb")
        image = Image.open(file)
        if not is_deep(image):
            check_png(image)
            file.seek(0)
            return file
        with file:
            converted, exif = eight_bits(image), image.getexif()
        self._tell(path.removeprefix(PREFIX))
        memory = io.BytesIO()
        converted.save(memory, "PNG", compress_level=0, exif=exif.tobytes() if exif else b"")
        memory.seek(0)
        return memory

    def _tell(self, path: str) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "Image %s has more than 8 bits a channel: it is scaled to 8, as all others of the kind.", path
            )


PathManager.register_handler(_EightBits(), allow_override=True)  # of a prefix that is this project's own


def read_picture(path: str, format: str) -> np.ndarray:
    """Read an image as Detectron2 does (turned as EXIF says, grey and transparent ones in colour), of any depth.

    Args:
        path: of the file.
        format: "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8.
    """
    return read_image(PREFIX + str(path), format=format)


def header_size(path: Path) -> Size | None:
    """Width and height of an image as it is shown; None if there is no such file.

    Raises:
        UserError: the file is no picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return (height, width) if turned else (width, height)
    except FileNotFoundError:
        return None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        what = "it is no picture" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"Image {path} cannot be read ({what}); fetch it again.") from None


class PictureMapper(DatasetMapper):
    """Detectron2's mapper, which reads pictures of any depth by :func:`read_picture`'s rule."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dataset dict."""
        file_name = dataset_dict["file_name"]
        return {**super().__call__({**dataset_dict, "file_name": PREFIX + str(file_name)}), "file_name": file_name}
