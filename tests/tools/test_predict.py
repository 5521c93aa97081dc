"""tools/predict.py on images, folders and videos: what it writes is what the model says, and mistakes are named."""

import importlib.util
import subprocess
import sys

import cv2
import numpy as np
import orjson
import pytest
from PIL import Image
from pycocotools import mask as rle

from eql_d2.errors import UserError
from eql_d2.prediction.inputs import find_inputs, read_rgb
from eql_d2.prediction.predictor import Predictor
from tests.conftest import ROOT

DEVICE = ["MODEL.DEVICE", "cpu"]


@pytest.fixture
def predict(monkeypatch, tiny_checkpoint, tmp_path):
    """Run the tool's main in this process; returns its exit status."""
    spec = importlib.util.spec_from_file_location("predict", ROOT / "tools" / "predict.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*arguments, weights=tiny_checkpoint, threshold=0.0):
        options = ["--weights", weights, "--threshold", threshold, "--max-detections", 4]
        command = ["predict.py", *arguments, "--output", tmp_path / "out", *options, *DEVICE]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        return tool.main()

    return run


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def photos(tiny_set, tmp_path):
    """A folder of three pictures."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for source, name in zip(sorted((tiny_set / "val").glob("*.jpg")), ("a.jpg", "a.png", "sub/a.jpg"), strict=False):
        Image.open(source).save(folder / name)
    return folder


def read(path):
    return orjson.loads(path.read_bytes())


def check_results(results, instances, categories, image_id):
    """Results of one image are the model's instances, mask by mask."""
    mine = [result for result in results if result["image_id"] == image_id]
    assert len(mine) == len(instances) > 0
    for index, result in enumerate(mine):
        left, top, right, bottom = instances.pred_boxes.tensor[index].tolist()
        assert result["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-4)
        assert result["score"] == pytest.approx(instances.scores[index].item())
        assert result["category_id"] == categories[instances.pred_classes[index]]["id"]
        assert np.array_equal(rle.decode(result["segmentation"]).astype(bool), instances.pred_masks[index].numpy())


def test_a_folder_with_a_broken_image(predict, photos, output, tiny_checkpoint, tiny_set, capsys):
    (photos / "b.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "note.jpg").write_text("no picture")
    (photos / "ignored.txt").write_text("no picture either")
    (photos / ".hidden.jpg").write_text("nor this")
    assert predict(photos) == 3
    printed = capsys.readouterr()
    assert f"warning: Image {photos / 'b.jpg'} cannot be read" in printed.err
    assert f"warning: Image {photos / 'note.jpg'} cannot be read (it is no picture)." in printed.err
    assert "warning: 2 of 5 inputs were skipped." in printed.err
    assert "12 detections in 3 pictures" in printed.out

    results, images = read(output / "results.json"), read(output / "images.json")
    categories = read(tiny_set / "train.json")["categories"]
    expected = {(c["id"], c["name"], c["frequency"]) for c in categories}
    assert {(c["id"], c["name"], c["frequency"]) for c in images["categories"]} == expected
    assert [image["id"] for image in images["images"]] == [1, 2, 3]
    predictor = Predictor(tiny_checkpoint, overrides=DEVICE, score_threshold=0.0, max_detections=4)
    for image in images["images"]:
        pixels = read_rgb(image["file_name"])
        assert pixels.shape[:2] == (image["height"], image["width"])
        check_results(results, predictor(pixels), images["categories"], image["id"])
        assert max(Image.open(output / image["picture"]).size) == 960
    assert {image["picture"] for image in images["images"]} == {
        "pictures/a.jpg", "pictures/a_2.jpg", "pictures/sub/a.jpg",
    }  # fmt: skip
    sheet = Image.open(output / "contact_sheet.jpg")
    assert sheet.width >= 3 * 400


def test_an_output_folder_within_the_input_is_not_an_input(photos):
    (photos / "out" / "pictures").mkdir(parents=True)
    (photos / "out" / "pictures" / "a.jpg").write_bytes(b"")
    found = find_inputs([photos, photos / "a.jpg", photos / "sub"], photos / "out")
    assert [item.path.relative_to(photos).as_posix() for item in found] == ["a.jpg", "a.png", "sub/a.jpg"]


def test_one_image_has_no_sheet(predict, photos, output):
    assert predict(photos / "a.jpg") == 0
    assert sorted(path.name for path in output.iterdir()) == ["images.json", "pictures", "results.json"]


def test_nothing_above_the_threshold(predict, photos, output, capsys):
    assert predict(photos / "a.jpg", threshold=0.99) == 0
    results = read(output / "results.json")
    best = max(result["score"] for result in results)  # all of them, whatever is drawn
    printed = capsys.readouterr().out
    assert f"{len(results)} detections in 1 picture, 0 of them drawn" in printed
    assert f"Nothing scored above 0.99, and the best score is {best:.3f}; lower --threshold" in printed
    assert (output / "pictures" / "a.jpg").exists()


def test_image_ids_of_a_dataset(predict, tiny_set, output, photos):
    content = read(tiny_set / "val.json")
    chosen = content["images"][3]
    path = "/".join(chosen["coco_url"].split("/")[-2:])
    assert predict(tiny_set / path, photos / "a.png", "--annotations", tiny_set / "val.json") == 0
    ids = [image["id"] for image in read(output / "images.json")["images"]]
    assert ids == [chosen["id"], max(image["id"] for image in content["images"]) + 1]


def test_kinds_of_images(predict, tmp_path, output):
    """Turned by EXIF, transparent, grey, 16 bits, palette: all are read as Detectron2 reads them."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x112] = 6  # a quarter turn
    picture.save(folder / "a_turned.jpg", exif=exif)
    picture.convert("RGBA").save(folder / "b_alpha.png")
    picture.convert("L").save(folder / "c_grey.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(folder / "d_16_bit.png")
    picture.convert("P").save(folder / "e_palette.gif")
    assert predict(folder) == 0
    sizes = [(image["height"], image["width"]) for image in read(output / "images.json")["images"]]
    assert sizes == [(60, 40), (40, 60), (40, 60), (40, 60), (40, 60)]


def make_video(path, frames, frames_per_second=10):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), frames_per_second, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_video(predict, tiny_set, tmp_path, output, tiny_checkpoint):
    frames = [cv2.imread(str(path)) for path in sorted((tiny_set / "val").glob("*.jpg"))[:5]]
    make_video(tmp_path / "clip.avi", frames)
    assert predict(tmp_path / "clip.avi") == 0
    results, images = read(output / "results.json"), read(output / "images.json")
    assert [image["frame"] for image in images["images"]] == list(range(5))
    predictor = Predictor(tiny_checkpoint, overrides=DEVICE, score_threshold=0.0, max_detections=4)
    source, made = cv2.VideoCapture(str(tmp_path / "clip.avi")), cv2.VideoCapture(str(output / "pictures" / "clip.mp4"))
    assert made.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    for image in images["images"]:
        frame = cv2.cvtColor(source.read()[1], cv2.COLOR_BGR2RGB)
        check_results(results, predictor(frame), images["categories"], image["id"])
        is_read, drawn = made.read()
        assert is_read
        assert drawn.shape == (640, 640, 3)
        # The scene is there: what is drawn covers a part of it only.
        small = cv2.cvtColor(cv2.resize(drawn, frame.shape[1::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        assert np.median(np.abs(small.astype(int) - frame)) < 40
    assert not made.read()[0]


def test_images_and_a_broken_video(predict, photos, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    assert predict(photos / "a.jpg", tmp_path / "clip.mp4") == 3
    assert "clip.mp4 cannot be opened" in capsys.readouterr().err


def test_an_image_too_narrow_for_the_detector(predict, photos, tmp_path, capsys):
    Image.new("RGB", (4000, 2)).save(tmp_path / "line.png")
    assert predict(photos / "a.jpg", tmp_path / "line.png") == 3
    assert "line.png cannot be predicted on (An image of 4000 x 2 pixels is too narrow" in capsys.readouterr().err


# --- mistakes ---------------------------------------------------------------------------------------------


def refused(predict, *args, **kwargs):
    with pytest.raises(UserError) as error:
        predict(*args, **kwargs)
    return str(error.value)


def test_inputs_that_are_not_there(predict, tmp_path):
    assert "nowhere.jpg does not exist" in refused(predict, tmp_path / "nowhere.jpg")
    (tmp_path / "empty").mkdir()
    assert "empty holds no image or video; known suffixes are .avi .bmp" in refused(predict, tmp_path / "empty")


def test_nothing_that_can_be_read(predict, tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    assert "Nothing could be read of 1 input(s): Image" in refused(predict, tmp_path / "note.jpg")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    assert "clip.mp4 cannot be opened (it is broken, or" in refused(predict, tmp_path / "clip.mp4")


def test_an_output_folder_that_is_a_file(predict, photos, output):
    output.write_text("a file")
    assert "out cannot be made (Not a directory); name another." in refused(predict, photos)


def test_overrides_that_are_wrong(predict, photos):
    assert refused(predict, photos / "a.jpg", "MODEL.DEVISE", "cpu").endswith("did you mean MODEL.DEVICE?")
    # An upper-case file that is missing is no key.
    assert "IMG_1.JPG does not exist" in refused(predict, "IMG_1.JPG")


def test_the_tool_ends_with_one_line(tiny_checkpoint, photos, output):
    """Also where Detectron2 would log every tensor that does not fit."""
    command = [sys.executable, "tools/predict.py", photos / "a.jpg", "--weights", tiny_checkpoint, "--output", output]
    options = [*DEVICE, "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: Weights {tiny_checkpoint} do not fit the model: ")
    assert done.stderr.count("\n") == 1
