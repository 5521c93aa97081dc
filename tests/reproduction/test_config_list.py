"""The list of configs: complete, with the method that each trains and the rows that it reproduces."""

from eql_d2.engine import load_config
from eql_d2.reproduction.config_list import list_configs, rows_by_config
from eql_d2.reproduction.tables import find_table, table_names
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"


def test_every_row_that_can_be_trained_is_named_once():
    listed = [name for rows in rows_by_config(CONFIGS / "tables").values() for name in rows]
    tables = [find_table(name, CONFIGS / "tables") for name in table_names(CONFIGS / "tables")]
    assert sorted(listed) == sorted(f"{t.name}/{row.id}" for t in tables for row in t.rows if row.training is not None)


def test_a_row_stands_at_its_config():
    (entry,) = list_configs(CONFIGS, ["seesaw_2x/mask_rcnn_R50_FPN/seesaw_rfs.yaml"])
    cfg = load_config(str(CONFIGS / entry.name))
    assert (entry.method, entry.sampler) == ("Seesaw Loss", "RepeatFactor")
    assert entry.schedule == f"{cfg.SOLVER.MAX_ITER} x {cfg.SOLVER.IMS_PER_BATCH}"
    assert entry.rows
    for name in entry.rows:
        table, _, row = name.partition("/")
        assert find_table(table, CONFIGS / "tables").by_id[row].training.config == entry.name


def test_bases_and_tables_are_no_configs():
    names = {entry.name for entry in list_configs(CONFIGS, ["EmojiLVIS/", "tables/"])}
    assert "EmojiLVIS/demo_eql.yaml" in names
    assert not any("Base" in name or name.startswith("tables/") for name in names)


def test_a_classifier_s_method():
    (entry,) = list_configs(CONFIGS, ["digits_lt/seql.yaml"])
    assert entry.method == "Softmax Equalization Loss"


def test_a_one_stage_detector_s_method():
    entries = {entry.name: entry.method for entry in list_configs(CONFIGS, ["retinanet"])}
    assert entries["LVISv1/efl_2x/retinanet_R50_FPN/efl_rfs.yaml"] == "Equalized Focal Loss"
    assert entries["LVISv1/efl_2x/retinanet_R50_FPN/focal_rfs.yaml"] == "Focal loss"
