"""Training targets of an image that say more than its instances do."""

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor


class ImageTargets(Instances):
    """Instances of an image together with what is known of the image as a whole.

    Detectron2's meta-architecture hands an image's instances to the proposal generator and the ROI heads and calls
    nothing on them but ``to``; so what they carry gets there.

    Args:
        image_size: height and width in pixels.
        verified_classes: (V,) int64, contiguous ids of the classes that the image is known to hold or not to hold;
            None where nobody asks.
        ignore_regions: boxes in which nothing counts as background; None where there is none.
        fields: as of :class:`Instances`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        verified_classes: Tensor | None = None,
        ignore_regions: Boxes | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(image_size, **fields)
        # All but fields begin with an underscore: a rule of Instances.
        self._verified_classes = verified_classes
        self._ignore_regions = ignore_regions

    @property
    def verified_classes(self) -> Tensor | None:
        """(V,) int64."""
        return self._verified_classes

    @property
    def ignore_regions(self) -> Boxes | None:
        """Boxes in the pixels of the augmented image."""
        return self._ignore_regions

    def with_present_classes(self, classes: Tensor) -> "ImageTargets":
        """The same of an image into which objects of further classes (m,) int64 were put."""
        verified = self._verified_classes
        if verified is not None:
            verified = torch.cat([verified, classes]).unique()
        fields = self.get_fields()
        return ImageTargets(self.image_size, verified_classes=verified, ignore_regions=self._ignore_regions, **fields)

    def to(self, *args: Any, **kwargs: Any) -> "ImageTargets":
        """All of it on another device."""
        verified, regions = (
            part if part is None else part.to(*args, **kwargs)
            for part in (self._verified_classes, self._ignore_regions)
        )
        fields = super().to(*args, **kwargs).get_fields()
        return ImageTargets(self.image_size, verified_classes=verified, ignore_regions=regions, **fields)

    def __getitem__(self, item: Any) -> "ImageTargets":
        return with_image_labels(super().__getitem__(item), self)


def with_image_labels(instances: Instances, source: Instances) -> Instances:
    """Give instances what another object knows of their image.

    Args:
        instances: of any fields, e.g. sampled proposals.
        source: of the same image; need not be :class:`ImageTargets`.

    Returns:
        ``instances`` as :class:`ImageTargets`; unchanged where ``source`` knows nothing.
    """
    if not isinstance(source, ImageTargets):
        return instances
    return ImageTargets(
        instances.image_size,
        verified_classes=source.verified_classes,
        ignore_regions=source.ignore_regions,
        **instances.get_fields(),
    )
