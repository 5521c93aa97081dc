"""One side of benchmarks/job.py, a process of its own: does a part of the job when told to, and says its cost."""

import contextlib
import json
import logging
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import LVISEvaluator as TheirEvaluator
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from evaluation import made_up_annotations, made_up_results
from pycocotools import mask as mask_util
from torch import nn

from eql_d2.engine import load_config
from eql_d2.evaluation import LVISEvaluator
from eql_d2.evaluation.metrics.evaluation import Evaluation
from eql_d2.evaluation.results.mask_encoding import encode_roi_masks
from eql_d2.modeling.roi_masks import keep_roi_masks

CONFIG = Path(__file__).parents[1] / "configs" / "LVISv1" / "official" / "mask_rcnn_R50_FPN" / "softmax.yaml"
HEIGHT, WIDTH = 480, 640  # of a picture, COCO's most frequent size
SIDES = ("detectron2", "class-agnostic", "eql_d2")


def job_config(side: str, sizes: dict[str, Any]) -> Any:
    """Mask R-CNN R50-FPN for LVIS v1: this project's, or stock Detectron2's with the same numbers."""
    cfg = load_config(str(CONFIG), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", sizes["device"]])
    if side != "eql_d2":
        cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "StandardROIHeads", "RPN"
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = side == "class-agnostic"
    if sizes["small"]:
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    return cfg


class ProposalsNearObjects(nn.Module):
    """A proposal generator of random weights that proposes, in training, what a trained one would.

    Besides its own, it proposes boxes around the objects, so that a quarter of the sampled RoIs are foreground.

    Args:
        generator: Detectron2's or this project's.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Any, features: Any, gt_instances: list[Instances] | None = None) -> Any:
        proposals, losses = self.generator(images, features, gt_instances)
        if gt_instances is None:
            return proposals, losses
        more = []
        for of_image, objects in zip(proposals, gt_instances, strict=True):
            boxes = objects.gt_boxes.tensor.repeat(30, 1)
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            near = Instances(of_image.image_size, proposal_boxes=Boxes(boxes + 0.05 * sides * torch.randn_like(boxes)))
            near.objectness_logits = torch.full_like(boxes[:, 0], 10.0)
            more.append(Instances.cat([of_image, near]))
        return more, losses


def scale_to(layer: nn.Module, outputs: torch.Tensor, deviation: float) -> None:
    """Scale a layer's weights so that its outputs, which are given, spread as those of a trained one."""
    with torch.no_grad():
        layer.weight.mul_(deviation / outputs.std())


@torch.no_grad()
def make_weights(path: str, sizes: dict[str, Any]) -> None:
    """Random weights by which 300 detections of all kinds of boxes and masks come out; a file for all sides."""
    torch.manual_seed(0)
    model = build_model(job_config("detectron2", sizes)).eval()
    picture = Job.picture(sizes)
    features = model.backbone(model.preprocess_image([picture]).tensor)
    generator, heads = model.proposal_generator, model.roi_heads
    head = generator.rpn_head
    objectness, deltas = head([features[name] for name in generator.in_features])
    scale_to(head.objectness_logits, torch.cat([level.flatten() for level in objectness]), 2.0)
    scale_to(head.anchor_deltas, torch.cat([level.flatten() for level in deltas]), 0.3)
    proposals, _ = generator(model.preprocess_image([picture]), features)
    boxes = [proposals[0].proposal_boxes]
    levels = [features[name] for name in heads.box_in_features]
    scores, deltas = heads.box_predictor(heads.box_head(heads.box_pooler(levels, boxes)))
    scale_to(heads.box_predictor.cls_score, scores, 5.0)
    scale_to(heads.box_predictor.bbox_pred, deltas, 0.3)
    scale_to(heads.mask_head.predictor, heads.mask_head.layers(heads.mask_pooler(levels, [boxes[0][:4]])), 2.0)
    torch.save(model.state_dict(), path)


class Job:
    """The parts of the job of one side.

    Args:
        side: one of SIDES.
        folder: with the weights and the annotation file.
        sizes: how much of everything; see benchmarks/job.py.
    """

    def __init__(self, side: str, folder: Path, sizes: dict[str, Any]) -> None:
        self.side, self.sizes, self.device = side, sizes, sizes["device"]
        self.is_ours = side == "eql_d2"
        cfg = job_config(side, sizes)
        self.model = build_model(cfg)
        weights = torch.load(folder / "weights.pth", weights_only=True)
        own = self.model.state_dict()
        self.model.load_state_dict({n: t for n, t in weights.items() if own[n].shape == t.shape}, strict=False)
        self.model.proposal_generator = ProposalsNearObjects(self.model.proposal_generator)
        self.optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=0.0, momentum=0.9)
        self.annotations = folder / "annotations.json"
        name = "job"
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(json_file=str(self.annotations), evaluator_type="lvis")

    @staticmethod
    def picture(sizes: dict[str, Any]) -> dict[str, Any]:
        """A picture as the loader of test pictures gives it."""
        scale = sizes["short_side"] / HEIGHT
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (3, HEIGHT // 8, WIDTH // 8), generator=generator).float()[None]
        pixels = nn.functional.interpolate(pixels, (round(HEIGHT * scale), round(WIDTH * scale)), mode="bilinear")[0]
        return {"image": pixels.byte(), "height": HEIGHT, "width": WIDTH, "image_id": 1}

    def training_pictures(self) -> list[dict[str, Any]]:
        """The same picture with the objects of an image of the annotation file."""
        content = json.loads(self.annotations.read_text())
        scale = self.sizes["short_side"] / HEIGHT
        objects = [a for a in content["annotations"] if a["image_id"] == 1]
        picture = self.picture(self.sizes)
        instances = Instances(tuple(picture["image"].shape[1:]))
        polygons = [[np.array(polygon) * scale for polygon in a["segmentation"]] for a in objects]
        instances.gt_masks = PolygonMasks(polygons)
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances.gt_classes = torch.tensor([a["category_id"] - 1 for a in objects])
        return [{**picture, "instances": instances}] * self.sizes["pictures_a_step"]

    def step(self) -> Callable[[], Any]:
        """A training step: forward, backward, optimizer."""
        pictures = self.training_pictures()
        self.model.train()
        torch.manual_seed(0)

        def work() -> dict[str, Any]:
            with EventStorage() as storage:
                losses = self.model(pictures)
            sum(losses.values()).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            foreground = storage.latest()["roi_head/num_fg_samples"][0]
            return {"loss_mask": losses["loss_mask"].item(), "foreground RoIs of a picture": foreground}

        return work

    def picture_to_results(self) -> Callable[[], Any]:
        """A picture: detection, masks, and what the evaluator makes of them."""
        model = self.model.eval()
        evaluator = (LVISEvaluator if self.is_ours else TheirEvaluator)("job", ("bbox", "segm"), distributed=False)
        model = keep_roi_masks(model) if self.is_ours else model
        picture = self.picture(self.sizes)
        evaluator.reset()

        def work() -> dict[str, Any]:
            with torch.no_grad():
                outputs = model([picture])
            evaluator.process([picture], outputs)
            return {"detections": len(outputs[0]["instances"])}

        return work

    def metrics(self) -> Callable[[], Any]:
        """Boxes' and masks' metrics of results that are there."""
        content = json.loads(self.annotations.read_text())
        of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        results = {image["id"]: made_up_results(image, of_image[image["id"]], True) for image in content["images"]}
        if self.is_ours:
            evaluator = LVISEvaluator("job", ("bbox", "segm"), distributed=False)

            def ours() -> dict[str, Any]:
                evaluation = Evaluation(evaluator._ground_truth, ("bbox", "segm"))
                for image_id, of_this in results.items():
                    evaluation.add_image(image_id, of_this)
                return {"AP": evaluation.compute()["segm"].values["AP"]}

            return ours
        evaluator = TheirEvaluator("job", ("bbox", "segm"), distributed=False)
        evaluator.reset()
        np.float = float  # which lvis-api takes from NumPy, and NumPy no longer has
        for image_id, of_this in results.items():
            for result in of_this:
                result["category_id"] -= 1
            evaluator._predictions.append({"image_id": image_id, "instances": of_this})

        def theirs() -> dict[str, Any]:
            with np.errstate(all="ignore"):
                return {"AP": evaluator.evaluate()["segm"]["AP"]}

        return theirs

    def mask_head(self, training: bool) -> Callable[[], Any]:
        """The mask head alone, of some RoIs."""
        head, number = self.model.roi_heads.mask_head.train(training), self.sizes["rois"]
        x = torch.randn(number, 256, 14, 14, device=self.device)
        objects = self.training_pictures()[0]["instances"][[0] * number].to(self.device)
        objects.proposal_boxes = objects.gt_boxes
        objects.gt_classes = objects.pred_classes = torch.arange(number, device=self.device)

        def work() -> dict[str, Any]:
            with EventStorage(), torch.set_grad_enabled(training):
                result = head(x, [objects])
            if training:
                result["loss_mask"].backward()
                head.zero_grad()
            return {}

        return work

    def encoding(self, height: int, width: int) -> Callable[[], Any]:
        """300 RoI masks, of objects of all sizes, to run-length encodings."""
        generator = torch.Generator().manual_seed(0)
        center = torch.rand(300, 2, generator=generator) * torch.tensor([width, height])
        half = torch.exp(0.8 * torch.randn(300, 2, generator=generator)) * height / 8
        boxes = torch.cat([center - half, center + half], dim=1)
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height] * 2))
        noise = 4 * torch.randn(300, 1, 5, 5, generator=generator) + 1
        masks = nn.functional.interpolate(noise, (28, 28), mode="bilinear")[:, 0].sigmoid()

        def ours() -> dict[str, Any]:
            return {"encodings": checksum(encode_roi_masks(masks, boxes, height, width))}

        def theirs() -> dict[str, Any]:
            bitmaps = paste_masks_in_image(masks, boxes, (height, width))
            encodings = [mask_util.encode(np.asfortranarray(b[:, :, None], dtype=np.uint8))[0] for b in bitmaps.numpy()]
            return {"encodings": checksum({"counts": e["counts"].decode()} for e in encodings)}

        return ours if self.is_ours else theirs


