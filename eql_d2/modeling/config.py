"""Configuration keys of the model and of its losses."""

import torch
from detectron2.config import CfgNode

from eql_d2.modeling.loss_config import add_loss_nodes


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
    # A learned scale per class on top of the classifier (LWS): the parameter cls_score.scale.
    cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER = False
    # Whether that scale also multiplies the bias, as in LWS's own code; in EQLv2's code it does not.
    cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER_BIAS = True
    # What a Cascade averages over its stages: "probability" (Detectron2) or "logit" (mmdetection).
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE = "probability"
    # Weight of the box losses of each Cascade stage; empty is 1 for all. (1.0, 0.5, 0.25) is mmdetection's.
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_WEIGHTS = ()
    # What the stages' gradients are to the features that all stages pool from: their "mean" (Detectron2) or their "sum"
    # (mmdetection).
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT = "mean"
    # Class-specific masks: compute only the mask of each RoI's own class (ground truth, or prediction in testing).
    # False computes all classes' and looks at that one, as Detectron2; results are the same but for rounding.
    cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY = True
    # Temperature of MODEL.ROI_MASK_HEAD.NAME NormedMaskRCNNConvUpsampleHead (normalized mask prediction).
    cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 20.0
    # What MODEL.ROI_MASK_HEAD.NAME AveragedMaskHeads averages, one a Cascade stage: mmdetection's converted models.
    cfg.MODEL.ROI_MASK_HEAD.AVERAGED = "MaskRCNNConvUpsampleHead"

    # Of MODEL.BACKBONE.NAME build_timm_fpn_backbone: an extractor of timm below an FPN (pip install 'eql_d2[timm]').
    # MODEL.FPN.IN_FEATURES are res2 to res5, by strides; MODEL.BACKBONE.FREEZE_AT counts the stem and the stages; the
    # weights want RGB images with the mean and deviation that timm says (MODEL.PIXEL_MEAN, MODEL.PIXEL_STD).
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "convnext_tiny"
    # Let timm fetch its weights, or load them from a file as timm saves them; neither: random, or from MODEL.WEIGHTS.
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Stochastic depth; 0: none.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0

    # Share of a RoI's own area that lies in an ignore region from which on the RoI, if it matches no ground truth, is
    # not sampled as background; 1 switches it off. Ignore regions are annotations with "iscrowd" or "ignore" 1, and
    # the unmatched boxes of a second annotation file. 0.5 is a choice of ours.
    cfg.MODEL.ROI_HEADS.IGNORE_OVERLAP = 0.5
    # The same for the anchors of MODEL.PROPOSAL_GENERATOR.NAME LongTailRPN.
    cfg.MODEL.RPN.IGNORE_OVERLAP = 0.5

    # Shell-style name patterns of tensors that are not taken from MODEL.WEIGHTS, e.g. the classifier in cRT.
    cfg.MODEL.WEIGHTS_EXCLUDE = ()
    # Fine-tuning to other classes: those of the same name as a class of MODEL.WEIGHTS keep their rows of the
    # classifier, the box regression and the mask head, the others start anew; the log lists both. Weights that carry
    # no class names count as COCO's (80 classes) or LVIS's (1203 or 1230).
    cfg.MODEL.WEIGHTS_MATCH_CLASSES = False

    # The classification loss of MODEL.META_ARCHITECTURE LongTailRetinaNet and LongTailFCOS, by its method's name:
    # focal, efl, eqfl, eql, sigmoid and others with one logit a class.
    cfg.MODEL.RETINANET.LOSS = "focal"
    # Which anchors of LongTailRetinaNet belong to an object: "overlap", by MODEL.RETINANET.IOU_THRESHOLDS, or "atss"
    # (Zhang et al., CVPR 2020), by a threshold of each object's own among the nearest anchors of each level.
    cfg.MODEL.RETINANET.ASSIGNMENT = "overlap"
    # How many of each level ATSS considers.
    cfg.MODEL.RETINANET.ATSS_CANDIDATES = 9

    cfg.MODEL.LONG_TAIL = CfgNode()
    # Share of each class that a sigmoid classifier predicts at the start of training. Detectron2's own sigmoid
    # classifier (USE_SIGMOID_CE, federated loss) starts with biases of 0, which is 0.5 here; CenterNet2's with 0.01.
    cfg.MODEL.LONG_TAIL.PRIOR_PROB = 0.001
    # Image-level labels (EQL's paper, section 4.2): negatives of tail classes that are annotated in the image, or
    # verified to be absent from it (neg_category_ids), count in full. Of the losses only EQL's can use them; it is
    # not in the official code.
    cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = False
    # One node per method: its keys are the keywords of the loss's constructor in upper case, its defaults the
    # constructor's. What a loss needs to know of the data (number of classes, counts, frequencies) it gets from the
    # category counts.
    add_loss_nodes(cfg)

    # Calibration of the trained classifier: tau of tau-normalisation and gamma of NorCal; 0 switches them off.
    cfg.TEST.TAU_NORM = 0.0
    # Whether tau-normalised weights keep the mean norm of the classes' weights, and so their scale against background.
    # False is the form of the paper and of BAGS's comparison: they are divided by their norms alone.
    cfg.TEST.TAU_NORM_KEEP_SCALE = True
    cfg.TEST.NORCAL_GAMMA = 0.0
    # FRACAL: how often the classes are there, and how their boxes spread over the images, counted from DATASETS.TRAIN.
    cfg.TEST.FRACAL = CfgNode()
    cfg.TEST.FRACAL.ENABLED = False
    # Strength of the spread; 0 leaves it out.
    cfg.TEST.FRACAL.LAMBDA = 2.0
    # LogN: logits with the same mean and variance for all classes, by the statistics in the checkpoint.
    cfg.TEST.LOGN = CfgNode()
    cfg.TEST.LOGN.ENABLED = False
    # Collect these statistics in training: one epoch with SOLVER.BASE_LR 0.
    cfg.TEST.LOGN.COLLECT = False
    # How far a training step moves the running mean and variance.
    cfg.TEST.LOGN.MOMENTUM = 5e-5
