"""Proof of a conversion: the source's layout and this project's model, on the same image and boxes."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import FastRCNNOutputLayers, GeneralizedRCNN
from detectron2.structures import Boxes
from torch import Tensor, nn

from eql_d2.conversion.convert import Conversion
from eql_d2.conversion.layouts import SOURCES, Source
from eql_d2.conversion.reference import SourceModel
from eql_d2.conversion.settings import delta_stds, needed_settings
from eql_d2.conversion.source_file import SourceFile
from eql_d2.data.category_counts import category_counts
from eql_d2.errors import UserError

TOLERANCE = 1e-5
HEIGHT, WIDTH, NUM_BOXES = 128, 192, 12  # a multiple of 32, which needs no padding


@torch.no_grad()
def prove(conversion: Conversion, file: SourceFile, source_name: str) -> dict[str, float]:
    """Compare the outputs of the converted model with those of the source's layout, in float64.

    Args:
        conversion: see :func:`eql_d2.conversion.convert`.
        file: the weights that it is of.
        source_name: key of ``SOURCES``. Of "detectron2", whose layers are this project's, the classifiers are
            compared.

    Returns:
        The largest difference of each output, as a share of its largest value (at least 1).

    Raises:
        UserError: one is above 1e-5.
    """
    source = SOURCES[source_name]
    model, cfg = conversion.model.double(), conversion.cfg
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)  # BGR
    try:
        if source.spare_background:
            pairs = _classifier_outputs(model, file, image, cfg, generator)
        elif source.backbone_only:
            reference = SourceModel(source, file, _source_settings(cfg, source, file))
            pairs = _backbone_outputs(model, reference, image, cfg)
        else:
            reference = SourceModel(source, file, _source_settings(cfg, source, file))
            pairs = _outputs(model, reference, image, cfg, [delta_stds(file, stage) for stage in range(3)], generator)
        differences = {name: _difference(*pair) for name, pair in pairs.items()}
    finally:
        model.float()
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        raise UserError(
            f"The converted model does not compute what {file.path} does: {', '.join(wrong)} differ by "
            f"{max(wrong.values()):.1e} of the largest value; check --source and the config's method."
        )
    return differences


def _source_settings(cfg: CfgNode, source: Source, file: SourceFile) -> dict[str, Any]:
    is_cascade = "Cascade" in cfg.MODEL.ROI_HEADS.NAME
    needed = needed_settings(source, file, is_cascade)
    mask_head = cfg.MODEL.ROI_MASK_HEAD
    predictor = cfg.MODEL.ROI_BOX_HEAD.PREDICTOR
    is_grouped = predictor == "BAGSPredictor"
    return {
        "caffe_style": needed["MODEL.RESNETS.STRIDE_IN_1X1"],
        "mean": needed["MODEL.PIXEL_MEAN"],
        "std": needed["MODEL.PIXEL_STD"],
        "rgb": needed["INPUT.FORMAT"] == "RGB",
        "method": predictor,
        "normed_classifier": cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER,
        "temperature": cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE,
        "normed_mask": "Normed" in mask_head.NAME + mask_head.AVERAGED,
        "mask_temperature": mask_head.TEMPERATURE,
        "stages": len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS) if is_cascade else 1,
        "instance_counts": category_counts(cfg).instance_counts if is_grouped else (),
        "bin_edges": cfg.MODEL.LONG_TAIL.BAGS.BIN_EDGES,
    }


def _preprocessed(model: GeneralizedRCNN, image: Tensor, cfg: CfgNode) -> Tensor:
    in_format = image if cfg.INPUT.FORMAT == "BGR" else image.flip(-1)
    return model.preprocess_image([{"image": in_format.permute(2, 0, 1)}]).tensor


def _backbone_outputs(
    model: GeneralizedRCNN, reference: SourceModel, image: Tensor, cfg: CfgNode
) -> dict[str, tuple[Tensor, Tensor]]:
    ours, theirs = _preprocessed(model, image, cfg), reference.pixels(image)
    pairs = {"pixels": (ours, theirs)}
    features = model.backbone.bottom_up(ours)
    for name, stage in zip(("res2", "res3", "res4", "res5"), reference.backbone(theirs), strict=True):
        if name in features:
            pairs[name] = (features[name], stage)
    return pairs


def _classifier_outputs(
    model: GeneralizedRCNN, file: SourceFile, image: Tensor, cfg: CfgNode, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Scores of each stage, ours and by the file's classifier as it is."""
    heads, features = model.roi_heads, model.backbone(_preprocessed(model, image, cfg))
    pooled = heads.box_pooler([features[name] for name in heads.box_in_features], [Boxes(_random_boxes(generator))])
    is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
    stages = list(zip(heads.box_head, heads.box_predictor, strict=True)) if is_cascade else []
    pairs = {}
    for stage, (head, predictor) in enumerate(stages or [(heads.box_head, heads.box_predictor)]):
        of_box = head(pooled)
        place = f"roi_heads.box_predictor.{f'{stage}.' if is_cascade else ''}cls_score"
        weight, bias = (file.tensors[f"{place}.{part}"].double() for part in ("weight", "bias"))
        logits = of_box.flatten(1) @ weight.T + bias
        ours = predictor.test_logits(predictor(of_box))
        suffix = f" of stage {stage}" if is_cascade else ""
        pairs[f"logits{suffix}"] = (ours, logits[:, : predictor.loss.num_logits])
        theirs = logits.softmax(dim=1) if predictor.loss.exclusive else logits.sigmoid()
        pairs[f"scores{suffix}"] = (predictor.scores(ours)[:, :-1], theirs[:, : predictor.num_classes])
    return pairs


