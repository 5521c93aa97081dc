"""The installed Detectron2: its operators, the library calls that were edited, and its installer."""

import importlib.metadata
import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.data import transforms as T
from detectron2.layers import (
    DeformConv,
    ModulatedDeformConv,
    ROIAlignRotated,
    nms_rotated,
)
from detectron2.layers.deform_conv import deform_conv, modulated_deform_conv
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, RotatedBoxes, pairwise_iou_rotated
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import detectron2_edits
import install_detectron2

COMPILED = importlib.util.find_spec("detectron2._C") is not None
without_compiled = pytest.mark.skipif(COMPILED, reason="this Detectron2 has its compiled extension")
# The compiled official sources take modulated and grouped deformable convolution on the GPU only.
DEVICES = [
    pytest.param("cpu", marks=without_compiled),
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]
KERNEL = (3, 3)


def offsets_of(x, weight, stride, padding, dilation, deformable_groups=1):
    """All-zero offsets of the shape that deformable convolution expects."""
    size = F.conv2d(x[:, : weight.shape[1]], weight[:1], None, stride, padding, dilation).shape[-2:]
    return x.new_zeros(x.shape[0], 2 * deformable_groups * KERNEL[0] * KERNEL[1], *size)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("groups", "deformable_groups", "stride", "padding", "dilation"),
    [(1, 1, 1, 1, 1), (2, 1, 2, 1, 1), (1, 2, 1, 2, 2), (4, 2, 2, 0, 1)],
)
def test_zero_offsets_give_plain_convolution(device, groups, deformable_groups, stride, padding, dilation):
    torch.manual_seed(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    plain = DeformConv(8, 12, KERNEL, deformable_groups=deformable_groups, **options).to(device)
    modulated = ModulatedDeformConv(8, 12, 3, deformable_groups=deformable_groups, **options).to(device)
    torch.nn.init.normal_(modulated.bias)
    x = torch.randn(2, 8, 9, 11, device=device)
    offset = offsets_of(x, plain.weight, stride, padding, dilation, deformable_groups)
    mask = torch.ones_like(offset[:, ::2])
    torch.testing.assert_close(plain(x, offset), F.conv2d(x, plain.weight, None, **options), atol=1e-4, rtol=1e-4)
    expected = F.conv2d(x, modulated.weight, modulated.bias, **options)
    torch.testing.assert_close(modulated(x, offset, mask), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_integer_offsets_shift_each_deformable_group_by_itself(device):
    """The first coordinate of an offset is y; group 0 looks one row down, group 1 two columns right."""
    x = torch.randn(1, 4, 8, 9, device=device)
    weight = torch.randn(5, 4, *KERNEL, device=device)
    offset = offsets_of(x, weight, 1, 1, 1, 2)
    offset[:, 0:18:2] = 1  # dy of group 0
    offset[:, 19:36:2] = 2  # dx of group 1
    moved = torch.zeros_like(x)
    moved[:, :2, :-1] = x[:, :2, 1:]
    moved[:, 2:, :, :-2] = x[:, 2:, :, 2:]
    got = deform_conv(x, offset, weight, 1, 1, 1, 1, 2)
    inside = (..., slice(1, -2), slice(1, -3))  # away from the border, where the zero padding moves along
    torch.testing.assert_close(got[inside], F.conv2d(moved, weight, padding=1)[inside], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_mask_scales_each_kernel_position(device):
    x = torch.randn(2, 3, 6, 7, device=device)
    weight = torch.randn(4, 3, *KERNEL, device=device)
    offset = offsets_of(x, weight, 1, 1, 1)
    scale = torch.rand(9, device=device)
    mask = scale.view(1, 9, 1, 1).expand(2, 9, 6, 7).contiguous()
    got = modulated_deform_conv(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    expected = F.conv2d(x, weight * scale.view(1, 1, *KERNEL), padding=1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_deformable_convolution_gradients(device):
    torch.manual_seed(1)

    def leaf(*shape):
        return torch.rand(*shape, dtype=torch.float64, device=device).add(0.1).requires_grad_()

    x, weight, bias = leaf(1, 2, 4, 4), leaf(2, 1, *KERNEL), leaf(2)
    offset, mask = leaf(1, 36, 4, 4), leaf(1, 18, 4, 4)
    assert torch.autograd.gradcheck(lambda *a: deform_conv(*a, 1, 1, 1, 2, 2), (x, offset, weight), nondet_tol=1e-9)
    inputs = (x, offset, mask, weight, bias)
    assert torch.autograd.gradcheck(lambda *a: modulated_deform_conv(*a, 1, 1, 1, 2, 2), inputs, nondet_tol=1e-9)


def test_deformable_convolution_refuses_what_upstream_refuses():
    conv = DeformConv(1, 1, 3)
    with pytest.raises(ValueError, match="4D tensor"):
        conv(torch.ones(1, 5, 5), torch.zeros(1, 18, 3, 3))
    with pytest.raises(ValueError, match="too small"):
        conv(torch.ones(1, 1, 2, 2), torch.zeros(1, 18, 1, 1))
    assert conv(torch.ones(0, 1, 5, 5), torch.zeros(0, 18, 3, 3)).shape == (0, 1, 3, 3)


BOXES = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]])


@without_compiled
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("box_iou_rotated", lambda: pairwise_iou_rotated(RotatedBoxes(BOXES), RotatedBoxes(BOXES))),
        ("nms_rotated", lambda: nms_rotated(BOXES, torch.ones(1), 0.5)),
        (
            "roi_align_rotated_forward",
            lambda: ROIAlignRotated((2, 2), 1.0, 0)(
                torch.ones(1, 1, 9, 9), torch.cat([torch.zeros(1, 1), BOXES], dim=1)
            ),
        ),
    ],
)
def test_compiled_operators_name_the_way_out(name, call):
    with pytest.raises(NotImplementedError, match=rf"^{name} needs .* make setup DETECTRON2_SOURCE="):
        call()


