"""Relative paths in a config are relative to the file that says them."""

import os

import pytest
import yaml

from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes files below a folder, and makes another the current one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def write(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
            if path.suffix == "":
                path.rename(f"{path}.yaml")
        return tmp_path

    return write


def test_every_key_that_names_a_file(project):
    entry = {"name": "a_train", "annotations": "train.json", "images": "../photos", "ignore_regions": "more.json"}
    folder = project(
        birds__cfg={
            "MODEL": {"WEIGHTS": "start.pth", "LONG_TAIL": {"CATEGORY_COUNTS": "sub/counts.json"}},
            "DATASETS": {"CUSTOM": [entry], "CUSTOM_FILE": "sets.yaml"},
            "OUTPUT_DIR": "output/birds",
        }
    )
    for path in ("birds/cfg.yaml", "elsewhere/../birds/cfg.yaml"):
        cfg = load_config(str(folder / path))
        birds = f"{folder}/birds"
        assert f"{birds}/start.pth" == cfg.MODEL.WEIGHTS
        assert f"{birds}/sub/counts.json" == cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS
        assert f"{birds}/sets.yaml" == cfg.DATASETS.CUSTOM_FILE
        (read,) = cfg.DATASETS.CUSTOM
        keys = ("annotations", "images", "ignore_regions")
        expected = [f"{birds}/train.json", f"{folder}/photos", f"{birds}/more.json"]
        assert [os.path.abspath(read[key]) for key in keys] == expected
        assert cfg.OUTPUT_DIR == "output/birds"  # written below the current folder


@pytest.mark.parametrize("path", ["detectron2://a/b.pkl", "https://x.org/a.pth", "/abs/a.pth", "~/a.pth", ""])
def test_what_is_no_relative_path(project, path):
    folder = project(cfg={"MODEL": {"WEIGHTS": path}})
    assert path == load_config(str(folder / "cfg.yaml")).MODEL.WEIGHTS


def test_the_current_folder_where_the_files_own_leads_nowhere(project):
    folder = project(cfg={"MODEL": {"WEIGHTS": "a.pth"}}, elsewhere__a__pth="x")
    (folder / "elsewhere" / "a.pth").write_text("x")
    assert load_config(str(folder / "cfg.yaml")).MODEL.WEIGHTS == "a.pth"
    (folder / "a.pth").write_text("x")
    assert str(folder / "a.pth") == load_config(str(folder / "cfg.yaml")).MODEL.WEIGHTS


def test_a_base_is_of_its_own_folder_and_the_file_overrules_it(project):
    folder = project(
        bases__base={"MODEL": {"WEIGHTS": "of_base.pth"}, "DATASETS": {"CUSTOM_FILE": "of_base.yaml"}},
        leaf={"_BASE_": "bases/base.yaml", "MODEL": {"WEIGHTS": "of_leaf.pth"}},
    )
    cfg = load_config(str(folder / "leaf.yaml"))
    assert str(folder / "of_leaf.pth") == cfg.MODEL.WEIGHTS
    assert str(folder / "bases" / "of_base.yaml") == cfg.DATASETS.CUSTOM_FILE


def test_of_several_bases_the_last_overrules_as_in_merging(project):
    folder = project(
        one__base={"MODEL": {"WEIGHTS": "one.pth"}},
        two__base={"MODEL": {"WEIGHTS": "two.pth"}},
        leaf={"_BASE_": ["one/base.yaml", "two/base.yaml"]},
    )
    assert str(folder / "two" / "two.pth") == load_config(str(folder / "leaf.yaml")).MODEL.WEIGHTS


def test_the_command_line_is_of_the_current_folder(project):
    folder = project(cfg={"MODEL": {"WEIGHTS": "a.pth"}})
    assert load_config(str(folder / "cfg.yaml"), ["MODEL.WEIGHTS", "b.pth"]).MODEL.WEIGHTS == "b.pth"


def test_an_entry_of_another_form_is_left_for_who_registers_it(project):
    folder = project(cfg={"DATASETS": {"CUSTOM": ["text", {"name": "a", "images": 5}]}})
    assert load_config(str(folder / "cfg.yaml")).DATASETS.CUSTOM == ["text", {"name": "a", "images": 5}]


def test_a_file_that_is_based_on_itself(project):
    folder = project(a={"_BASE_": "b.yaml"}, b={"_BASE_": "a.yaml"})
    with pytest.raises(UserError, match=r"a\.yaml is based on itself"):
        load_config(os.path.normpath(folder / "a.yaml"))


def test_a_base_by_the_name_of_a_shipped_config(project):
    auto = {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": "auto"}}, "SOLVER": {"MAX_ITER": 7}}
    folder = project(
        of_name={"_BASE_": "EmojiLVIS/demo_eql.yaml", **auto},
        of_folder={"_BASE_": "configs/EmojiLVIS/demo_eql.yaml", **auto},
        of_path={"_BASE_": str(configs_folder() / "EmojiLVIS/demo_eql.yaml"), **auto},
        two={"_BASE_": ["of_path.yaml", "EmojiLVIS/demo_seesaw.yaml"]},
    )
    by_path = load_config(str(folder / "of_path.yaml"))
    assert by_path.MODEL.ROI_BOX_HEAD.PREDICTOR == "EQLPredictor" and by_path.SOLVER.MAX_ITER == 7
    for name in ("of_name", "of_folder"):
        assert load_config(str(folder / f"{name}.yaml")).dump() == by_path.dump()
    assert load_config(str(folder / "two.yaml")).MODEL.ROI_BOX_HEAD.PREDICTOR == "SeesawPredictor"  # the last wins
    assert load_config(str(folder / "two.yaml")).SOLVER.MAX_ITER != 7


def test_a_file_of_ones_own_goes_before_the_shipped_one_of_its_name(project):
    folder = project(cfg={"_BASE_": "EmojiLVIS/demo_eql.yaml"}, EmojiLVIS__demo_eql={"SOLVER": {"MAX_ITER": 7}})
    assert load_config(str(folder / "cfg.yaml")).SOLVER.MAX_ITER == 7
    assert load_config(str(folder / "cfg.yaml")).MODEL.ROI_BOX_HEAD.PREDICTOR != "EQLPredictor"


def test_a_base_that_is_neither(project):
    folder = project(cfg={"_BASE_": "EmojiLVIS/none.yaml"})
    with pytest.raises(UserError, match=f"Config file {folder}/EmojiLVIS/none.yaml does not exist"):
        load_config(str(folder / "cfg.yaml"))
