"""The trainer of image classifiers: the detectors' one with other data and metrics."""

import math

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch.utils.data import DataLoader

import eql_d2.classification.classifier  # noqa: F401  (registers the meta-architecture)
from eql_d2.classification.classification_evaluator import ClassificationEvaluator
from eql_d2.classification.datasets import check_classification_datasets, register_classification_datasets
from eql_d2.classification.image_loader import build_test_loader, build_train_loader
from eql_d2.classification.transforms import build_transforms
from eql_d2.data.category_counts import category_counts
from eql_d2.data.training.loader import TrainLoader
from eql_d2.engine import LongTailTrainer
from eql_d2.engine.setup import Task
from eql_d2.errors import UserError
from eql_d2.losses import LDAMLoss


class ClassifierTrainer(LongTailTrainer):
    """Trains and evaluates an :class:`ImageClassifier`; runs resume exactly, as those of detectors.

    Args:
        cfg: full config.
    """

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int = 0) -> TrainLoader:
        """The loader of this process's training batches."""
        return build_train_loader(cfg, seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """The loader of this process's part of a test set."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> ClassificationEvaluator:
        """Accuracies over all classes and by training images, written to ``OUTPUT_DIR/inference/DATASET``."""
        counts = category_counts(cfg)
        folder = output_folder or f"{cfg.OUTPUT_DIR}/inference/{dataset_name}"
        return ClassificationEvaluator(
            counts.instance_counts,
            counts.names,
            output_dir=folder,
            many_shot_above=cfg.TEST.MANY_SHOT_ABOVE,
            few_shot_below=cfg.TEST.FEW_SHOT_BELOW,
        )

    def build_hooks(self) -> list[HookBase | None]:
        """The detectors' hooks, and the switch of deferred re-weighting if the loss has one.

        Raises:
            UserError: ``SOLVER.REWEIGHT_FROM`` is out of its range.
        """
        hooks = super().build_hooks()
        losses = [module for module in self.model.modules() if isinstance(module, LDAMLoss)]
        if losses:
            hooks.insert(0, DeferReweighting(losses[0], reweighting_start(self.cfg)))
        return hooks


class DeferReweighting(HookBase):
    """Switches a loss's class weights on for the last part of a training (LDAM-DRW).

    Args:
        loss: the loss.
        start: first iteration with class weights.
    """

    def __init__(self, loss: LDAMLoss, start: int) -> None:
        self._loss = loss
        self._start = start

    def before_step(self) -> None:
        """Set the switch, also after a restart."""
        self._loss.set_reweighting(self.trainer.iter >= self._start)


def reweighting_start(cfg: CfgNode) -> int:
    """The first iteration of the part of a training that ``SOLVER.REWEIGHT_FROM`` names.

    Raises:
        UserError: the key is no share.
    """
    share = cfg.SOLVER.REWEIGHT_FROM
    if not 0 <= share <= 1:
        raise UserError(f"SOLVER.REWEIGHT_FROM is {share}; it must be a share of the training, from 0 to 1 (never).")
    return math.ceil(share * cfg.SOLVER.MAX_ITER)


def _check_classifier(cfg: CfgNode) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "ImageClassifier":
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, not ImageClassifier; train detectors with "
            "tools/train_net.py."
        )
    if cfg.TEST.AUG.ENABLED:
        raise UserError("TEST.AUG.ENABLED is True, but test-time augmentation is for detectors; set it to False.")
    for is_train in (True, False):
        build_transforms(cfg, is_train)


CLASSIFICATION = Task(_check_classifier, register_classification_datasets, check_classification_datasets)