@without_compiled
def test_coco_evaluator_falls_back_to_pycocotools(tmp_path, caplog):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOEvaluator

    box = {"bbox": [2.0, 2.0, 10.0, 8.0], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    record = {"file_name": "a.png", "image_id": 1, "height": 20, "width": 20, "annotations": [box]}
    name = "one_box_for_test"
    DatasetCatalog.register(name, lambda: [record])
    try:
        MetadataCatalog.get(name).set(thing_classes=["thing"])
        with caplog.at_level(logging.WARNING):
            evaluator = COCOEvaluator(name, ("bbox",), False, output_dir=str(tmp_path))
        assert "use_fast_impl=False" in caplog.text
        found = Instances((20, 20), pred_boxes=Boxes([[2.0, 2.0, 12.0, 10.0]]))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        evaluator.reset()
        evaluator.process([record], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100.0)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_exactly_one_opencv_is_installed():
    names = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
    assert {n for n in names if n.startswith("opencv")} == {"opencv-python-headless"}


def test_extent_transform_interpolates_linearly():
    """A horizontal ramp magnified four times stays a ramp: nearest would make steps."""
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))
    row = T.ExtentTransform((4, 4, 12, 12), (32, 32)).apply_image(ramp)[8].astype(int)
    assert set(np.diff(row)) <= {2, 3}


def test_resize_and_rotation():
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    expected = np.asarray(Image.fromarray(image).resize((4, 3), Image.BILINEAR))
    np.testing.assert_array_equal(T.ResizeTransform(6, 8, 3, 4).apply_image(image), expected)
    turned = T.RotationTransform(6, 6, 90).apply_image(image[:, :6].copy())
    assert np.abs(turned.astype(int) - np.rot90(image[:, :6]).astype(int)).max() <= 1


def test_polygons_become_masks():
    square = [np.array([2.0, 2.0, 8.0, 2.0, 8.0, 6.0, 2.0, 6.0])]
    masks = BitMasks.from_polygon_masks(PolygonMasks([square]), 10, 12)
    expected = torch.zeros(10, 12, dtype=torch.bool)
    expected[2:6, 2:8] = True
    assert torch.equal(masks.tensor[0], expected)
    assert PolygonMasks([square, []]).nonempty().tolist() == [True, False]


def test_masks_are_pasted_into_images():
    """The paste that keeps the aligned-corner behaviour goes through Pillow and NumPy's copy rules."""
    from detectron2.layers.mask_ops import paste_mask_in_image_old

    pasted = paste_mask_in_image_old(torch.ones(4, 4), torch.tensor([2.0, 3.0, 5.0, 6.0]), 10, 10, 0.5)
    assert pasted[4, 3] == 1 and pasted[0, 0] == 0


