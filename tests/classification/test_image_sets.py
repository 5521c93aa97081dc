"""Images in files, in CIFAR's archive and in scikit-learn: what is read, and each mistake as one sentence."""

import hashlib
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from eql_d2.classification.cifar import read_cifar
from eql_d2.classification.datasets import load_image_set, register_classification_datasets
from eql_d2.classification.image_files import read_image_folder, read_image_json, read_image_list
from eql_d2.classification.small_sets import read_digits
from eql_d2.engine import load_config
from eql_d2.errors import UserError


def test_folder(image_folder):
    images = read_image_folder("own", image_folder / "train")
    assert images.classes == ("ant", "bee")
    assert images.labels.tolist() == [0] * 6 + [1] * 3
    assert images[6] == {"image_id": 6, "label": 1, "file_name": str(image_folder / "train" / "bee" / "0.png")}
    assert images.counts.image_counts == (6, 3)
    assert images.counts.image_frequencies.tolist() == [6 / 9, 3 / 9]


def test_mistaken_folders(image_folder):
    with pytest.raises(UserError, match=r"Dataset own: folder .*nowhere does not exist"):
        read_image_folder("own", image_folder / "nowhere")
    with pytest.raises(UserError, match="Dataset own has no classes"):
        read_image_folder("own", image_folder / "train" / "ant")
    (image_folder / "train" / "cow").mkdir()
    with pytest.raises(UserError, match=r"folder .*cow has no images; fill it or delete it"):
        read_image_folder("own", image_folder / "train")


def test_folder_with_one_class(image_folder):
    (image_folder / "val" / "ant").rename(image_folder / "ant")
    with pytest.raises(UserError, match="Dataset own has only the class 'bee'; a classifier needs at least two"):
        read_image_folder("own", image_folder / "val")


def test_list(tmp_path):
    path = tmp_path / "split.txt"
    path.write_text("train/a b.JPEG 2\ntrain/c.JPEG 0\n\n")
    images = read_image_list("own", tmp_path / "root", path)
    assert (images.classes, images.labels.tolist()) == (("0", "1", "2"), [2, 0])
    assert images[0]["file_name"] == str(tmp_path / "root" / "train" / "a b.JPEG")


@pytest.mark.parametrize("line", ["train/a.JPEG", "train/a.JPEG one", "train/a.JPEG -1"])
def test_mistaken_lists(tmp_path, line):
    path = tmp_path / "split.txt"
    path.write_text(f"a.png 0\n{line}\n")
    with pytest.raises(UserError, match=f"line 2 of .*split.txt is '{line}'; it must be PATH LABEL"):
        read_image_list("own", tmp_path, path)
    with pytest.raises(UserError, match=r"Dataset own: .*none.txt cannot be read \(No such file"):
        read_image_list("own", tmp_path, tmp_path / "none.txt")
    with pytest.raises(UserError, match="Dataset own needs the key annotations"):
        read_image_list("own", tmp_path, None)


def test_json(tmp_path):
    path = tmp_path / "train.json"
    content = {
        "images": [{"id": 7, "file_name": "x/7.jpg"}, {"id": 9, "file_name": "x/9.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "category_id": 30}, {"id": 2, "image_id": 7, "category_id": 10}],
        "categories": [{"id": 30, "name": "wren"}, {"id": 10, "name": "ant"}, {"id": 20, "name": "bat"}],
    }
    path.write_text(json.dumps(content))
    images = read_image_json("own", tmp_path, path)
    assert (images.classes, images.labels.tolist()) == (("ant", "bat", "wren"), [2, 0])
    assert images[0]["file_name"] == str(tmp_path / "x" / "9.jpg")
    del content["categories"][1]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train.json is not in iNaturalist's format \(KeyError 10\)"):
        read_image_json("own", tmp_path, path)


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """An archive in CIFAR-100's form with one training and one test image of each class, and torchvision told so."""

    def split(seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (100, 3072), dtype=np.uint8)
        return {"data": pixels, "fine_labels": list(range(100))}

    contents = {"train": split(0), "test": split(1), "meta": {"fine_label_names": [f"class {j}" for j in range(100)]}}
    path = tmp_path / CIFAR100.filename
    with tarfile.open(path, "w:gz") as archive:
        sums = {}
        for name, content in contents.items():
            data = pickle.dumps(content)
            sums[name] = hashlib.md5(data).hexdigest()
            member = tarfile.TarInfo(f"{CIFAR100.base_folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    for name in ("train", "test"):
        monkeypatch.setattr(CIFAR100, f"{name}_list", [[name, sums[name]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")  # nobody answers there
    return path, contents


def test_cifar_from_its_archive(small_cifar, tmp_path):
    _, contents = small_cifar
    images = read_cifar("cifar100", "test", tmp_path)
    assert (images.name, len(images), images.classes[99]) == ("cifar100_test", 100, "class 99")
    expected = contents["test"]["data"][3].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(np.asarray(images[3]["image"]), expected)


def test_cifar_without_network(small_cifar, tmp_path):
    path, _ = small_cifar
    path.unlink()
    with pytest.raises(
        UserError, match=r"cifar100 is not in .* and cannot be downloaded .*\(MD5 \w{32}\) .* put it there"
    ):
        read_cifar("cifar100", "train", tmp_path)


def test_damaged_archive_of_cifar(small_cifar, tmp_path):
    path, _ = small_cifar
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cifar-100-python.tar.gz is damaged \(its MD5 checksum is not .*delete it"):
        read_cifar("cifar100", "train", tmp_path)
    assert path.exists()  # it is the user's


def test_unpacked_files_of_cifar_that_were_changed(small_cifar, tmp_path):
    path, _ = small_cifar
    read_cifar("cifar100", "train", tmp_path)
    path.unlink()
    (tmp_path / CIFAR100.base_folder / "train").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"cifar100 is not in .* and cannot be downloaded"):
        read_cifar("cifar100", "train", tmp_path)


def test_imagenet_lt_from_its_list(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = load_config("")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("imagenet_lt_train",), ("imagenet_lt_val",)
    register_classification_datasets(cfg)
    with pytest.raises(UserError, match=r"imagenet_lt/ImageNet_LT_train.txt cannot be read \(No such file"):
        load_image_set("imagenet_lt_train")
    (tmp_path / "imagenet_lt").mkdir()
    (tmp_path / "imagenet_lt" / "ImageNet_LT_train.txt").write_text("train/n1/a.JPEG 0\ntrain/n2/b.JPEG 1\n")
    images = load_image_set("imagenet_lt_train")
    assert images[1]["file_name"] == str(tmp_path / "imagenet" / "train" / "n2" / "b.JPEG")
    assert images.counts.image_counts == (1, 1)


def test_own_sets_from_a_file_and_cut(image_folder):
    path = image_folder / "sets.yaml"
    path.write_text("- {name: own_cut, images: train, imbalance: 3}\n")
    cfg = load_config("", ["DATASETS.CUSTOM_FILE", str(path)])
    register_classification_datasets(cfg)
    assert load_image_set("own_cut").counts.image_counts == (3, 1)  # the smallest class has 3


def test_digits():
    train, test = read_digits("train"), read_digits("test")
    assert len(train) + len(test) == 1797
    assert test.counts.image_counts == (50,) * 10
    assert train.counts.image_counts == (128, 132, 127, 133, 131, 132, 131, 129, 124, 130)
    assert train.images.dtype == np.uint8
    assert (train.images.min(), train.images.max()) == (0, 255)