def _outputs(
    model: GeneralizedRCNN,
    reference: SourceModel,
    image: Tensor,
    cfg: CfgNode,
    stds: list[tuple[float, ...]],
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor]]:
    ours, theirs = _preprocessed(model, image, cfg), reference.pixels(image)
    pairs = {"pixels": (ours, theirs)}
    features = model.backbone(ours)
    levels = reference.neck(reference.backbone(theirs))
    generated = model.proposal_generator.rpn_head([features[f"p{level}"] for level in range(2, 7)])
    for number, (level, objectness, deltas) in enumerate(zip(levels, *generated, strict=True), start=2):
        expected = reference.proposals(level)
        pairs[f"p{number}"] = (features[f"p{number}"], level)
        pairs[f"RPN objectness of p{number}"] = (objectness, expected[0])
        pairs[f"RPN deltas of p{number}"] = (deltas, expected[1])

    heads = model.roi_heads
    boxes = _random_boxes(generator)
    box_features = heads.box_pooler([features[name] for name in heads.box_in_features], [Boxes(boxes)])
    expected_features = reference.pool(levels, boxes, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION)
    pairs["pooled features"] = (box_features, expected_features)
    is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
    stages = (
        zip(heads.box_head, heads.box_predictor, strict=True) if is_cascade else [(heads.box_head, heads.box_predictor)]
    )
    all_ours, all_theirs = [], []
    for stage, (head, predictor) in enumerate(stages):
        predictions = predictor(head(box_features))
        logits, deltas = reference.box_head(expected_features, stage)
        all_ours.append(predictor.test_logits(predictions))
        all_theirs.append(logits)
        suffix = f" of stage {stage}" if is_cascade else ""
        pairs[f"box deltas{suffix}"] = _relative_deltas(reference, predictor, predictions[1], deltas, stds[stage])
        pairs[f"scores{suffix}"] = (predictor.scores(all_ours[-1]), reference.scores(logits))
    if is_cascade:
        pairs["scores"] = (
            predictor.scores(torch.stack(all_ours).mean(dim=0)),
            reference.scores(torch.stack(all_theirs).mean(dim=0)),
        )
    if cfg.MODEL.MASK_ON:
        pooled = heads.mask_pooler([features[name] for name in heads.mask_in_features], [Boxes(boxes)])
        expected_masks = reference.masks(reference.pool(levels, boxes, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION))
        pairs["masks"] = (heads.mask_head.layers(pooled).sigmoid(), expected_masks)
    return pairs


def _relative_deltas(
    reference: SourceModel, predictor: FastRCNNOutputLayers, ours: Tensor, theirs: Tensor, stds: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Box deltas in shares of a box's size, (R, n, 4), foreground classes only."""
    weights = ours.new_tensor(predictor.box2box_transform.weights)
    ours, theirs = ours.unflatten(1, (-1, 4)) / weights, theirs.unflatten(1, (-1, 4))
    if not reference.source.normalized_deltas:
        return ours, theirs / weights
    theirs = theirs * theirs.new_tensor(stds)
    is_per_class = theirs.shape[1] > 1
    return ours, theirs[:, 1:] if reference.source.background_first and is_per_class else theirs


def _random_boxes(generator: torch.Generator) -> Tensor:
    corner = torch.rand(NUM_BOXES, 2, generator=generator, dtype=torch.float64) * 0.5
    share = torch.rand(NUM_BOXES, 2, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    boxes = torch.cat([corner * size, (corner + (1 - corner) * share) * size], dim=1)
    return boxes.float().double()  # Detectron2 holds boxes in float32


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))
