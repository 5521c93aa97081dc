"""Configuration keys of datasets, samplers, loading and augmentation."""

from detectron2.config import CfgNode


def add_data_config(cfg: CfgNode) -> None:
    """Add the keys, in place."""
    # JSON file of category counts (form: datasets/metadata). Empty: counts follow from DATASETS.TRAIN.
    cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = ""

    # Most training images of a rare and of a common class (LVIS's are 10 and 100): the groups r, c, f of every table,
    # figure and report, which always come from the training data. May be auto: LVIS's if a class is rare by them, else
    # thirds of the classes.
    cfg.MODEL.LONG_TAIL.FREQUENCY_THRESHOLDS = (10, 100)

    # The user's own datasets: a list of {name, annotations, images}, with format: lvis (default), coco or
    # openimages (see datasets/README.md); categories: a list of names, to use these classes only; and, for lvis and
    # coco, ignore_regions: a COCO- or LVIS-format file of the same image ids, whose boxes that match no annotation of
    # the dataset are regions in which nothing is sampled as background (EQL's paper, appendix A), and image_ids: a JSON
    # list of image ids, or an annotation file of just these images, to use this part alone.
    cfg.DATASETS.CUSTOM = []
    # YAML file with a list of the same kind, whose paths are relative to the file.
    cfg.DATASETS.CUSTOM_FILE = ""
    # Leave out annotations and images with defects (tools/check_dataset.py) instead of refusing the dataset; also
    # --ignore of train_net.py.
    cfg.DATASETS.IGNORE_DEFECTS = False
    # Take images that lie outside the image folder of their dataset, by absolute paths or "..", instead of refusing it.
    cfg.DATASETS.IMAGES_OUTSIDE = False
    # Different images that training may find unreadable (missing, broken, of another size) and skip; one more stops
    # it. 0: the first one stops it. Evaluation always stops at the first, as its result would change silently.
    cfg.DATALOADER.MAX_UNREADABLE_IMAGES = 100
    _add_augmentation_keys(cfg)


def _add_augmentation_keys(cfg: CfgNode) -> None:
    # Large-scale jitter (Ghiasi et al., CVPR 2021) in place of INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN: an image is
    # resized to fit a square of IMAGE_SIZE times a random scale, then cropped or padded to IMAGE_SIZE x IMAGE_SIZE.
    cfg.INPUT.LSJ = CfgNode()
    cfg.INPUT.LSJ.ENABLED = False
    cfg.INPUT.LSJ.MIN_SCALE = 0.1
    cfg.INPUT.LSJ.MAX_SCALE = 2.0
    cfg.INPUT.LSJ.IMAGE_SIZE = 1024

    # Simple copy-paste (the same paper): a random subset of a second training image's instances is pasted. The model
    # gets bit masks, whatever INPUT.MASK_FORMAT says, as a cut mask is no polygon.
    cfg.INPUT.COPY_PASTE = CfgNode()
    cfg.INPUT.COPY_PASTE.ENABLED = False
    # The second image is drawn by its repeat factor (Gupta et al., 2019) of this threshold, so that images with
    # classes in a smaller share of the images come more often. 0: all images alike.
    cfg.INPUT.COPY_PASTE.REPEAT_THRESHOLD = 0.0
    # An instance that is cut counts as hidden, and is left out, if at most HIDDEN_AREA pixels of it are visible and a
    # side of its box has moved by more than HIDDEN_SHIFT pixels.
    cfg.INPUT.COPY_PASTE.HIDDEN_AREA = 300
    cfg.INPUT.COPY_PASTE.HIDDEN_SHIFT = 10

    # DATALOADER.SAMPLER_TRAIN is TrainingSampler (every image once an epoch), RepeatFactorTrainingSampler,
    # ClassAwareTrainingSampler, ClassBalancedTrainingSampler or MixtureTrainingSampler (data/training/samplers.py).
    # Repeat factor sampling shows classes in less than DATALOADER.REPEAT_THRESHOLD of the images more often; that is 0
    # in Detectron2, 0.001 in LVIS's paper and the codes of EQLv2 and Seesaw Loss, 0.0005 in EQL's code for LVIS v0.5.
    # On Open Images the papers use class-aware sampling, which has no threshold.
    # Of which frequency the repeat factors are made: RFS (share of the images), IRFS (mean of the shares of images and
    # instances), or E-IRFS, exp(REPEAT_ALPHA sqrt(threshold / frequency)) of IRFS's frequency.
    cfg.DATALOADER.REPEAT_FACTORS = "RFS"
    cfg.DATALOADER.REPEAT_ALPHA = 2.0
    # Repeat factors are sqrt(threshold / frequency); without the root if False. Detectron2 v0.6 has no such key.
    cfg.DATALOADER.REPEAT_SQRT = True
    # How a repeat factor becomes a number of times: "stochastic" (Detectron2) or "ceil" (mmdetection), always up;
    # "ceil_plus_one" (BAGS's code), and one more where the factor is above 1.
    cfg.DATALOADER.REPEAT_ROUNDING = "stochastic"
    # q of ClassBalancedTrainingSampler: a class with n images is drawn in proportion to n^q. 0: class-balanced;
    # 0.5: square-root; 1: instance-balanced sampling.
    cfg.DATALOADER.CLASS_BALANCED_POWER = 0.0
    # What MixtureTrainingSampler mixes: [sampler, weight] each, such as
    # [[RepeatFactorTrainingSampler, 0.5], [ClassAwareTrainingSampler, 0.5]].
    cfg.DATALOADER.SAMPLER_MIXTURE = []
