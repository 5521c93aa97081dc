"""Every configuration key that this project adds to Detectron2's, with its default and meaning."""

import torch
from detectron2.config import CfgNode, get_cfg

from eql_d2.classification.config import add_classification_config


def add_eql_d2_config(cfg: CfgNode) -> None:
    """Add this project's keys to a Detectron2 config, in place."""
    _add_model_keys(cfg)
    _add_data_keys(cfg)
    _add_engine_keys(cfg)
    add_classification_config(cfg)


def _add_model_keys(cfg: CfgNode) -> None:
    # Detectron2's default is cuda; this is what the machine has.
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

    # The classification loss and its classifier, by a name of BOX_PREDICTOR_REGISTRY. Used by the ROI heads
    # LongTailROIHeads and LongTailCascadeROIHeads.
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    # Cosine similarity in the classifier (Seesaw Loss's NormedLinear), and its temperature.
    cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER = False
    cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE = 20.0
    # A learned scale a class on top of the classifier (LWS): the parameter cls_score.scale.
    cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER = False
    # What a Cascade averages over its stages: "probability" (Detectron2) or "logit" (mmdetection).
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE = "probability"
    # Temperature of MODEL.ROI_MASK_HEAD.NAME NormedMaskRCNNConvUpsampleHead (normalized mask prediction).
    cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 20.0
    # What MODEL.ROI_MASK_HEAD.NAME AveragedMaskHeads averages, one a Cascade stage: mmdetection's converted models.
    cfg.MODEL.ROI_MASK_HEAD.AVERAGED = "MaskRCNNConvUpsampleHead"

    # Share of a RoI's own area that lies in an ignore region from which on the RoI, if it matches no ground truth, is
    # not sampled as background; 1 switches it off. Ignore regions are annotations with "iscrowd" or "ignore" 1, and
    # the unmatched boxes of a second annotation file. 0.5 is a choice of ours.
    cfg.MODEL.ROI_HEADS.IGNORE_OVERLAP = 0.5
    # The same for the anchors of MODEL.PROPOSAL_GENERATOR.NAME LongTailRPN.
    cfg.MODEL.RPN.IGNORE_OVERLAP = 0.5

    # Shell-style name patterns of tensors that are not taken from MODEL.WEIGHTS, e.g. the classifier in cRT.
    cfg.MODEL.WEIGHTS_EXCLUDE = ()

    cfg.MODEL.LONG_TAIL = CfgNode()
    # Share of each class that a sigmoid classifier predicts at the start of training.
    cfg.MODEL.LONG_TAIL.PRIOR_PROB = 0.001
    # Image-level labels (EQL's paper, section 4.2): negatives of tail classes that are annotated in the image, or
    # verified to be absent from it (neg_category_ids), count in full. Of the losses only EQL's can use them; it is
    # not in the official code.
    cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = False
    # The share in (0, 1) of all class images that belongs to tail classes, from which a LAMBDA of auto follows. With
    # 0.09 it is EQL's own threshold on LVIS v0.5.
    cfg.MODEL.LONG_TAIL.TAIL_RATIO = 0.09
    # Keys that say auto, to be settled when the training data are known. They may be: MODEL.ROI_HEADS.NUM_CLASSES,
    # MODEL.CLASSIFIER.NUM_CLASSES, and of this node PRIOR_PROB, EQL.LAMBDA, SEQL.LAMBDA, DROP_LOSS.LAMBDA and
    # BAGS.BIN_EDGES. Noted by what reads a config.
    cfg.MODEL.LONG_TAIL.AUTO = ()
    # JSON file of category counts (form: datasets/metadata). Empty: counts follow from DATASETS.TRAIN.
    cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = ""

    # One node a method: its keys are the loss's constructor arguments in upper case; what a loss needs to
    # know about the data (number of classes, counts, frequencies) it gets from the category counts.
    cfg.MODEL.LONG_TAIL.EQL = CfgNode()
    # Classes in a smaller share of the training images are tail. 0.00177 is rare + common of LVIS v0.5.
    cfg.MODEL.LONG_TAIL.EQL.LAMBDA = 0.00177
    # Tail membership as a function of the frequency: step, exponential or gompertz (paper, section 4.4).
    cfg.MODEL.LONG_TAIL.EQL.THRESHOLD = "step"
    # Background RoIs keep suppressing every class (paper, equation 3). False is the ablation without E(r).
    cfg.MODEL.LONG_TAIL.EQL.EXCLUDE_BACKGROUND = True

    cfg.MODEL.LONG_TAIL.EQLV2 = CfgNode()
    # Positives of a class with few positive gradients weigh up to 1 + ALPHA.
    cfg.MODEL.LONG_TAIL.EQLV2.ALPHA = 4.0
    # Steepness of the weights as a function of the ratio of positive to negative gradients.
    cfg.MODEL.LONG_TAIL.EQLV2.GAMMA = 12.0
    # Gradient ratio in the middle of that function, where negatives weigh 1/2.
    cfg.MODEL.LONG_TAIL.EQLV2.MU = 0.8
    # The category-agnostic task: one more logit, whose score damps all class scores.
    cfg.MODEL.LONG_TAIL.EQLV2.OBJECTNESS = True

    cfg.MODEL.LONG_TAIL.SEESAW = CfgNode()
    # Strength of the mitigation: how much classes with fewer samples are spared. 0 switches it off.
    cfg.MODEL.LONG_TAIL.SEESAW.P = 0.8
    # Strength of the compensation: how much wrongly high scores are pushed down. 0 switches it off.
    cfg.MODEL.LONG_TAIL.SEESAW.Q = 2.0
    # Smallest score of the true class that the compensation divides by.
    cfg.MODEL.LONG_TAIL.SEESAW.EPS = 0.01
    # The objectness branch. False: background is one more class of the softmax (paper, table 8).
    cfg.MODEL.LONG_TAIL.SEESAW.OBJECTNESS = True

    cfg.MODEL.LONG_TAIL.BAGS = CfgNode()
    # Numbers of training instances that part the classes into groups: < 10, 10 to 99, 100 to 999, >= 1000.
    cfg.MODEL.LONG_TAIL.BAGS.BIN_EDGES = (10, 100, 1000)
    # RoIs of other groups and background that a class group trains on, for each RoI of its own.
    cfg.MODEL.LONG_TAIL.BAGS.OTHERS_RATIO = 8.0
    _add_comparison_keys(cfg)