def checksum(encodings: Iterable[dict[str, Any]]) -> int:
    """Equal for equal encodings."""
    return zlib.crc32("".join(encoding["counts"] for encoding in encodings).encode())


def measured(work: Callable[[], Any], device: str) -> dict[str, Any]:
    """Seconds and peak memory of some work, and what it returns.

    On a CPU seconds are the processor's, without the time that others have it, and memory is resident.
    """
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    outcome = work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = clock() - start
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    megabytes = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else int(status) / 1024
    return {"seconds": seconds, "megabytes": megabytes, **outcome}


def main() -> None:
    """Do the parts that lines of the standard input name; each is answered by a line of JSON."""
    side, folder, text = sys.argv[1:]
    sizes = json.loads(text)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if side == "weights":
        return make_weights(f"{folder}/weights.pth", sizes)
    if side == "annotations":
        return Path(folder, "annotations.json").write_text(json.dumps(made_up_annotations(sizes["images"])))
    with contextlib.redirect_stdout(sys.stderr):
        job = Job(side, Path(folder), sizes)
    parts = {
        "step": job.step,
        "picture": job.picture_to_results,
        "metrics": job.metrics,
        "mask head, training": lambda: job.mask_head(True),
        "mask head, testing": lambda: job.mask_head(False),
        "encoding 640 x 480": lambda: job.encoding(480, 640),
        "encoding 1920 x 1080": lambda: job.encoding(1080, 1920),
    }
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = measured(parts[line.strip()](), job.device)
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
