"""Calibration of a trained classifier at test time: LogN, τ-normalisation, NorCal, FRACAL. They go with every loss."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from eql_d2.data.category_counts import category_counts
from eql_d2.data.fractal_dimensions import fractal_dimensions
from eql_d2.errors import UserError, check_number
from eql_d2.long_tail import CategoryCounts
from eql_d2.losses import ClassificationLoss
from eql_d2.losses.distributed import sum_over_processes
from eql_d2.modeling.normed_layers import NormedLinear, ScaledLinear


def tau_normalized_logits(
    logits: Tensor, classifier: nn.Linear, class_columns: Tensor, tau: float, keep_scale: bool = True
) -> Tensor:
    """Logits as if the weights of each class had been divided by ‖w‖^τ (Kang et al., ICLR 2020, section 4.2).

    With ``keep_scale`` they are then multiplied by the mean norm to the power τ, so that classes keep their scale
    against background and other columns. Those stay as they are in both forms, and so does the bias. The form without
    is that of Balanced Group Softmax's code (tools/test_lvis_tnorm.py). Kang et al. classify images, without bias and
    background, where the two forms order the classes alike. A :class:`NormedLinear` has normalized weights already and
    is left alone.

    Args:
        logits: (R, num_logits) outputs of the classifier.
        classifier: the layer, with or without bias.
        class_columns: (K,) columns of the classes.
        tau: τ; 0 changes nothing, 1 makes all norms equal.
        keep_scale: whether the mean norm is kept.

    Returns:
        (R, num_logits).
    """
    if isinstance(classifier, NormedLinear):
        return logits
    scale = classifier.scale if isinstance(classifier, ScaledLinear) else torch.ones_like(classifier.weight[:, 0])
    norms = (scale * classifier.weight.norm(dim=1))[class_columns].abs().clamp(min=1e-12)
    factors = torch.ones_like(scale)
    factors[class_columns] = ((norms.mean() if keep_scale else 1) / norms) ** tau
    bias: Tensor = torch.zeros_like(scale) if classifier.bias is None else classifier.bias
    if isinstance(classifier, ScaledLinear) and classifier.scales_bias:
        bias = scale * bias
    return factors * (logits - bias) + bias


def norcal(scores: Tensor, image_counts: Tensor, gamma: float, exclusive: bool) -> Tensor:
    """Divide the scores of each class by N^γ and normalize (NorCal: Pan et al., NeurIPS 2021, equation 4).

    Args:
        scores: (R, K + 1), background last; (R, K) without background.
        image_counts: (K,) numbers N of training images; 0 counts as 1.
        gamma: γ; 0 changes nothing.
        exclusive: whether classes and background share one distribution. If not (independent sigmoids), each class is
            normalized against its own complement: NorCal of K classifiers of one class each.

    Returns:
        As many columns; where not exclusive, the background's scores are as they were.
    """
    classes, background = scores.tensor_split([len(image_counts)], dim=1)
    reduced = classes / image_counts.to(scores).clamp(min=1) ** gamma
    if not exclusive:
        return torch.cat([reduced / (reduced + 1 - classes), background], dim=1)
    total = reduced.sum(dim=1, keepdim=True) + background.sum(dim=1, keepdim=True)
    return torch.cat([reduced, background], dim=1) / total


def fracal(scores: Tensor, image_frequencies: Tensor, dimensions: Tensor, lambda_: float, exclusive: bool) -> Tensor:
    """Raise the scores of rare classes, and of classes whose boxes lie in few places (FRACAL, arXiv 2410.11774).

    With h_c = log10(1 / K) - log10(f_c), a softmax detector's score of class c is that of z_c + h_c, divided by D_c^λ,
    and all are normalized with background as it was. An independent sigmoid's p_c = σ(z_c) is multiplied by
    σ(z_c + h_c + log10(1 / K) - log10(D_c^λ / Σ_j D_j^λ)). Logarithms of base 10 as in the first code.

    Args:
        scores: (R, K + 1), background last.
        image_frequencies: (K,) share f in (0, 1] of the training images that hold each class.
        dimensions: (K,) fractal dimension D of each class's box centres.
        lambda_: λ, at least 0; 0 leaves the places out.
        exclusive: whether classes and background share one distribution.

    Returns:
        As many columns; where not exclusive, the background's scores are as they were.
    """
    num_classes = len(image_frequencies)
    dimensions = dimensions.to(scores) ** lambda_
    shifts = -(num_classes * image_frequencies.double()).log10().to(scores)
    classes, background = scores.tensor_split([num_classes], dim=1)
    if not exclusive:
        factors = (shifts - (num_classes * dimensions / dimensions.sum()).log10()).exp()
        raised = classes * factors
        return torch.cat([classes * raised / (raised + 1 - classes), background], dim=1)
    raised = classes * shifts.exp() / dimensions
    total = raised.sum(dim=1, keepdim=True) + background.sum(dim=1, keepdim=True)
    return torch.cat([raised, background], dim=1) / total


class LogitStatistics(nn.Module):
    """Running mean and variance of each logit over training RoIs, for LogN (Zhao et al., IJCV 2024, arXiv 2203.17020).

    Each step moves them by ``momentum`` towards the mean and the unbiased variance of the RoIs of all processes. They
    start at 0 and 1, whose weight after n steps is (1 - momentum)^n: with 5e-5 that is 29 % after an epoch of LVIS.

    Args:
        num_logits: width of the classifier's output.
        momentum: in (0, 1].

    Raises:
        ValueError: ``momentum`` is out of its range.
    """

    mean: Tensor
    variance: Tensor
    num_steps: Tensor

    def __init__(self, num_logits: int, momentum: float = 5e-5) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum is {momentum}; it must be above 0 and at most 1.")
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_logits))
        self.register_buffer("variance", torch.ones(num_logits))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def collect(self, logits: Tensor) -> None:
        """Take in the logits (R, num_logits) of one step; every process has to call it."""
        values = logits.double()
        number = torch.full_like(values.sum(dim=0), len(values))
        sums = torch.stack([number, values.sum(dim=0), (values**2).sum(dim=0)])
        number, total, squares = sum_over_processes(sums)
        mean = total / number
        variance = (squares - total * mean) / (number - 1)
        # Of one RoI, or of NaN, there is no variance: such a step is left out.
        moved = (variance.isfinite() & (number > 1)).all()
        self.mean += torch.where(moved, self.momentum * (mean - self.mean), 0).to(self.mean)
        self.variance += torch.where(moved, self.momentum * (variance - self.variance), 0).to(self.variance)
        self.num_steps += moved

    def normalize(self, logits: Tensor, class_columns: Tensor) -> Tensor:
        """Logits (R, num_logits) whose classes have all the lowest class's mean, and variance 1; others as they were.

        Raises:
            UserError: nothing was collected.
        """
        if not self.num_steps:
            raise UserError(
                "TEST.LOGN.ENABLED is True, but the model has no statistics of its logits; train it for an epoch with "
                "TEST.LOGN.COLLECT True and SOLVER.BASE_LR 0 first."
            )
        mean, variance = self.mean[class_columns].to(logits), self.variance[class_columns].to(logits)
        normalized = (logits[:, class_columns] - (mean - mean.min())) / variance.clamp(min=1e-11).sqrt()
        return logits.index_copy(1, class_columns, normalized)


def calibration_of_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`Calibration` but for the loss.

    Raises:
        UserError: the category counts or the boxes that a calibration needs are not there.
    """
    arguments: dict[str, Any] = {
        "tau_norm": cfg.TEST.TAU_NORM,
        "tau_norm_keep_scale": cfg.TEST.TAU_NORM_KEEP_SCALE,
        "norcal_gamma": cfg.TEST.NORCAL_GAMMA,
    }
    if cfg.TEST.NORCAL_GAMMA:
        arguments["image_counts"] = torch.tensor(category_counts(cfg).image_counts)
    if cfg.TEST.FRACAL.ENABLED:
        counts = category_counts(cfg)
        if not cfg.DATASETS.TRAIN:
            raise UserError(
                "TEST.FRACAL.ENABLED is True, but DATASETS.TRAIN names no dataset whose boxes could be counted; set it "
                "to the training data, or the key to False."
            )
        dimensions = fractal_dimensions(tuple(cfg.DATASETS.TRAIN), counts.num_classes)
        # A class in no image counts as one in a single image.
        frequencies = counts.image_frequencies.clamp(min=1 / counts.num_images)
        arguments |= {"image_frequencies": frequencies, "dimensions": torch.tensor(dimensions, dtype=torch.float64)}
        arguments["fracal_lambda"] = cfg.TEST.FRACAL.LAMBDA
    if cfg.TEST.LOGN.ENABLED or cfg.TEST.LOGN.COLLECT:
        arguments |= {"logn": cfg.TEST.LOGN.ENABLED, "logn_momentum": cfg.TEST.LOGN.MOMENTUM}
    return arguments


