"""Numbers that the first codes of the methods since 2021 gave for the inputs below, in float64.

ECM: janghyuncho/ECM-Loss at a6372408. Gumbel: kostas1515/GOL at 70026b73. FCBL: Tianhao-Qi/BACL at 65536623.
ACSL: CASIA-IVA-Lab/ACSL at dd84144a. EBL: fcjian/LOCE at 0a0194d1. EFL and EQFL: ModelTC/United-Perception, with one
level and one anchor a position. Their state was float64 as well. Balanced sigmoid and GRW: the lines of
cunjunyu/BalancedMetaSoftmax-InstanceSeg at 64fd32e5 and of Megvii-BaseDetection/DisAlign.
"""

import math

import pytest
import torch

from eql_d2.losses import (
    AdaptiveClassSuppressionLoss,
    BalancedSigmoidLoss,
    EffectiveClassMarginLoss,
    EqualizationLoss,
    EqualizedFocalLoss,
    EqualizedQualityFocalLoss,
    EquilibriumLoss,
    ForegroundBalanceLoss,
    GroupReweightedCrossEntropy,
    GumbelCrossEntropy,
)

K = 6
GT_CLASSES = torch.tensor([0, 5, 3, 1, 6, 4, 2, 0, 5])
INSTANCES = [3, 5000, 10, 99, 100, 1000]
FREQUENCIES = [0.3, 0.0002, 0.001, 0.05, 0.00177, 0.0017]
GATED_SCORES = [
    *(1.5924107601438324, 3.0492864805425173, 1.3673949198195996, 3.2473878209026594),
    *(1.200979380041593, 3.374957862606929, 4.477189579010808),
]


def make_logits(width: int, step: int = 0, rows: int = len(GT_CLASSES), shift: float = 0.0) -> torch.Tensor:
    values = [[3 * math.sin(1 + 7 * i + 3 * j + 11 * step) + shift for j in range(width)] for i in range(rows)]
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def loss_and_gradient_norm(loss, logits, gt_classes=GT_CLASSES, **labels):
    value = loss(logits, gt_classes, **labels)["loss_cls"]
    value.backward()
    return value.item(), logits.grad.norm().item()


def scores_of_classes(loss):
    return loss.scores(make_logits(loss.num_logits).detach()).sum(dim=0).tolist()


def test_ecm():
    loss = EffectiveClassMarginLoss(K, INSTANCES)
    expected = (11.556462937541575, 1.0674004424680696)
    assert loss_and_gradient_norm(loss, make_logits(7)) == pytest.approx(expected, rel=1e-12)
    assert scores_of_classes(loss) == pytest.approx(GATED_SCORES, rel=1e-12)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, (13.37655657389753, 3.1960694485450483)), (1.0, (12.636748175167279, 1.3106868515329935))],
)
def test_gumbel(shift, expected):
    loss = GumbelCrossEntropy(K)
    assert loss_and_gradient_norm(loss, make_logits(7, shift=shift)) == pytest.approx(expected, rel=1e-9)
    scores = [3.9735186523910486, 3.7530466759914494, 3.9649395132194805, 3.7792732319407554]
    scores += [3.894462975605343, 3.8534104385342167, 3.828845387809028]
    assert scores_of_classes(loss) == pytest.approx(scores, rel=1e-12)


def test_gumbel_eql():
    loss = EqualizationLoss(K, FREQUENCIES, lambda_=0.00177, activation="gumbel")
    expected = (9.672904724968308, 3.1706180897633947)
    assert loss_and_gradient_norm(loss, make_logits(6)) == pytest.approx(expected, rel=1e-9)


def test_balanced_sigmoid():
    loss = BalancedSigmoidLoss(K, FREQUENCIES)
    expected = (6.7676887219078345, 0.363554419436631)
    assert loss_and_gradient_norm(loss, make_logits(6)) == pytest.approx(expected, rel=1e-12)


def test_grw():
    loss = GroupReweightedCrossEntropy(K, INSTANCES)
    expected = (3.1039274010816262, 0.5060781779538637)
    assert loss_and_gradient_norm(loss, make_logits(7)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("reweight", "expected"),
    [
        (
            True,
            [
                (8.00701131607387, 0.5435264148779483),
                (7.896102782524745, 0.532416260421724),
                (7.082606230687237, 0.4975017393703856),
                (6.8953951361716195, 0.5034147540364584),
            ],
        ),
        (
            False,
            [
                (8.867594693882953, 0.5711831431682721),
                (9.236028920834437, 0.5755625224802614),
                (7.548639654229466, 0.5112613819953088),
                (7.961108468013188, 0.5394398214304968),
            ],
        ),
    ],
)
def test_fcbl(reweight, expected):
    loss = ForegroundBalanceLoss(K, reweight=reweight).double()
    for step, values in enumerate(expected):
        assert loss_and_gradient_norm(loss, make_logits(7, step)) == pytest.approx(values, rel=1e-12)
    columns = [5.254944412613309, 5.6071194444798484, 5.0293893279970625]
    columns += [5.034288619652657, 5.707902814860712, 5.366355380396412]
    assert loss.confusion.sum(dim=0).tolist() == pytest.approx(columns, rel=1e-12)
    diagonal = [1.3117940390222382, 0.6124844634742048, 0.6294180372545972]
    diagonal += [0.631487398388833, 0.784560239401349, 1.3693040134292178]
    assert loss.confusion.diag().tolist() == pytest.approx(diagonal, rel=1e-12)
    assert loss.class_rows.tolist() == [8, 4, 4, 4, 4, 8]
    assert scores_of_classes(loss) == pytest.approx(GATED_SCORES, rel=1e-12)


