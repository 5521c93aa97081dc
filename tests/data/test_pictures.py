"""Pictures of more than 8 bits: one rule for all who read them."""

import logging

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from eql_d2.data.checks.image_reading import read_images
from eql_d2.data.pictures import _EightBits, eight_bits, is_deep, read_picture


def grey(values, dtype):
    return Image.fromarray(np.array([values], dtype))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 128, 255], np.uint16, [0, 128, 255]),  # 8 bits in a file of 16
        ([0, 256, 1023], np.uint16, [0, 64, 255]),  # 10 bits
        ([0, 2048, 4000], np.uint16, [0, 128, 249]),  # 12 bits, not all of them used
        ([0, 4096, 16383], np.uint16, [0, 64, 255]),  # 14 bits
        ([0, 16384, 65535], np.uint16, [0, 64, 255]),  # 16 bits
        ([0, 50_000, 100_000], np.int32, [0, 128, 255]),  # more: the largest is white
        ([-100, -50, 100], np.int32, [0, 64, 255]),  # the smallest is black
        ([0.0, 0.5, 1.0], np.float32, [0, 128, 255]),
        ([0.0, 0.25, 0.5], np.float32, [0, 64, 128]),
        ([0.0, 2.0, 254.6], np.float32, [0, 2, 255]),
        ([0.0, 500.0, 1000.0], np.float32, [0, 128, 255]),
        ([-1.0, -0.5, 1.0], np.float32, [0, 64, 255]),
        ([7.0, 7.0, 7.0], np.float32, [7, 7, 7]),
        ([-3.0, -3.0, -3.0], np.float32, [0, 0, 0]),
        ([np.nan, np.inf, 1.0], np.float32, [0, 0, 255]),
    ],
)
def test_the_rule(values, dtype, expected):
    image = grey(values, dtype)
    assert is_deep(image)
    scaled = eight_bits(image)
    assert (scaled.mode, np.asarray(scaled)[0].tolist()) == ("L", expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA"])
def test_eight_bits_stay_as_they_are(mode):
    image = Image.new(mode, (2, 2))
    assert not is_deep(image)
    assert eight_bits(image) is image


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_reading_a_deep_picture_keeps_its_turn(tmp_path, ending):
    path = tmp_path / f"deep.{ending}"
    values = np.linspace(0, 65535, 6).astype(np.uint16).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left: three rows of two
    Image.fromarray(values).save(path, exif=exif.tobytes())
    read = read_picture(path, "BGR")
    expected = np.rot90(np.round(values * (255 / 65535)).astype(np.uint8), -1)
    assert read.shape == (3, 2, 3)
    for channel in range(3):
        assert read[:, :, channel].tolist() == expected.tolist()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_other_pictures_are_what_detectron2_reads(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "plain.png"
    Image.fromarray(pixels).convert(mode).save(path)
    for order in ("RGB", "BGR"):
        assert (read_picture(path, order) == read_image(str(path), format=order)).all()


def test_one_warning_names_the_first_picture(tmp_path, caplog):
    handler = _EightBits()
    for name in ("a.png", "b.png"):
        grey([0, 65535], np.uint16).save(tmp_path / name)
    with caplog.at_level(logging.WARNING, "eql_d2.data.pictures"):
        for name in ("a.png", "b.png"):
            with handler._open(f"eight-bits://{tmp_path / name}", "rb") as file:
                assert np.asarray(Image.open(file)).tolist() == [[0, 255]]
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"Image {tmp_path / 'a.png'} has more than 8 bits a channel" in message


def test_broken_and_missing_files_raise_what_readers_catch(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(OSError, match=name):
            read_picture(tmp_path / name, "RGB")


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_a_sensor_of_12_bits(tmp_path, ending, channels):
    """Pillow gives the upper half of the 16 bits: nearly black."""
    values = np.zeros((2, 3, channels), np.uint16)
    values[0, 0, :3] = 1024, 2048, 4095  # B, G, R
    path = tmp_path / f"deep.{ending}"
    cv2.imwrite(str(path), values)
    assert is_deep(Image.open(path)) and read_images([str(path)], workers=1)[0].deep
    assert read_picture(path, "RGB")[0, :2].tolist() == [[255, 128, 64], [0, 0, 0]]


def test_a_cut_picture_of_deep_colours_is_broken(tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(OSError, match="truncated"):
        read_picture(path, "RGB")


def test_a_png_with_a_fault_is_broken_and_not_black(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert (read_image(str(path), "RGB")[-1] == 0).all()  # as Detectron2 reads it: what is below the fault is black
    with pytest.raises(OSError, match="broken PNG file"):
        read_picture(str(path), "RGB")
    assert "broken PNG file" in next(iter(read_images([path], workers=1))).error
