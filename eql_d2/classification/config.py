"""The configuration keys of image classification, with their defaults and meanings.

``MODEL.META_ARCHITECTURE`` is ImageClassifier; keys of Detectron2 keep their meaning, as ``SOLVER`` or ``INPUT.FORMAT``,
and those of detection have none. ``MODEL.BACKBONE.NAME`` is CifarResNet, TorchvisionResNet or SmallConvNet (or one of
Detectron2's own): eql_d2/classification/backbones.py; ``MODEL.RESNETS`` has DEPTH, NUM_GROUPS and WIDTH_PER_GROUP.

``DATASETS.TRAIN`` and ``DATASETS.TEST`` name cifar10, cifar100, digits, glyphs or imagenet_lt with _train or _test
(imagenet_lt: also _val), long-tailed as in cifar100_lt50_train or, cut by another seed than 0, cifar100_lt50_seed3_train:
eql_d2/classification/datasets.py. One's own are listed under ``DATASETS.CUSTOM``.
"""

from detectron2.config import CfgNode


def add_classification_config(cfg: CfgNode) -> None:
    """Add the keys of image classification to a Detectron2 config, in place."""
    cfg.MODEL.CLASSIFIER = CfgNode()
    # May be auto: as many as the training data has.
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # Key of eql_d2.losses.CLASSIFICATION_LOSSES. Its options are those of the node of that name below MODEL.LONG_TAIL.
    cfg.MODEL.CLASSIFIER.LOSS = "softmax"
    # The layer cls_score: "linear", "normed" (cosine similarity, without bias) or "scaled" (a learned scale a class on
    # top: LWS).
    cfg.MODEL.CLASSIFIER.LAYER = "linear"
    # What "normed" multiplies cosines by. 1 for ldam, which has a scale of its own.
    cfg.MODEL.CLASSIFIER.TEMPERATURE = 20.0

    # The first is applied first: names of torchvision's transforms or Cutout, with options if any, e.g.
    # [{RandomCrop: {size: 32, padding: 4}}, RandomHorizontalFlip]: eql_d2/classification/transforms.py.
    # All images of a batch must come out in one size.
    cfg.INPUT.TRAIN_TRANSFORMS = []
    cfg.INPUT.TEST_TRANSFORMS = []

    # Images of a test batch, in each process.
    cfg.TEST.IMS_PER_BATCH = 100
