"""From a dataset dict to a training sample: Detectron2's mapper, for data that is not labelled alike everywhere."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.structures import Boxes, BoxMode
from torch import Tensor

from eql_d2.data.annotations.rules import is_region
from eql_d2.data.category_counts import num_classes_of_model
from eql_d2.data.pictures import PREFIX, PictureMapper
from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.errors import UserError

DatasetDict = dict[str, Any]
IMAGE_FORMATS = ("BGR", "RGB", "L", "YUV-BT.601")  # that Detectron2 reads


class LongTailMapper(PictureMapper):
    """Detectron2's mapper, which besides carries image-level labels and ignore regions, and takes box-only objects.

    What it reads of a dataset dict beyond Detectron2:

    - ``neg_category_ids``: contiguous ids of classes verified to be absent, as :class:`LVISDataset` has them; without
      it, nothing is known of classes that are not annotated.
    - annotations with ``iscrowd`` or ``ignore`` 1, and ``ignore_regions``, a list of further boxes ``[x, y, w, h]`` in
      pixels: no ground truth, but boxes in which nothing is trained as background.
    - annotations without ``segmentation``: they train no mask. ``gt_has_mask`` of the instances tells them apart.

    Args:
        is_train: as of Detectron2's mapper.
        image_level_labels: whether the model asks for ``verified_classes`` (``MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS``).
        num_classes: number K of classes; needed with ``image_level_labels``.
        kwargs: arguments of Detectron2's mapper, e.g. ``augmentations``.
    """

    @configurable
    def __init__(
        self, is_train: bool, *, image_level_labels: bool = False, num_classes: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(is_train, **kwargs)
        # What Detectron2 would find at the first image, and a loader take for one that cannot be read.
        if self.image_format not in IMAGE_FORMATS:
            raise UserError(f"INPUT.FORMAT is {self.image_format!r}; it must be one of {', '.join(IMAGE_FORMATS)}.")
        if self.instance_mask_format not in ("polygon", "bitmask"):
            raise UserError(f"INPUT.MASK_FORMAT is {self.instance_mask_format!r}; it must be polygon or bitmask.")
        if image_level_labels and not num_classes:
            raise UserError("The mapper has image_level_labels=True, but no num_classes; give it the model's.")
        self.image_level_labels = image_level_labels
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {
            **super().from_config(cfg, is_train),
            "image_level_labels": cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS,
            "num_classes": num_classes_of_model(cfg)[1],
        }

    def _transform_annotations(self, dataset_dict: DatasetDict, transforms: Any, image_shape: tuple[int, int]) -> None:
        """Detectron2's step, the only one that knows both the annotations and the transforms."""
        annotations = dataset_dict["annotations"]
        regions = [annotation for annotation in annotations if is_region(annotation)]
        objects = [annotation for annotation in annotations if not is_region(annotation)]
        verified = self._verified_classes(dataset_dict, objects) if self.image_level_labels else None
        boxes = self._transformed_regions(dataset_dict, regions, transforms, image_shape)
        self._make_instances(dataset_dict, objects, transforms, image_shape)
        if verified is not None or boxes is not None:
            dataset_dict["instances"] = ImageTargets(
                image_shape,
                verified_classes=verified,
                ignore_regions=boxes,
                **dataset_dict["instances"].get_fields(),
            )

    def _make_instances(
        self, dataset_dict: DatasetDict, objects: list[DatasetDict], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        """Let Detectron2 make the instances; tell those without a mask."""
        if not objects:  # Detectron2 cannot recompute no boxes from no masks, as it does for crops
            del dataset_dict["annotations"]
            dataset_dict["instances"] = detection_utils.annotations_to_instances([], image_shape)
            return
        classes = torch.tensor([annotation["category_id"] for annotation in objects])
        has_mask = torch.tensor([bool(annotation.get("segmentation")) for annotation in objects])
        # Detectron2 drops what the augmentation moved out of the image; the place of an object in its class's stead
        # shows which are left.
        objects = [{**annotation, "category_id": place} for place, annotation in enumerate(objects)]
        if self.use_instance_mask:
            for annotation, masked in zip(objects, has_mask.tolist(), strict=True):
                if not masked:
                    # All instances of an image have masks or none has: a box stands in, and trains nothing.
                    annotation["segmentation"] = [_rectangle(annotation)]
                elif self.instance_mask_format == "polygon" and isinstance(annotation["segmentation"], dict):
                    path = dataset_dict["file_name"].removeprefix(PREFIX)
                    raise UserError(
                        f"INPUT.MASK_FORMAT is polygon, but image {path} has a mask stored as run lengths; set it to "
                        "bitmask."
                    )
        dataset_dict["annotations"] = objects
        super()._transform_annotations(dataset_dict, transforms, image_shape)  # transforms the annotations in place
        instances = dataset_dict["instances"]
        left = instances.gt_classes
        instances.gt_classes = classes[left]
        if self.use_instance_mask and not has_mask.all():
            instances.gt_has_mask = has_mask[left]
            if self.recompute_boxes:  # from masks; but a bitmap of a box is only as exact as its pixels
                boxes = torch.as_tensor(np.stack([annotation["bbox"] for annotation in objects])).float()
                without = ~instances.gt_has_mask
                instances.gt_boxes.tensor[without] = boxes[left[without]]

    def _verified_classes(self, dataset_dict: DatasetDict, objects: list[DatasetDict]) -> Tensor:
        """Contiguous ids (V,) of the image's positive and negative sets, whatever the augmentation leaves of it.

        Classes that are not exhaustively annotated are in the positive set as others are. The weights that the labels
        decide are those of RoIs on annotated objects of other classes, which the annotator has seen; what is missing
        are further objects.
        """
        positive = {annotation["category_id"] for annotation in objects}
        verified = sorted(positive.union(dataset_dict.get("neg_category_ids", ())))
        unknown = [index for index in verified if not 0 <= index < self.num_classes]
        if unknown:
            raise UserError(
                f"Image {dataset_dict.get('file_name')} has the class {unknown[0]} in its image-level labels, but "
                f"there are {self.num_classes} classes; the dataset has to give contiguous ids in neg_category_ids."
            )
        return torch.tensor(verified, dtype=torch.int64)

    @staticmethod
    def _transformed_regions(
        dataset_dict: DatasetDict, regions: list[DatasetDict], transforms: Any, image_shape: tuple[int, int]
    ) -> Boxes | None:
        """The ignore regions in the augmented image; None where there is none."""
        boxes = [_corners(region) for region in regions]
        boxes += [
            BoxMode.convert(list(box), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            for box in dataset_dict.pop("ignore_regions", ())
        ]
        if not boxes:
            return None
        moved = Boxes(transforms.apply_box(np.asarray(boxes, dtype=np.float64)))
        moved.clip(image_shape)
        moved = moved[moved.nonempty()]
        return moved if len(moved) else None


def _corners(annotation: DatasetDict) -> list[float]:
    """x0, y0, x1, y1 of an annotation's box."""
    return BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _rectangle(annotation: DatasetDict) -> list[float]:
    """An annotation's box as a polygon."""
    x0, y0, x1, y1 = _corners(annotation)
    return [x0, y0, x1, y0, x1, y1, x0, y1]