def _add_comparison_keys(cfg: CfgNode) -> None:
    """Nodes of the methods that the papers compare theirs with; what holds for the nodes above holds here."""
    cfg.MODEL.LONG_TAIL.FOCAL = CfgNode()
    # How far easy terms are turned down. 0 is weighted cross-entropy.
    cfg.MODEL.LONG_TAIL.FOCAL.GAMMA = 2.0
    # Weight of positives; negatives weigh 1 - ALPHA.
    cfg.MODEL.LONG_TAIL.FOCAL.ALPHA = 0.25

    cfg.MODEL.LONG_TAIL.CLASS_BALANCED = CfgNode()
    # Effective number of n instances: (1 - BETA^n) / (1 - BETA). 0 weighs all classes the same.
    cfg.MODEL.LONG_TAIL.CLASS_BALANCED.BETA = 0.999
    # Smallest and largest weight of a class, after the weights are divided by their mean. Background weighs 1.
    cfg.MODEL.LONG_TAIL.CLASS_BALANCED.WEIGHT_RANGE = (0.1, 5.0)

    cfg.MODEL.LONG_TAIL.INVERSE_FREQUENCY = CfgNode()
    # Power of a class's inverse number of instances: 1, or 0.5 for its square root.
    cfg.MODEL.LONG_TAIL.INVERSE_FREQUENCY.POWER = 1.0
    # As for CLASS_BALANCED.
    cfg.MODEL.LONG_TAIL.INVERSE_FREQUENCY.WEIGHT_RANGE = (0.1, 5.0)

    cfg.MODEL.LONG_TAIL.FEDERATED = CfgNode()
    # Classes in use in a step: those of its RoIs and, up to this number, a sample of the others.
    cfg.MODEL.LONG_TAIL.FEDERATED.FED_LOSS_NUM_CLASSES = 50
    # The sample's probabilities are proportional to the number of images to this power.
    cfg.MODEL.LONG_TAIL.FEDERATED.FED_LOSS_FREQ_WEIGHT_POWER = 0.5

    cfg.MODEL.LONG_TAIL.DROP_LOSS = CfgNode()
    # As for EQL. The authors' code has 0.0010062 for LVIS v1.
    cfg.MODEL.LONG_TAIL.DROP_LOSS.LAMBDA = 0.00177


