"""Every method's predictor learns, and keys and counts arrive at its loss."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from eql_d2.data.category_counts import dataset_counts
from eql_d2.errors import UserError
from eql_d2.losses import METHODS, ClassBalancedLoss, InverseFrequencyLoss
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY, build_box_predictor
from tests.modeling.test_box_predictor import FEATURES, make_proposals

NAMES = [method.predictor for method in METHODS.values() if method.predictor]


def build(cfg, name):
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = name
    return build_box_predictor(cfg, FEATURES)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_learn_the_classes(tiny_cfg, name):
    predictor = build(tiny_cfg, name)
    proposals = make_proposals(6, sizes=(12, 8))
    gt_classes = torch.cat([p.gt_classes for p in proposals])
    # Features that tell the classes apart.
    features = 3 * torch.eye(8)[gt_classes] + 0.1 * torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(predictor.cls_score.parameters(), lr=2.0)
    predictor.loss.eval()  # the same classes in use, and nothing dropped, before and after
    with EventStorage():
        before = predictor.losses(predictor(features), proposals)["loss_cls"].item()
        predictor.loss.train()
        for _ in range(30):
            optimizer.zero_grad()
            predictor.losses(predictor(features), proposals)["loss_cls"].backward()
            optimizer.step()
        predictor.loss.eval()
        after = predictor.losses(predictor(features), proposals)["loss_cls"].item()
    assert after < 0.5 * before
    scores = torch.cat(predictor.predict_probs(predictor(features), proposals))
    foreground = gt_classes < 6
    assert (scores[:, :6].argmax(dim=1) == gt_classes)[foreground].all()


def test_counts_of_the_training_data_arrive(tiny_cfg):
    counts = dataset_counts(("tiny_train",))
    weights = build(tiny_cfg, "ClassBalancedPredictor").loss.class_weights
    assert torch.equal(weights, ClassBalancedLoss(6, counts.instance_counts).class_weights)
    assert len(set(weights[:6].tolist())) > 1
    weights = build(tiny_cfg, "FederatedPredictor").loss.sampling_weights
    relative = torch.tensor(counts.image_counts) / max(counts.image_counts)
    torch.testing.assert_close(weights, relative.sqrt())
    is_tail = build(tiny_cfg, "DropLossPredictor").loss.is_tail
    assert torch.equal(is_tail, counts.image_frequencies < tiny_cfg.MODEL.LONG_TAIL.DROP_LOSS.LAMBDA)


def test_every_key_arrives(tiny_cfg):
    node = tiny_cfg.MODEL.LONG_TAIL
    node.FOCAL.GAMMA, node.FOCAL.ALPHA = 1.5, 0.4
    focal = build(tiny_cfg, "FocalPredictor").loss
    assert (focal.gamma, focal.alpha) == (1.5, 0.4)
    node.CLASS_BALANCED.BETA, node.CLASS_BALANCED.WEIGHT_RANGE = 0.9, (0.5, 2.0)
    balanced = build(tiny_cfg, "ClassBalancedPredictor").loss
    assert (balanced.beta, balanced.weight_range) == (0.9, (0.5, 2.0))
    node.INVERSE_FREQUENCY.POWER, node.INVERSE_FREQUENCY.WEIGHT_RANGE = 0.5, (0.0, 9.0)
    inverse = build(tiny_cfg, "InverseFrequencyPredictor").loss
    expected = InverseFrequencyLoss(6, dataset_counts(("tiny_train",)).instance_counts, 0.5, (0.0, 9.0))
    assert torch.equal(inverse.class_weights, expected.class_weights)
    node.FEDERATED.FED_LOSS_NUM_CLASSES, node.FEDERATED.FED_LOSS_FREQ_WEIGHT_POWER = 3, 1.0
    federated = build(tiny_cfg, "FederatedPredictor").loss
    assert (federated.fed_loss_num_classes, federated.fed_loss_freq_weight_power) == (3, 1.0)
    node.DROP_LOSS.LAMBDA = 0.2
    assert build(tiny_cfg, "DropLossPredictor").loss.lambda_ == 0.2


def test_a_value_out_of_range_is_named(tiny_cfg):
    tiny_cfg.MODEL.LONG_TAIL.CLASS_BALANCED.BETA = 1.0
    with pytest.raises(UserError, match=r"MODEL.LONG_TAIL.CLASS_BALANCED: beta is 1.0; it must be at least 0"):
        build(tiny_cfg, "ClassBalancedPredictor")


def test_predictors_are_found_in_the_package_by_their_names():
    import eql_d2.modeling

    for method in METHODS.values():
        if method.predictor:
            assert getattr(eql_d2.modeling, method.predictor) is BOX_PREDICTOR_REGISTRY.get(method.predictor)
    with pytest.raises(AttributeError, match=r"^module 'eql_d2\.modeling' has no attribute 'NoPredictor'$"):
        eql_d2.modeling.NoPredictor  # noqa: B018
