"""Calibration of a trained classifier at test time: τ-normalisation and NorCal. Both go with every loss."""

import torch
from torch import Tensor, nn

from eql_d2.long_tail import CategoryCounts
from eql_d2.losses import ClassificationLoss
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


class Calibration(nn.Module):
    """What the config asks for under ``TEST.TAU_NORM``, ``TEST.TAU_NORM_KEEP_SCALE`` and ``TEST.NORCAL_GAMMA``.

    Args:
        loss: turns logits into scores.
        tau_norm: τ of τ-normalisation.
        norcal_gamma: γ of NorCal.
        image_counts: (K,) numbers of training images, or category counts; needed for NorCal only.
        tau_norm_keep_scale: see :func:`tau_normalized_logits`.
    """

    class_columns: Tensor
    image_counts: Tensor | None

    def __init__(
        self,
        loss: ClassificationLoss,
        tau_norm: float = 0.0,
        norcal_gamma: float = 0.0,
        image_counts: Tensor | CategoryCounts | None = None,
        tau_norm_keep_scale: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(image_counts, CategoryCounts):
            image_counts = torch.tensor(image_counts.image_counts)
        self.tau_norm = tau_norm
        self.tau_norm_keep_scale = tau_norm_keep_scale
        self.norcal_gamma = norcal_gamma
        self._exclusive = loss.exclusive
        self.register_buffer("class_columns", loss.class_columns, persistent=False)
        self.register_buffer("image_counts", image_counts, persistent=False)

    def logits(self, logits: Tensor, classifier: nn.Linear) -> Tensor:
        """Calibrate a classifier's outputs (R, num_logits)."""
        if not self.tau_norm:
            return logits
        return tau_normalized_logits(logits, classifier, self.class_columns, self.tau_norm, self.tau_norm_keep_scale)

    def scores(self, scores: Tensor) -> Tensor:
        """Calibrate scores (R, K + 1), or (R, K) without background."""
        if not self.norcal_gamma:
            return scores
        assert self.image_counts is not None  # NorCal has them
        return norcal(scores, self.image_counts, self.norcal_gamma, self._exclusive)
