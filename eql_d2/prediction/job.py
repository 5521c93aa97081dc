"""From input files to pictures, LVIS-format results and a contact sheet."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as mask_util
from tqdm import tqdm

from eql_d2.drawing.contact_sheet import contact_sheet
from eql_d2.drawing.instances import InstanceColors, draw_instances, scale_for
from eql_d2.errors import UserError
from eql_d2.prediction.inputs import PredictionInput, UnreadableInput, Video, VideoWriter, read_rgb
from eql_d2.prediction.predictor import Predictor

PICTURES, SHEET, RESULTS, IMAGES = "pictures", "contact_sheet.jpg", "results.json", "images.json"
MOST_TILES, TILE_SIDE = 100, 400


@dataclass
class Summary:
    """What a job has done.

    Attributes:
        num_images: images and frames predicted on.
        num_detections: detections in them.
        num_drawn: those of them that are drawn.
        best_score: of all of them, in [0, 1].
        skipped: a sentence for each input that could not be read, or not to its end.
        has_sheet: whether there is a contact sheet.
    """

    num_images: int = 0
    num_detections: int = 0
    num_drawn: int = 0
    best_score: float = 0.0
    skipped: list[str] = field(default_factory=list)
    has_sheet: bool = False


def prepare_output(folder: Path) -> None:
    """Make the output folder.

    Raises:
        UserError: it is a file, or cannot be made.
    """
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Output folder {folder} cannot be made ({error.strerror}); name another.") from None


class PredictionJob:
    """Predicts on files and writes what comes out into a folder, replacing files of an earlier job.

    The folder gets ``pictures/`` (a JPEG for each image, an MP4 for each video), ``results.json`` (a list in the
    LVIS result format), ``images.json`` (``images``: what each image id stands for; ``categories``: id and
    name) and, for more than one image, ``contact_sheet.jpg``.

    Args:
        predictor: the detector.
        output: the folder; see :func:`prepare_output`.
        known_ids: image ids of a dataset by the input (see :mod:`eql_d2.prediction.known_ids`); other images and all
            frames are numbered from ``first_id``.
        first_id: a number that no image of that dataset has, nor any number after it.
        draw_above: detections with this score or less are in the results, and not in the pictures; in [0, 1).

    Raises:
        UserError: ``draw_above`` is out of its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        output: Path,
        known_ids: Mapping[Path, int] | None = None,
        first_id: int = 1,
        draw_above: float = 0.0,
    ) -> None:
        if not 0 <= draw_above < 1:
            raise UserError(f"The score threshold is {draw_above}; it must be at least 0 and less than 1.")
        self._predictor, self._output, self._draw_above = predictor, output, draw_above
        self._num_drawn = 0
        self._known_ids = known_ids or {}
        self._next_id = first_id
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._tiles: list[np.ndarray] = []
        self._tile_names: list[str] = []

    def run(self, inputs: Sequence[PredictionInput]) -> Summary:
        """Do the job, with a progress bar on stderr.

        Args:
            inputs: see ``find_inputs``.

        Returns:
            What was done; unreadable inputs are skipped, and told on stderr as they come.

        Raises:
            UserError: not one input can be read, or the disk does not take the output.
        """
        summary = Summary()
        stills = [item for item in inputs if not item.is_video]
        shown = {stills[i] for i in np.linspace(0, len(stills) - 1, MOST_TILES).astype(int)} if stills else set()
        # A log file gets a line each half minute.
        interval = 0.1 if sys.stderr.isatty() else 30
        with tqdm(total=len(inputs), unit="image", mininterval=interval) as progress:
            for item in inputs:
                try:
                    if item.is_video:
                        self._predict_video(item, progress)
                    else:
                        self._predict_image(item, on_sheet=item in shown)
                        progress.update()
                except UnreadableInput as error:
                    summary.skipped.append(str(error))
                    progress.update(not item.is_video)
                    progress.write(f"warning: {error}", file=sys.stderr)
        if not self._images:
            raise UserError(f"Nothing could be read of {len(inputs)} input(s): {summary.skipped[0]}")
        summary.num_images, summary.num_detections = len(self._images), len(self._results)
        summary.num_drawn = self._num_drawn
        summary.best_score = max((result["score"] for result in self._results), default=0.0)
        summary.has_sheet = len(self._tiles) > 1
        self._write_files(summary.has_sheet)
        return summary

    def _predict_image(self, item: PredictionInput, on_sheet: bool) -> None:
        image = read_rgb(item.path)
        try:
            instances = self._predictor(image, roi_masks=True)
        except UserError as error:
            raise UnreadableInput(f"Image {item.path} cannot be predicted on ({error})") from None
        picture = f"{PICTURES}/{item.name}.jpg"
        known = self._known_ids.get(item.path)
        entry = {"file_name": str(item.path), "picture": picture}
        instances, masks = self._record(instances, image, entry, known)
        colors = self._colors(InstanceColors(), instances)
        _save(self._draw(image, instances, masks, colors, scale_for(*image.shape[:2])), self._output / picture)
        if on_sheet:
            scale = TILE_SIDE / max(image.shape[:2])
            self._tiles.append(self._draw(image, instances, masks, colors, scale))
            self._tile_names.append(item.name + item.path.suffix)

    def _predict_video(self, item: PredictionInput, progress: tqdm) -> None:
        inputs_besides = (progress.total or 1) - 1  # its frames are counted in its place
        progress.total = inputs_besides
        video = Video(item.path)
        progress.total = inputs_besides + video.num_frames
        picture, memory = f"{PICTURES}/{item.name}.mp4", InstanceColors()
        (self._output / picture).parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(self._output / picture, video.frames_per_second) as writer:
            for number, frame in enumerate(video):
                instances = self._predictor(frame, roi_masks=True)
                entry = {"file_name": str(item.path), "frame": number, "picture": picture}
                instances, masks = self._record(instances, frame, entry)
                colors = self._colors(memory, instances)
                height, width = frame.shape[:2]
                writer.write(self._draw(frame, instances, masks, colors, scale_for(height, width, smallest=640)))
                progress.update()

    def _record(
        self, instances: Instances, image: np.ndarray, entry: dict[str, Any], known: int | None = None
    ) -> "tuple[Instances, Bitmaps | None]":
        """Keep an image's detections under an id; those to draw, and their masks if there are any."""
        image_id = known
        if image_id is None:
            image_id = self._next_id
            self._next_id += 1
        self._images.append({"id": image_id, **entry, "height": image.shape[0], "width": image.shape[1]})
        records = self._predictor.to_records(instances, image_id)
        self._results += records
        drawn = instances[instances.scores > self._draw_above]
        self._num_drawn += len(drawn)
        if not instances.has("pred_masks"):
            return drawn, None
        kept = (instances.scores > self._draw_above).tolist()
        return drawn, Bitmaps([record["segmentation"] for record, keep in zip(records, kept, strict=True) if keep])

    def _colors(self, memory: InstanceColors, instances: Instances) -> np.ndarray:
        margin = max(instances.image_size) / 20
        return memory.assign(instances.pred_boxes.tensor.numpy(), instances.pred_classes.numpy(), margin)

    def _draw(
        self, image: np.ndarray, instances: Instances, masks: "Bitmaps | None", colors: np.ndarray, scale: float
    ) -> np.ndarray:
        names = [self._predictor.categories[index]["name"] for index in instances.pred_classes.tolist()]
        labels = [f"{name} {score:.0%}" for name, score in zip(names, instances.scores.tolist(), strict=True)]
        return draw_instances(image, instances.pred_boxes.tensor.numpy(), labels, colors, masks, scale)

    def _write_files(self, with_sheet: bool) -> None:
        categories = [
            {key: c[key] for key in ("id", "name", "frequency") if key in c} for c in self._predictor.categories
        ]
        content = {RESULTS: self._results, IMAGES: {"images": self._images, "categories": categories}}
        for name, value in content.items():
            try:
                (self._output / name).write_bytes(orjson.dumps(value))
            except OSError as error:
                raise UserError(f"{self._output / name} cannot be written ({error.strerror}).") from None
        if with_sheet:
            _save(contact_sheet(self._tiles, self._tile_names, TILE_SIDE), self._output / SHEET)


class Bitmaps(Sequence[np.ndarray]):
    """Masks of which one at a time has the picture's size: each is decoded when it is looked at.

    Args:
        encodings: compressed run lengths.
    """

    def __init__(self, encodings: list[dict[str, Any]]) -> None:
        self._encodings = encodings

    def __len__(self) -> int:
        return len(self._encodings)

    def __getitem__(self, index: Any) -> Any:
        """(H, W) uint8, 0 or 1."""
        return mask_util.decode(self._encodings[index])


def _save(picture: np.ndarray, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=92, subsampling=0)
    except OSError as error:
        raise UserError(f"Picture {path} cannot be written ({error.strerror or error}); free some space.") from None
