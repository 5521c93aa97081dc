"""The trainer's evaluation: its weights, test sets by their own rules, masks as they leave the head, augmentation."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from eql_d2.data.category_counts import category_counts, official_counts_file, with_thresholds
from eql_d2.data.checks.before_start import without_masks
from eql_d2.data.training.loader import build_test_loader
from eql_d2.engine.checkpoint import AtomicCheckpointer, describe_misfits
from eql_d2.engine.class_transfer import reordered_classes
from eql_d2.engine.compatibility import loss_state_names
from eql_d2.engine.gpu_memory import IN_TESTING, lack_of_memory_told
from eql_d2.engine.resuming import check_run_folder
from eql_d2.engine.weight_average import AverageWeights
from eql_d2.errors import UserError
from eql_d2.evaluation import LVISEvaluator, OpenImagesEvaluator
from eql_d2.evaluation.detection_evaluator import DetectionEvaluator
from eql_d2.long_tail import CategoryCounts, read_count_file
from eql_d2.modeling import LongTailRCNNWithTTA
from eql_d2.modeling.roi_masks import keep_roi_masks

logger = logging.getLogger(__name__)


class EvaluatingTrainer(DefaultTrainer):
    """Detectron2's trainer with this project's test loader and evaluators."""

    _average: AverageWeights  # where SOLVER.EMA.ENABLED

    @classmethod
    def build_trained_model(cls, cfg: CfgNode, resume: str | bool = False) -> nn.Module:
        """The model with the weights of ``MODEL.WEIGHTS``, for evaluation.

        Args:
            cfg: full config.
            resume: take the last checkpoint of ``OUTPUT_DIR`` instead, or its newest whole one for "last-good".

        Raises:
            UserError: the weights are missing, broken, or of another model.
        """
        model = cls.build_model(cfg)
        if resume:
            check_run_folder(cfg.OUTPUT_DIR, resume)
        checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR)
        weights = checkpointer.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS
        if weights:
            checkpointer.class_transfer = reordered_classes(weights, cfg)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        # Statistics of a loss are put in no other order, and no score needs them.
        unneeded = loss_state_names(model) if checkpointer.class_transfer else set()
        misfits = {name: why for name, why in checkpointer.misfits.items() if name not in unneeded}
        if misfits:
            raise UserError(
                f"Weights {cfg.MODEL.WEIGHTS} do not fit the model: {describe_misfits(misfits)}; evaluate with the "
                "config of their training."
            )
        return model

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The loader of this process's part of a test set."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """The metrics of LVIS or Open Images, written to ``OUTPUT_DIR/inference/DATASET`` or another folder."""
        folder = output_folder or f"{cfg.OUTPUT_DIR}/inference/{dataset_name}"
        if MetadataCatalog.get(dataset_name).get("evaluator_type") == "openimages":
            return OpenImagesEvaluator(
                dataset_name,
                output_dir=folder,
                counts=counts_of_groups(cfg, dataset_name),
                show_classes=cfg.TEST.SHOW_CLASSES,
            )
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON and not without_masks(dataset_name) else ("bbox",)
        return LVISEvaluator(
            dataset_name,
            tasks,
            output_dir=folder,
            max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            engine=cfg.TEST.LVIS_ENGINE,
            fixed_ap=cfg.TEST.FIXED_AP,
            counts=counts_of_groups(cfg, dataset_name),
            show_classes=cfg.TEST.SHOW_CLASSES,
        )

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """Detectron2's, with masks that this project's evaluators take as they leave the mask head.

        If one evaluator is another, all get bitmaps in the pictures' size, as ever.

        Args:
            cfg: full config.
            model: the trained model.
            evaluators: one a test set; None builds them.

        Returns:
            On the first process the metrics; elsewhere an empty dict.
        """
        if evaluators is None:
            try:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            except NotImplementedError:  # of a subclass; Detectron2 says what it means
                return super().test(cfg, model)
        if _take_roi_masks(evaluators):
            model = keep_roi_masks(model)
        with lack_of_memory_told("evaluation", IN_TESTING):
            return super().test(cfg, model, evaluators)

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict[str, Any]:
        """Evaluate with test-time augmentation (``TEST.AUG``); results go to ``OUTPUT_DIR/inference_TTA/DATASET``.

        Every size is made from the image on disk; Detectron2's own tool makes it from one of ``INPUT.MIN_SIZE_TEST``,
        so that its larger sizes are blurred.

        Args:
            cfg: full config.
            model: the trained model.

        Returns:
            On the first process the metrics as of ``test``, with keys that end in ``_TTA``; elsewhere an empty dict.
        """
        logger.info("Evaluating with test-time augmentation: %s.", " ".join(str(cfg.TEST.AUG).split()))
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST = 0  # Detectron2's value for: as it is
        evaluators = [
            cls.build_evaluator(cfg, name, f"{cfg.OUTPUT_DIR}/inference_TTA/{name}") for name in cfg.DATASETS.TEST
        ]
        augmented = LongTailRCNNWithTTA(cfg, model, roi_masks=_take_roi_masks(evaluators))
        results = cls.test(cfg, augmented, evaluators)
        return OrderedDict((f"{key}_TTA", value) for key, value in results.items())

    def test_average(self) -> OrderedDict[str, Any]:
        """Evaluate the average of ``SOLVER.EMA``; results go to ``OUTPUT_DIR/inference_EMA/DATASET``.

        Returns:
            On the first process the metrics as of ``test``, with keys that end in ``_EMA``; elsewhere an empty dict.
        """
        evaluators = [
            self.build_evaluator(self.cfg, name, f"{self.cfg.OUTPUT_DIR}/inference_EMA/{name}")
            for name in self.cfg.DATASETS.TEST
        ]
        results = self.test(self.cfg, self._average.model, evaluators)
        return OrderedDict((f"{key}_EMA", value) for key, value in results.items())

    def _evaluate(self) -> OrderedDict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def _evaluate_all(self) -> OrderedDict[str, Any]:
        average = self.test_average() if self.cfg.SOLVER.EMA.ENABLED else {}
        return OrderedDict({**self._evaluate(), **average})


def _take_roi_masks(evaluators: Sequence[DatasetEvaluator] | DatasetEvaluator) -> bool:
    of_sets = [evaluators] if isinstance(evaluators, DatasetEvaluator) else evaluators
    return all(isinstance(evaluator, DetectionEvaluator) for evaluator in of_sets)


def counts_of_groups(cfg: CfgNode, dataset_name: str) -> CategoryCounts | None:
    """The category counts that part the classes of a test set into rare, common and frequent ones.

    They are those of the training data, unless the test set comes with official ones, as LVIS does: then results stay
    comparable when a part of LVIS was trained on. ``MODEL.LONG_TAIL.CATEGORY_COUNTS`` overrules both.

    Args:
        cfg: full config.
        dataset_name: the test set.

    Returns:
        None where no training data are there, as in an evaluation elsewhere.
    """
    official = official_counts_file(dataset_name)
    if official and not cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS:
        return with_thresholds(read_count_file(official), cfg)
    try:
        return category_counts(cfg)
    except UserError as error:
        logger.warning("The groups rare, common and frequent are those of the test set's file: %s", error)
        return None
