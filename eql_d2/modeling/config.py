"""Configuration keys of the model and of its losses."""

import torch
from detectron2.config import CfgNode


def add_modeling_config(cfg: CfgNode) -> None:
    """Add the keys, in place."""
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

    # Calibration of the trained classifier: tau of tau-normalisation and gamma of NorCal; 0 switches them off.
    cfg.TEST.TAU_NORM = 0.0
    cfg.TEST.NORCAL_GAMMA = 0.0


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
