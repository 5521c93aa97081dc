"""The table of an evaluation: what it shows, in 80 columns."""

import math

import numpy as np

from eql_d2.evaluation.results_table import WIDTH, class_lines, class_table, results_table

LVIS = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300"), range(10, 20), strict=True))


def test_metrics_of_lvis_fit_80_columns():
    table = results_table({"bbox": LVIS | {"AP-fixed": 31.25}, "segm": LVIS | {"APl": math.nan, "AP-fixed": 30}})
    header, _, box, mask, fixed_header, _, box_fixed, _ = table.splitlines()
    assert max(map(len, table.splitlines())) <= WIDTH
    assert header.split() == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    assert box.split() == ["box", *(f"{value:.1f}" for value in range(10, 19))]
    assert mask.split()[6] == "–"
    assert fixed_header.split() == ["AP"] and box_fixed.split() == ["box-fixed", "31.2"]


def test_metrics_that_nothing_has_are_no_columns():
    header = results_table({"bbox": {"AP": 1.0, "APr": math.nan, "APc": math.nan}}).splitlines()[0]
    assert header.split() == ["AP"]
    assert results_table({"bbox": {"AP50": 1.0, "AP1": 2.0, "AP5": 3.0}}).splitlines()[0].split() == [
        *("AP50", "AP1", "AP5")
    ]


def test_best_and_worst_classes():
    names = [f"a class of a rather long name {i}" for i in range(20)]
    ap = np.array([float(i) for i in range(19)] + [math.nan])
    text = class_lines(names, "r" * 10 + "f" * 10, ap, "mask")
    assert max(map(len, text.splitlines())) <= WIDTH
    best, worst = " ".join(text.split()).split(" worst: ")
    assert best.startswith("best by mask AP: a class of a rather long name 18 (f) 18.0, a class of")
    assert worst.startswith("a class of a rather long name 0 (r) 0.0, a class of a rather long name 1 (r) 1.0")
    assert " 19" not in text  # without ground truth
    zeros = class_lines(names, [""] * 20, np.array([1.0] + [0.0] * 19), "box")
    assert "19 of 20 classes are at 0: a class of a rather long name 1," in " ".join(zeros.split())
    assert class_lines(names, [""] * 20, np.zeros(20), "box") == "box AP of all 20 classes is 0."
    assert class_lines(names, [""] * 20, np.full(20, math.nan), "box") == ""


def test_every_class_with_the_best_first():
    columns = {"box": np.array([1.0, 2.0, math.nan]), "mask": np.array([0.5, 3.0, math.nan])}
    rows = class_table(["one", "two", "none"], ["r", "f", "c"], columns).splitlines()[2:]
    assert [row.split() for row in rows] == [
        ["two", "f", "2.0", "3.0"],
        ["one", "r", "1.0", "0.5"],
        ["none", "c", "–", "–"],
    ]