class Calibration(nn.Module):
    """What the config asks for under ``TEST``: of logits first LogN, then τ-norm; of scores NorCal, then FRACAL.

    Args:
        loss: turns logits into scores.
        tau_norm: τ of τ-normalisation.
        norcal_gamma: γ of NorCal.
        image_counts: (K,) numbers of training images, or category counts; needed for NorCal only.
        tau_norm_keep_scale: see :func:`tau_normalized_logits`.
        image_frequencies: (K,) for FRACAL; None switches it off.
        dimensions: (K,) for FRACAL.
        fracal_lambda: λ of FRACAL.
        logn: whether LogN acts in a test; None is without its statistics, False collects them only.
        logn_momentum: see :class:`LogitStatistics`.

    Raises:
        UserError: an argument is out of its range; the sentence names its key.
    """

    class_columns: Tensor
    image_counts: Tensor | None
    image_frequencies: Tensor | None
    dimensions: Tensor | None

    def __init__(
        self,
        loss: ClassificationLoss,
        tau_norm: float = 0.0,
        norcal_gamma: float = 0.0,
        image_counts: Tensor | CategoryCounts | None = None,
        tau_norm_keep_scale: bool = True,
        image_frequencies: Tensor | None = None,
        dimensions: Tensor | None = None,
        fracal_lambda: float = 2.0,
        logn: bool | None = None,
        logn_momentum: float = 5e-5,
    ) -> None:
        super().__init__()
        if isinstance(image_counts, CategoryCounts):
            image_counts = torch.tensor(image_counts.image_counts)
        check_number("tau_norm (TEST.TAU_NORM)", tau_norm, least=0)
        check_number("norcal_gamma (TEST.NORCAL_GAMMA)", norcal_gamma, least=0)
        check_number("TEST.FRACAL.LAMBDA", fracal_lambda, least=0)
        if norcal_gamma and image_counts is None:
            raise UserError(
                "NorCal needs the numbers of training images; give image_counts=L(dataset_counts)(dataset_names=...) "
                "beside norcal_gamma in a lazy config."
            )
        for name, values in (
            ("image_counts", image_counts),
            ("image_frequencies", image_frequencies),
            ("dimensions", dimensions),
        ):
            if values is not None and len(values) != loss.num_classes:
                raise UserError(f"{name} are of {len(values)} classes, the loss of {loss.num_classes}.")
        self.tau_norm = tau_norm
        self.tau_norm_keep_scale = tau_norm_keep_scale
        self.norcal_gamma = norcal_gamma
        self.fracal_lambda = fracal_lambda
        self.logn = logn
        self._exclusive = loss.exclusive
        self.register_buffer("class_columns", loss.class_columns, persistent=False)
        self.register_buffer("image_counts", image_counts, persistent=False)
        self.register_buffer("image_frequencies", image_frequencies, persistent=False)
        self.register_buffer("dimensions", dimensions, persistent=False)
        self.statistics: LogitStatistics | None = None
        if logn is not None:
            try:
                self.statistics = LogitStatistics(loss.num_logits, logn_momentum)
            except ValueError as error:
                raise UserError(f"TEST.LOGN: {error}") from None

    def collect(self, logits: Tensor) -> None:
        """Take in a training step's logits (R, num_logits), where LogN's statistics are to be collected."""
        if self.statistics is not None and not self.logn:
            self.statistics.collect(logits)

    def logits(self, logits: Tensor, classifier: nn.Linear) -> Tensor:
        """Calibrate a classifier's outputs (R, num_logits)."""
        if self.statistics is not None and self.logn:
            logits = self.statistics.normalize(logits, self.class_columns)
        if not self.tau_norm:
            return logits
        return tau_normalized_logits(logits, classifier, self.class_columns, self.tau_norm, self.tau_norm_keep_scale)

    def scores(self, scores: Tensor) -> Tensor:
        """Calibrate scores (R, K + 1), or (R, K) without background."""
        if self.norcal_gamma:
            assert self.image_counts is not None  # NorCal has them
            scores = norcal(scores, self.image_counts, self.norcal_gamma, self._exclusive)
        if self.image_frequencies is not None:
            assert self.dimensions is not None  # FRACAL has both
            scores = fracal(scores, self.image_frequencies, self.dimensions, self.fracal_lambda, self._exclusive)
        return scores


def build_calibration(loss: ClassificationLoss, options: Mapping[str, Any]) -> Calibration:
    """A :class:`Calibration` of options by name.

    Raises:
        UserError: there is no option of a name, or a value is out of its range.
    """
    known = [name for name in inspect.signature(Calibration).parameters if name != "loss"]
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise UserError(f"The calibration has no option {unknown!r}; its options are: {', '.join(known)}.")
    return Calibration(loss, **options)
