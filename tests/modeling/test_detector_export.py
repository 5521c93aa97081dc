"""Exported detectors say of every image what the model says, whatever image they were traced on."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.errors import UserError
from eql_d2.long_tail import LVIS_COUNT_FILES
from eql_d2.modeling import detector_export as exporting
from eql_d2.modeling import inference
from eql_d2.modeling.detector_export import TensorDetector, check_exportable, export, in_order_of, run_exported, trace
from eql_d2.safetensors_file import load_weights
from tests.conftest import ROOT
from tools import export_model

PREDICTORS = ("SoftmaxPredictor", "EQLPredictor", "EQLv2Predictor", "SeesawPredictor", "BAGSPredictor")
torchscript = pytest.mark.skipif(sys.version_info >= (3, 14), reason="PyTorch has no TorchScript here")


@pytest.fixture
def few_candidates(monkeypatch):
    """Rounds of the selection that take in few candidates, so that many images need another round."""
    monkeypatch.setattr(inference, "FIRST_CANDIDATES", 12)


def detector(predictor="SoftmaxPredictor", *overrides, cascade=False, counts=None):
    """A tiny detector whose classifier says something, in evaluation mode."""
    more = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
    overrides = [*overrides, *(more if cascade else [])]
    options = ["MODEL.ROI_BOX_HEAD.PREDICTOR", predictor, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.02", *overrides]
    cfg = load_config(str(ROOT / "tests" / "tiny.yaml"), [str(option) for option in options])
    cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = str(counts or "")
    cfg.DATASETS.TRAIN = ()
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("cls_score.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return TensorDetector(model).eval()


@pytest.fixture
def counts(tmp_path):
    """A file of the counts of six classes."""
    numbers = (3, 9, 40, 90, 200, 280)
    categories = [
        {"id": i + 1, "name": f"class {i}", "image_count": n, "instance_count": 2 * n} for i, n in enumerate(numbers)
    ]
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"num_images": 300, "categories": categories}))
    return path


def images(number, seed=0):
    """Images of many sizes: noise, blotches, and, with nothing to see, one colour."""
    generator = torch.Generator().manual_seed(seed)
    for place in range(number):
        height, width = torch.randint(32, 140, (2,), generator=generator).tolist()
        image = torch.rand(3, height, width, generator=generator) * 255
        yield (image, export_model.noise(height, width, place), image.mean().expand(3, height, width).clone())[
            place % 3
        ]


def assert_bit_equal(model, traced, number=12):
    """On unseen images; some have many detections, some few."""
    found = []
    with torch.no_grad():
        for image in images(number):
            expected, got = model(image), traced(image)
            assert len(expected) == len(got) == 4
            assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
            found.append(len(expected[0]))
    assert len(set(found)) > number // 4


@torchscript
@pytest.mark.parametrize("cascade", [False, True])
def test_a_traced_detector_is_bit_equal_on_other_images(cascade, few_candidates):
    model = detector(cascade=cascade)
    assert_bit_equal(model, trace(model, next(images(1, seed=1))))


@torchscript
def test_nothing_to_see_in_the_traced_image(few_candidates):
    model = detector("SoftmaxPredictor", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.2")
    blank = torch.zeros(3, 64, 64)
    assert_bit_equal(model, trace(model, blank), 9)


@torchscript
@pytest.mark.slow
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_every_predictor_with_calibration(predictor, cascade, counts, few_candidates):
    model = detector(predictor, "TEST.TAU_NORM", 0.5, "TEST.NORCAL_GAMMA", 0.3, cascade=cascade, counts=counts)
    assert_bit_equal(model, trace(model, next(images(1, seed=1))), 40)


@torchscript
@pytest.mark.slow
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_every_predictor_with_the_classes_of_lvis(predictor, cascade):
    """And with calibration; of 1203 classes many are near the threshold."""
    options = ("MODEL.ROI_HEADS.NUM_CLASSES", 1203, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.001)
    options += ("MODEL.LONG_TAIL.EQL.LAMBDA", 0.00101, "MODEL.LONG_TAIL.BAGS.BIN_EDGES", "(10, 100, 1000)")
    options += ("TEST.TAU_NORM", 0.5, "TEST.NORCAL_GAMMA", 0.3, "TEST.DETECTIONS_PER_IMAGE", 2000)
    model = detector(predictor, *options, cascade=cascade, counts=LVIS_COUNT_FILES["lvis_v1"])
    with torch.no_grad():
        traced = trace(model, next(images(1, seed=1)))
        for image in images(8):
            expected = model(image)
            assert len(expected[0]) > 50
            assert all(torch.equal(one, other) for one, other in zip(expected, traced(image), strict=True))


@torchscript
@pytest.mark.slow
@pytest.mark.parametrize("topk", [-1, 2, 300])
def test_200_images_with_few_and_many_detections(topk, few_candidates):
    model = detector("SoftmaxPredictor", "TEST.DETECTIONS_PER_IMAGE", topk)
    with torch.no_grad():
        traced = trace(model, next(images(1, seed=1)))
        for image in images(200, seed=2):
            assert all(torch.equal(one, other) for one, other in zip(model(image), traced(image), strict=True))


@torchscript
def test_a_thousand_classes_need_another_round():
    """Straight on the selection: candidates of 1203 classes, more than the first round takes in."""
    generator = torch.Generator().manual_seed(0)
    traced = None
    for rows in (30, 7, 50, 0):
        corners = torch.rand(rows, 1203, 2, 2, generator=generator).cumsum(2) * 60
        boxes = corners.reshape(rows, 1203 * 4).clone()
        scores = torch.rand(rows, 1204, generator=generator) * 0.1
        boxes[rows - rows // 2 :] = boxes[: rows // 2].clone()  # equal boxes, which suppress each other
        size = torch.tensor([100, 120])
        arguments = (boxes, scores, size)

        def select(boxes, scores, size):
            return inference.select_of_proposals(boxes, scores, size, 0.01, 0.5, 300, 400)

        if traced is None:
            traced = torch.jit.trace(select, arguments, check_trace=False)
        assert all(torch.equal(one, other) for one, other in zip(select(*arguments), traced(*arguments), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("predictor", "cascade"), [(name, name == "SeesawPredictor") for name in PREDICTORS])
def test_onnx_says_the_same(predictor, cascade, counts, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = detector(predictor, "TEST.NORCAL_GAMMA", 0.3, cascade=cascade, counts=counts)
    export(model.model, tmp_path / "model.onnx", "onnx", next(images(1, seed=1)))
    for image in images(20):
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in model(image)]
        got = run_exported(tmp_path / "model.onnx", "onnx", image)
        assert [array.shape for array in got] == [array.shape for array in expected]
        got = in_order_of(expected, got)
        for one, other, tolerance in zip(got, expected, (1e-3, 1e-5, 0, 1e-4), strict=True):
            np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)


def test_rows_that_rounding_swapped_are_put_back():
    """By the nearest box of the class."""
    boxes = np.array([[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]])
    expected = [boxes, np.array([0.9, 0.8, 0.7]), np.array([1, 2, 1])]
    order = [2, 1, 0]
    found = [(boxes + 0.4)[order], expected[1][order], expected[2][order]]
    for one, other in zip(in_order_of(expected, found), [boxes + 0.4, *expected[1:]], strict=True):
        np.testing.assert_array_equal(one, other)
    # The first box lies nearer to another class's than to its own's.
    found = [boxes[[1, 0, 2]], expected[1], np.array([1, 2, 1])]
    assert [rows.tolist() for rows in in_order_of(expected, found)] == [rows.tolist() for rows in found]
    # Two rows for one place: nothing is known, nothing is changed.
    found = [boxes[[0, 0, 2]], expected[1], np.array([1, 1, 2])]
    assert [rows.tolist() for rows in in_order_of(expected, found)] == [rows.tolist() for rows in found]
    nothing = [np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)]
    assert [len(rows) for rows in in_order_of(nothing, nothing)] == [0, 0, 0]


# --- the tool -----------------------------------------------------------------------------------------------


@torchscript
def test_the_tool_writes_a_file_that_runs_without_this_project(tiny_checkpoint, tiny_set, tmp_path, capsys):
    path = tmp_path / "eql.pt"
    export_model.main(["--weights", str(tiny_checkpoint), "--output", str(path), "--threshold", "0"])
    assert "differ by 0 from the model's" in capsys.readouterr().out
    about = json.loads((tmp_path / "eql.pt.json").read_text())
    assert (about["channels"], about["shortest_side"], len(about["categories"])) == ("BGR", 64, 6)
    program = ROOT / "docs" / "examples" / "run_exported.py"
    picture = next(path for path in tiny_set.rglob("*") if path.suffix in (".png", ".jpg"))
    blocked = "import runpy, sys; sys.modules['eql_d2'] = sys.modules['detectron2'] = None; "
    blocked += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", blocked, str(program), str(path), str(picture)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {category["name"] for category in about["categories"]}
    assert {line.split()[0] for line in done.stdout.splitlines()} <= names
    with pytest.raises(UserError, match=r"eql\.pt exists already; name another file"):
        export_model.main(["--weights", str(tiny_checkpoint), "--output", str(path)])


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors"])
def test_weights_of_broken_files(name, tmp_path):
    """Nothing, no pickle, half an archive: one sentence, and no file."""
    whole = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(1000)}}, whole)
    output = str(tmp_path / "o" / "o.safetensors")
    arguments = ["--weights", str(tmp_path / name), "--format", "safetensors", "--output", output]
    for content in (b"", b"garbage", b"PK\x03\x04zzzz", whole.getvalue()[:-300]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} (are truncated or no checkpoint|cannot be read)"):
            export_model.main(arguments)
    assert not (tmp_path / "o").exists()


def test_weights_alone_in_a_new_folder(tmp_path):
    torch.save({"model": {"a": torch.ones(3), "b": torch.ones(2, 2)}}, tmp_path / "w.pth")
    output = tmp_path / "o" / "o.safetensors"
    arguments = ["--weights", str(tmp_path / "w.pth"), "--format", "safetensors", "--half", "--output", str(output)]
    export_model.main(arguments)
    written = load_weights(output)
    assert [(name, value.dtype) for name, value in written.items()] == [("a", torch.float32), ("b", torch.float16)]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize(
    ("form", "sentence"),
    [("torch.export", "takes? branches by the data"), ("script", "lists of Instances"), ("tflite", "must be one of")],
)
def test_forms_that_are_refused(form, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        export(detector().model, tmp_path / "model", form, torch.zeros(3, 64, 64))
    assert not list(tmp_path.iterdir())


def test_models_that_are_refused():
    with pytest.raises(UserError, match="Linear cannot be exported, only Faster, Mask and Cascade R-CNN"):
        check_exportable(torch.nn.Linear(1, 1), "onnx")
    model = detector().model
    model.roi_heads = torch.nn.Identity()
    with pytest.raises(UserError, match="Identity cannot be exported; its detections are not known"):
        check_exportable(model, "onnx")


def test_a_failed_export_leaves_no_file(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(exporting, "_write_onnx", fail)
    with pytest.raises(RuntimeError):
        export(detector().model, tmp_path / "model.onnx", "onnx", torch.zeros(3, 64, 64))
    assert not list(tmp_path.iterdir())