def _add_data_keys(cfg: CfgNode) -> None:
    # The user's own datasets: a list of {name, annotations, images}, with format: lvis (default), coco or
    # openimages (see datasets/README.md); categories: a list of names, to use these classes only; and, for lvis and
    # coco, ignore_regions: a COCO- or LVIS-format file of the same image ids, whose boxes that match no annotation of
    # the dataset are regions in which nothing is sampled as background (EQL's paper, appendix A).
    cfg.DATASETS.CUSTOM = []
    # YAML file with a list of the same kind, whose paths are relative to the file.
    cfg.DATASETS.CUSTOM_FILE = ""
    # Leave out annotations and images with defects (tools/check_dataset.py) instead of refusing the dataset; also
    # --ignore of train_net.py.
    cfg.DATASETS.IGNORE_DEFECTS = False
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
    # ClassAwareTrainingSampler, ClassBalancedTrainingSampler or MixtureTrainingSampler: eql_d2/data/samplers.py.
    # Repeat factor sampling shows classes in less than DATALOADER.REPEAT_THRESHOLD of the images more often; that is 0
    # in Detectron2, 0.001 in LVIS's paper and the codes of EQLv2 and Seesaw Loss, 0.0005 in EQL's code for LVIS v0.5.
    # On Open Images the papers use class-aware sampling, which has no threshold.
    # Repeat factors are sqrt(threshold / frequency); without the root if False. Detectron2 v0.6 has no such key.
    cfg.DATALOADER.REPEAT_SQRT = True
    # How a repeat factor becomes a number of times: "stochastic" (Detectron2) or "ceil" (mmdetection), always up.
    cfg.DATALOADER.REPEAT_ROUNDING = "stochastic"
    # q of ClassBalancedTrainingSampler: a class with n images is drawn in proportion to n^q. 0: class-balanced;
    # 0.5: square-root; 1: instance-balanced sampling.
    cfg.DATALOADER.CLASS_BALANCED_POWER = 0.0
    # What MixtureTrainingSampler mixes: [sampler, weight] each, such as
    # [[RepeatFactorTrainingSampler, 0.5], [ClassAwareTrainingSampler, 0.5]].
    cfg.DATALOADER.SAMPLER_MIXTURE = []


def _add_engine_keys(cfg: CfgNode) -> None:
    cfg.ENGINE = CfgNode()
    # Python modules to import before anything is built, e.g. ("my_losses",) with the user's own box predictor;
    # found as usual, or in the current folder.
    cfg.ENGINE.IMPORT = ()
    # Iterations between two logs of what a method balances: each class's gradients and loss state. 0: never.
    cfg.ENGINE.WATCH_PERIOD = 100
    # OpenMP threads of each training process on a CPU; 0 leaves PyTorch's choice.
    cfg.ENGINE.CPU_THREADS = 0

    # Shell-style name patterns of the parameters that train, e.g. "roi_heads.box_predictor*.cls_score.*"; empty: all.
    cfg.SOLVER.TRAINABLE = ()

    # Calibration of the trained classifier: tau of tau-normalisation and gamma of NorCal; 0 switches them off.
    cfg.TEST.TAU_NORM = 0.0
    cfg.TEST.NORCAL_GAMMA = 0.0
    # What computes LVIS metrics: "hotcoco" (compiled) or "lvis" (the official package, slow; same numbers).
    cfg.TEST.LVIS_ENGINE = "hotcoco"
    # Also compute AP-fixed (Dave et al., 2021): the 10,000 best detections of each class over the set count, however
    # many an image holds. Let the model give more than 300 an image: TEST.DETECTIONS_PER_IMAGE 1000 or -1.
    cfg.TEST.FIXED_AP = False


def get_eql_d2_config() -> CfgNode:
    """Detectron2's default config with this project's keys added."""
    cfg = get_cfg()
    add_eql_d2_config(cfg)
    return cfg