def test_visualizer_draws():
    from detectron2.utils.visualizer import Visualizer

    found = Instances((120, 160), pred_boxes=Boxes([[5.0, 5.0, 60.0, 50.0]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    found.pred_masks = torch.zeros(1, 120, 160, dtype=torch.bool)
    found.pred_masks[0, 5:50, 5:60] = True
    drawn = Visualizer(np.zeros((120, 160, 3), np.uint8)).draw_instance_predictions(found).get_image()
    assert drawn.shape == (120, 160, 3)
    assert drawn[40:48, 30:58].max(axis=-1).min() > 0 and not drawn[80:, 100:].any()


def test_model_zoo_has_its_configs():
    config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    assert config.MODEL.MASK_ON and config.MODEL.RESNETS.DEPTH == 50
    with pytest.raises(RuntimeError, match="not available"):
        model_zoo.get_config_file("no/such.yaml")


# --- the installer


def test_wrong_checksum_is_refused_and_nothing_installed(tmp_path, monkeypatch, capsys):
    (tmp_path / install_detectron2.SDIST_NAME).write_bytes(b"not the source distribution")
    installed = []
    monkeypatch.setattr(install_detectron2, "CACHE", tmp_path)
    monkeypatch.setattr(install_detectron2, "install", lambda *a: installed.append(a))
    monkeypatch.setattr(install_detectron2, "find_uv", lambda: "uv")
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--source", ""])
    with pytest.raises(SystemExit) as stop:
        install_detectron2.main()
    message = capsys.readouterr().err
    assert stop.value.code == 1
    assert install_detectron2.SDIST_NAME in message and install_detectron2.SHA256 in message
    assert "Traceback" not in message
    assert not installed and not list(tmp_path.glob("wheel*"))


EDIT = detectron2_edits.Edit("package/module.py", 1, "np.float", "float", "why")


@pytest.mark.parametrize("text", ["x = 1.0\n", "np.float, np.float\n", None], ids=["gone", "twice", "no file"])
def test_edits_fail_loudly_where_upstream_differs(tmp_path, text):
    (tmp_path / "package").mkdir()
    path = tmp_path / EDIT.file
    if text is not None:
        path.write_text(text)
    with pytest.raises(detectron2_edits.EditError, match=r"^package/module\.py: .*why"):
        detectron2_edits.apply_edits(tmp_path, [EDIT], {})
    assert text is None or path.read_text() == text


@without_compiled
def test_installed_package_holds_every_edit():
    import detectron2

    site = Path(detectron2.__file__).parent.parent
    moved = {
        f"projects/{folder}": f"detectron2/projects/{name}" for name, folder in install_detectron2.PROJECTS.items()
    }
    for edit in detectron2_edits.EDITS:
        name = edit.file
        for old, new in moved.items():
            name = name.replace(old, new)
        assert edit.new in (site / name).read_text(), name


@without_compiled
def test_what_upstreams_export_tool_imports_is_there():
    """And says at use what torch no longer brings."""
    from detectron2.config import get_cfg
    from detectron2.export import Caffe2Tracer, TracingAdapter, add_export_config, scripting_with_instances

    assert add_export_config(get_cfg()).EXPORT_CAFFE2.USE_HEATMAP_MAX_KEYPOINT is False
    assert callable(scripting_with_instances) and isinstance(TracingAdapter, type)
    with pytest.raises(NotImplementedError, match="--export-method tracing"):
        Caffe2Tracer(get_cfg(), torch.nn.Identity(), [])


def test_source_folder_without_detectron2_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(install_detectron2, "CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(install_detectron2.UserError, match="holds no Detectron2"):
        install_detectron2.fetch_source(str(tmp_path / "empty"))
    with pytest.raises(install_detectron2.UserError, match="no such folder"):
        install_detectron2.fetch_source(str(tmp_path / "missing"))


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(install_detectron2.UserError, match=r"no-such-compiler.* is not on PATH"):
        install_detectron2.install_source("uv", "anywhere")


def test_a_sample_that_cannot_be_loaded_is_replaced_by_another():
    """Detectron2's loaders do so with a mapper that returns None; Python 3.11 stopped sampling from sets."""
    from detectron2.data import MapDataset

    dataset = MapDataset([1, 2, 3], lambda value: None if value == 3 else value)
    assert [dataset[0], dataset[1]] == [1, 2]
    assert dataset[2] in (1, 2)


def test_a_cascade_s_gradient_is_scaled_in_training_only():
    """Outside of training there is none, and a function of gradients could not be traced."""
    from types import SimpleNamespace

    from detectron2.modeling.roi_heads import CascadeROIHeads

    features = torch.ones(2, 3, requires_grad=True)
    for training, gradient in ((True, 1 / 3), (False, 1.0)):
        heads = SimpleNamespace(
            training=training,
            num_cascade_stages=3,
            box_pooler=lambda levels, boxes: features,
            box_head=[lambda x: x],
            box_predictor=[lambda x: x],
        )
        features.grad = None
        CascadeROIHeads._run_stage(heads, [], [], 0).sum().backward()
        assert torch.equal(features.grad, torch.full((2, 3), gradient))


def test_the_stock_lvis_evaluator_works_on_todays_numpy(tmp_path):
    pytest.importorskip("lvis")
    import json

    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import LVISEvaluator

    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2.0, 2.0, 10.0, 8.0], "area": 80.0}
    box["segmentation"] = [[2.0, 2.0, 12.0, 2.0, 12.0, 10.0, 2.0, 10.0]]
    image = {"id": 1, "width": 20, "height": 20, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    category = {"id": 1, "name": "thing", "frequency": "f", "image_count": 200}
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({"images": [image], "annotations": [box], "categories": [category]}))
    name = "one_lvis_box_for_test"
    MetadataCatalog.get(name).set(json_file=str(path), thing_classes=["thing"], evaluator_type="lvis")
    try:
        evaluator = LVISEvaluator(name, tasks=("bbox",), distributed=False, output_dir=str(tmp_path))
        evaluator.reset()
        found = Instances((20, 20))
        found.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 12.0, 10.0]]))
        found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        evaluator.process([{"image_id": 1}], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        MetadataCatalog.remove(name)
