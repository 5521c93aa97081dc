"""The configuration keys of image classification, with their defaults and meanings.

``MODEL.META_ARCHITECTURE`` is ImageClassifier; keys of Detectron2 keep their meaning, as ``SOLVER`` or
``INPUT.FORMAT`` (RGB or L), and those of detection have none. ``MODEL.BACKBONE.NAME`` is CifarResNet,
TorchvisionResNet or SmallConvNet (or one of Detectron2's own): eql_d2/classification/backbones.py; ``MODEL.RESNETS``
has DEPTH, NUM_GROUPS and WIDTH_PER_GROUP.

``DATASETS.TRAIN`` and ``DATASETS.TEST`` name cifar10, cifar100, digits, glyphs or imagenet_lt with _train or _test
(imagenet_lt: also _val), long-tailed as in cifar100_lt50_train or, cut by another seed than 0, as in
cifar100_lt50_seed3_train: eql_d2/classification/datasets.py. One's own are listed under ``DATASETS.CUSTOM``, each with
name, images and, if need be, format (image_folder, image_list or image_json), annotations, imbalance and seed.
"""

from detectron2.config import CfgNode


def add_classification_config(cfg: CfgNode) -> None:
    """Add the keys of image classification to a Detectron2 config, in place."""
    cfg.MODEL.CLASSIFIER = CfgNode()
    # May be auto: as many as the training data has.
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # A method of eql_d2.losses.METHODS that serves without background. Its options are those of the node of that name
    # below MODEL.LONG_TAIL.
    cfg.MODEL.CLASSIFIER.LOSS = "softmax"
    # The layer cls_score: "linear", "normed" (cosine similarity, without bias) or "scaled" (a learned scale per class
    # on top: LWS).
    cfg.MODEL.CLASSIFIER.LAYER = "linear"
    # What "normed" multiplies cosines by. 1 for ldam, which has a scale of its own.
    cfg.MODEL.CLASSIFIER.TEMPERATURE = 20.0

    # Share of the training after which ldam weighs the classes (deferred re-weighting: epoch 160 of 200 in its paper).
    # 1 leaves it out.
    cfg.SOLVER.REWEIGHT_FROM = 0.8

    # The first is applied first: names of torchvision's transforms or Cutout, with options if any, e.g.
    # [{RandomCrop: {size: 32, padding: 4}}, RandomHorizontalFlip]: eql_d2/classification/transforms.py.
    # All images of a batch must come out in one size.
    cfg.INPUT.TRAIN_TRANSFORMS = []
    cfg.INPUT.TEST_TRANSFORMS = []

    # Classes with more training images count as many-shot, with fewer than the second number as few-shot (Liu et al.,
    # CVPR 2019), the others as medium-shot.
    cfg.TEST.MANY_SHOT_ABOVE = 100
    cfg.TEST.FEW_SHOT_BELOW = 20
    # Images of a test batch, in each process.
    cfg.TEST.IMS_PER_BATCH = 100
