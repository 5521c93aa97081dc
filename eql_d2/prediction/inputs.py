"""Finding and reading what to predict on: images, folders of them, videos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np
from PIL import UnidentifiedImageError

from eql_d2.data.pictures import BROKEN, read_picture
from eql_d2.errors import UserError

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


class UnreadableInput(UserError):
    """One input among many that cannot be read; the others can."""


@dataclass(frozen=True)
class PredictionInput:
    """A file to predict on.

    Attributes:
        path: the file.
        name: unique name for what is made of it, without suffix; may have folders.
        is_video: whether it is a video.
    """

    path: Path
    name: str
    is_video: bool


def find_inputs(arguments: Sequence[str | Path], output: Path) -> list[PredictionInput]:
    """The files that some paths name, each once.

    Args:
        arguments: images, videos, and folders that are searched with all folders below, by file suffix; hidden
            files are left out.
        output: folder that is not searched, as it holds earlier pictures.

    Raises:
        UserError: a path does not exist, or a folder cannot be read or holds no image.
    """
    found: dict[Path, PurePath] = {}
    for argument in map(Path, arguments):
        if argument.is_dir():
            for path in _files_below(argument, output):
                found.setdefault(path, path.relative_to(argument))
        elif argument.exists():
            found.setdefault(argument, PurePath(argument.name))
        else:
            raise UserError(f"Input {argument} does not exist; name images, videos or folders of them.")
    inputs, taken = [], set()
    for path, relative in found.items():
        stem = relative.with_suffix("").as_posix()
        # "a.jpg" and "a.png" must not become the same picture; upper case counts as lower on some disks.
        number, name = 1, stem
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        inputs.append(PredictionInput(path, name, path.suffix.lower() in VIDEO_SUFFIXES))
    return inputs


def _files_below(folder: Path, output: Path) -> list[Path]:
    try:
        next(folder.iterdir(), None)  # rglob passes over a folder that it may not read
    except OSError as error:
        raise UserError(f"Input folder {folder} cannot be read ({error.strerror}); check its permissions.") from None
    output = output.resolve()
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        and not path.name.startswith(".")
        and output not in path.resolve().parents
        and path.is_file()
    )
    if not paths:
        raise UserError(
            f"Input folder {folder} holds no image or video; known suffixes are "
            f"{' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}."
        )
    return paths


def read_rgb(path: Path) -> np.ndarray:
    """Read an image as training does, see :func:`read_picture`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableInput: the file is no picture, or broken.
    """
    try:
        return read_picture(str(path), format="RGB")
    except UnidentifiedImageError:
        raise UnreadableInput(f"Image {path} cannot be read (it is no picture).") from None
    except BROKEN as error:
        raise UnreadableInput(f"Image {path} cannot be read ({error}).") from None


class Video:
    """Frames of a video.

    Args:
        path: the file.

    Attributes:
        num_frames: as the file says, which may be an estimate; 0 if unknown.
        frames_per_second: as the file says, else 25.

    Raises:
        UnreadableInput: it is no video, or none that OpenCV can decode.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableInput(f"Video {path} cannot be opened (it is broken, or OpenCV does not know its format).")
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames, (H, W, 3) uint8, RGB.

        Raises:
            UnreadableInput: after the last frame, if more than a tenth of the frames could not be decoded.
        """
        count = 0
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        self._capture.release()
        if count < max(1, 0.9 * self.num_frames):
            raise UnreadableInput(f"Video {self.path} is broken after {count} of {self.num_frames} frames.")


class VideoWriter:
    """Writes frames of one size into an MP4 file; a context manager.

    Args:
        path: the file; its folder exists.
        frames_per_second: of the video.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self._path, self._frames_per_second = path, frames_per_second
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, (H, W, 3) uint8, RGB.

        Raises:
            UserError: the file cannot be written.
        """
        height, width = frame.shape[:2]
        # The codec wants even sides.
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), codec, self._frames_per_second, frame.shape[1::-1])
            if not self._writer.isOpened():
                raise UserError(f"Video {self._path} cannot be written; check the folder and OpenCV's MP4 support.")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