def test_acsl(monkeypatch):
    """The rows that the first code drew for common classes are given; for rare ones it drew none."""
    loss = AdaptiveClassSuppressionLoss(K, [300, 2, 10, 50, 101, 11])
    gt_classes = torch.cat([GT_CLASSES, torch.full((12,), K)])
    of_common, of_rare = torch.arange(21) == 9, torch.zeros(21, dtype=torch.bool)
    assert [int(drawn.sum()) for drawn in loss.choose_background(gt_classes)] == [1, 0]
    monkeypatch.setattr(loss, "choose_background", lambda gt_classes: (of_common, of_rare))
    expected = (5.4672650003306735, 0.29321737587917135)
    assert loss_and_gradient_norm(loss, make_logits(7, rows=21), gt_classes) == pytest.approx(expected, rel=1e-12)


def test_efl():
    loss = EqualizedFocalLoss(K).double()
    expected = [
        (4.23380562954191, 0.46914120810220905),
        (9.958194468680535, 2.300455324583557),
        (7.737354129865865, 2.046441419759387),
        (9.060276354380544, 2.2954080248830557),
    ]
    for step, values in enumerate(expected):
        assert loss_and_gradient_norm(loss, make_logits(6, step), normalizer=8.0) == pytest.approx(values, rel=1e-11)
    ratios = [0.11437035661653175, 0.04644774724410036, 0.012011854682451443]
    ratios += [0.0189469532760383, 0.03472798620599154, 0.08684540950539342]
    assert loss.pos_neg_ratio.tolist() == pytest.approx(ratios, rel=1e-11)


def test_eqfl():
    loss = EqualizedQualityFocalLoss(K).double()
    quality = torch.tensor([0.9, 0.3, 0.55, 0.7, 0.0, 0.8, 1.0, 0.2, 0.65], dtype=torch.float64)
    expected = [
        (5.7297226914942305, 0.6384011035276691),
        (10.275971283610996, 1.8468915566526196),
        (8.712282139160882, 1.7239008187189153),
        (9.668020818803605, 1.833658849091676),
    ]
    for step, values in enumerate(expected):
        ours = loss_and_gradient_norm(loss, make_logits(6, step), normalizer=8.0, quality=quality)
        assert ours == pytest.approx(values, rel=1e-11)
    ratios = [0.125448438424367, 0.013302203497011738, 0.06672864589412505]
    ratios += [0.006554423866699309, 0.03559460881411174, 0.02576326503504678]
    assert loss.pos_neg_ratio.tolist() == pytest.approx(ratios, rel=1e-11)


@pytest.mark.parametrize(
    ("gt_instances", "expected", "mean"),
    [
        (
            [0, 1, 1, -1, 2, 3, 3, 4, -1],
            [
                (4.650645232293987, 0.35260802853404144),
                (3.4844388442555347, 0.352229320551102),
                (2.0895382082398135, 0.2967951354072504),
                (3.086532805562251, 0.3484741065192546),
            ],
            [0.05312221384184752, 0.01, 0.0837631283312105, 0.01, 0.04522658650405117, 0.06378637852112466, 0.01],
        ),
        (
            None,
            [
                (4.683861172728762, 0.3529047510493826),
                (3.436230275139036, 0.35172170995754376),
                (2.100650163662392, 0.28890753866838165),
                (3.114647469288355, 0.3489790049380827),
            ],
            [0.05312221384184752, 0.01, 0.1074820305298474, 0.01, 0.04522658650405117, 0.10001097885673427, 0.01],
        ),
    ],
)
def test_ebl(gt_instances, expected, mean):
    loss = EquilibriumLoss(K).double()
    loss.mean_score.fill_(0.01)  # 0.01 as float64
    gt_classes = torch.tensor([0, 5, 5, 6, 4, 2, 2, 2, 6])
    labels = {} if gt_instances is None else {"gt_instances": torch.tensor(gt_instances)}
    for step, values in enumerate(expected):
        ours = loss_and_gradient_norm(loss, make_logits(7, step), gt_classes, **labels)
        assert ours == pytest.approx(values, rel=1e-11)
    assert loss.mean_score.tolist() == pytest.approx(mean, rel=1e-11)
