"""The figures of runs show the numbers that their files hold, worked out here by hand or by loops."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from eql_d2.analysis.charts import PAPER_PALETTE, page_figure, save_figure
from eql_d2.analysis.class_values import positive_scores, weight_norms
from eql_d2.analysis.finished_runs import FinishedRun, find_runs
from eql_d2.analysis.run_figures import FIGURES
from eql_d2.analysis.smooth_trend import smooth_mean, trend_with_band
from eql_d2.errors import UserError
from tests.analysis.made_up_run import (
    AP,
    DATASET,
    DETECTIONS,
    NUM_IMAGES,
    OBJECTS,
    ledger_entry,
    write_dataset,
    write_run,
)

BY_FREQUENCY = [3, 2, 7, 9]
LIGHT, DARK = PAPER_PALETTE.series[:2]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data")


@pytest.fixture
def run(dataset, tmp_path) -> FinishedRun:
    return FinishedRun("first", write_run(tmp_path / "run", dataset))


def drawn_lines(figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """x and y of the lines of a figure, by label."""
    axes = Figure().subplots()
    figure.draw(axes, PAPER_PALETTE)
    return {line.get_label(): tuple(np.asarray(data) for data in line.get_data()) for line in axes.get_lines()}


def drawn_dots(figure) -> np.ndarray:
    axes = Figure().subplots()
    figure.draw(axes, PAPER_PALETTE)
    return np.ma.getdata(axes.collections[0].get_offsets())


def test_gradient_ratios_in_the_order_of_frequency(run):
    figure = FIGURES["gradient-ratio"]([run])
    dots = drawn_dots(figure)
    assert dots[:, 0].tolist() == [0, 1, 2, 3]
    assert dots[:3, 1].tolist() == [1.25, 0.5, 0.125]
    assert 0 < dots[3, 1] < 0.125  # zero has no place on a logarithmic axis but its edge
    assert figure.group_means == [("first", [0.0625, 0.5, 1.25])]  # rare: (0.125 + 0) / 2


def test_runs_that_differ_by_the_seed_are_one_line(dataset):
    """By hand: 20 and 30 are 25 for class 2; class 7 is known of one run only."""
    entries = []
    for seed, column in ((0, [20.0, 30.0, 10.0, None]), (5, [30.0, 40.0, None, None])):
        entry = ledger_entry(dataset, name=f"table/row/seed_{seed}", seed=seed)
        entry["class_ap"] = {DATASET: {"bbox": column}}
        entry["curve"] = {"iteration": [19, 39], "total_loss": [2.0 + seed, 1.0]}
        entries.append(FinishedRun(entry["name"], None, entry))
    other = FinishedRun("table/another", None, {**entries[0].entry, "name": "table/another"})
    figure = FIGURES["ap-box"]([*entries, other])
    assert figure.group_means == [
        ("row, 2 seeds", [10.0, 25.0, 35.0]),
        ("another", [10.0, 20.0, 30.0]),
    ]
    _, losses = drawn_lines(FIGURES["loss"](entries))["table/row, 2 seeds"]
    assert losses.tolist() == [4.5, 1.0]


def test_stages_of_a_cascade_are_told_apart(run):
    path = run.folder / "class_gradients.csv"
    header, *rows = path.read_text().splitlines()
    header = header.replace("classes/gradient_ratio", "classes_stage0/gradient_ratio,classes_stage1/gradient_ratio")
    path.write_text("\n".join([header, *(f"{row},{place}" for place, row in enumerate(rows))]))
    assert run.gradient_ratios == {"stage 1": {2: 0.5, 3: 1.25, 7: 0.125, 9: 0.0}, "stage 2": {2: 0, 3: 1, 7: 2, 9: 3}}


def test_weight_norms(dataset, tmp_path):
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [5.0, 12.0], [9.0, 9.0]])  # the last is background
    run = FinishedRun("softmax", write_run(tmp_path / "run", dataset, weight, PREDICTOR="SoftmaxPredictor"))
    assert weight_norms(run) == {"": {2: 5, 3: 2, 7: 1, 9: 13}}


@pytest.mark.filterwarnings("ignore:No class has its number of instances in group 3")
def test_weight_norms_of_bags_take_each_class_from_its_group(dataset, tmp_path):
    # Instances 60, 400, 3, 1. Groups: background; below 10 (emu, yak); 10 to 99 (cat); 100 to 999 (dog); each class
    # group has a column of its own for all others.
    probe = write_run(tmp_path / "probe", dataset, PREDICTOR="BAGSPredictor")
    found = {}
    for column in range(9):
        weight = torch.zeros(9, 2)
        weight[column, 0] = 1
        checkpoint = torch.load(probe / "model_final.pth")
        checkpoint["model"]["roi_heads.box_predictor.cls_score.weight"] = weight
        torch.save(checkpoint, probe / "model_final.pth")
        for category_id, norm in weight_norms(FinishedRun("bags", probe))[""].items():
            if norm:
                found.setdefault(column, []).append(category_id)
    of_classes = [ids[0] for _, ids in sorted(found.items())]
    assert all(len(ids) == 1 for ids in found.values())
    assert of_classes == [7, 9, 2, 3]  # by group, and within one by id


def test_learned_scales_count_and_normed_weights_have_no_norm(dataset, tmp_path):
    folder = write_run(tmp_path / "run", dataset)
    checkpoint = torch.load(folder / "model_final.pth")
    checkpoint["model"]["roi_heads.box_predictor.cls_score.scale"] = torch.tensor([1.0, -2.0, 3.0, 0.5])
    torch.save(checkpoint, folder / "model_final.pth")
    assert weight_norms(FinishedRun("lws", folder)) == {"": {2: 1, 3: 2, 7: 3, 9: 0.5}}
    normed = FinishedRun("seesaw", write_run(tmp_path / "normed", dataset, NORMED_CLASSIFIER=True))
    with pytest.raises(UserError, match="divides its weights"):
        weight_norms(normed)


def loop_iou(first, second) -> float:
    (x, y, w, h), (u, v, r, s) = first, second
    shared = max(0, min(x + w, u + r) - max(x, u)) * max(0, min(y + h, v + s) - max(y, v))
    return shared / (w * h + r * s - shared)


def loop_positive_scores() -> dict[int, float]:
    scores = {}
    for image_id, objects in OBJECTS.items():
        for class_id, box in objects:
            found = [s for c, b, s in DETECTIONS[image_id] if c == class_id and loop_iou(b, box) >= 0.5]
            scores.setdefault(class_id, []).append(max(found, default=0))
    return {class_id: sum(values) / len(values) for class_id, values in scores.items()}


def test_scores_of_positives(run):
    expected = loop_positive_scores()
    assert positive_scores(run, DATASET) == pytest.approx(expected)
    assert expected == {2: 0.75, 3: 0.25, 7: 0}  # the better of two; a miss and a hit of 0.5; nothing
    assert FIGURES["positive-score"]([run]).group_means == [("first", [0, 0.75, 0.25])]


def test_ap_against_the_number_of_images(run, dataset):
    for name in ("ap-box", "ap-mask"):
        from_files, from_ledger = (FIGURES[name]([r]) for r in (run, FinishedRun("first", None, ledger_entry(dataset))))
        for figure in (from_files, from_ledger):
            dots = drawn_dots(figure)
            assert dots[:, 0].tolist() == [200, 40, 3, 1]
            assert dots[:3, 1].tolist() == [AP[i] for i in BY_FREQUENCY[:3]]
            assert math.isnan(dots[3, 1])
            assert figure.group_means == [("first", [10, 20, 30])]


def test_losses_of_a_run_that_was_killed(run, dataset):
    for of_run in (run, FinishedRun("first", None, ledger_entry(dataset))):
        x, y = drawn_lines(FIGURES["loss"]([of_run]))["first"]
        assert (x.tolist(), y.tolist()) == ([19, 39], [4, 3])
    lines = [{"iteration": i, "total_loss": 9, "loss_cls_stage0": i, "loss_cls_stage1": 0.5} for i in (19, 39)]
    (run.folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    fresh = FinishedRun("first", run.folder)
    assert drawn_lines(FIGURES["loss-cls"]([fresh]))["first"][1].tolist() == [19.5, 39.5]


def test_threshold_functions(run):
    lines = drawn_lines(FIGURES["thresholds"]([run]))
    f, step = lines["step, λ = 0.00177"]
    assert [int(value) for value in step] == [int(value < 0.00177) for value in f]
    for label, formula in (
        ("exponential", lambda f: min(max(1 - (400 * f) ** 2, 0), 1)),
        ("gompertz", lambda f: 1 - math.exp(-80 * math.exp(-3000 * f))),
    ):
        f, values = lines[label]
        assert values.tolist() == pytest.approx([formula(value) for value in f.tolist()], abs=1e-12)
    assert f.max() == pytest.approx(200 / NUM_IMAGES)  # the most frequent class


def test_long_tail(run):
    assert next(iter(drawn_lines(FIGURES["long-tail"]([run])).values()))[1].tolist() == [200, 40, 3, 1]


def test_the_smooth_mean_is_a_weighted_mean():
    x, y = np.array([0.0, 1.0, 2.0, 50.0]), np.array([4.0, np.nan, 1.0, 9.0])
    near, far = smooth_mean(x, y, np.array([1.0, 20.0]), width=1.0)
    assert near == pytest.approx(2.5)  # 0 and 2 weigh alike, 1 is unknown, 50 is too far
    assert np.isnan(far)
    (at_zero,) = smooth_mean(x, y, np.array([0.0]), width=1.0)
    weights = [1.0, math.exp(-2.0)]
    assert at_zero == pytest.approx((4 * weights[0] + 1 * weights[1]) / sum(weights))


def test_the_band_is_the_spread_of_the_seeds():
    x = np.arange(5.0)
    of_seeds = np.array([np.full(5, 1.0), np.full(5, 2.0), np.full(5, 6.0)])
    mean, deviation = trend_with_band(x, of_seeds, x, width=1.0)
    assert mean == pytest.approx(np.full(5, 3.0))
    assert deviation == pytest.approx(np.full(5, math.sqrt((4 + 1 + 9) / 2)))
    assert trend_with_band(x, of_seeds[:1], x, 1.0)[1].tolist() == [0] * 5


def test_a_run_with_other_classes_is_left_out(run, dataset):
    other = ledger_entry(dataset, name="other")
    other["classes"] = [{**record, "image_count": record["image_count"] + 1} for record in other["classes"]]
    figure = FIGURES["ap-box"]([run, FinishedRun("other", None, other)])
    assert [label for label, _ in figure.group_means] == ["first"]
    assert figure.left_out == ["other: it has other classes, or other counts of them, than first."]


def remove_file(name):
    return lambda folder: (folder / name).unlink()


def cut_file(name):
    def cut(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])

    return cut


RESULTS = f"inference/{DATASET}/lvis_instances_results.json"


@pytest.mark.parametrize(
    ("figure", "damage", "names"),
    [
        ("gradient-ratio", remove_file("class_gradients.csv"), "class_gradients.csv is missing"),
        ("gradient-ratio", cut_file("class_gradients.csv"), "class_gradients.csv is cut off in row"),
        ("weight-norm", remove_file("model_final.pth"), "model_final.pth is missing"),
        ("weight-norm", cut_file("model_final.pth"), "model_final.pth"),
        ("weight-norm", remove_file("last_checkpoint"), "last_checkpoint is missing"),
        ("positive-score", remove_file(RESULTS), "lvis_instances_results.json is missing"),
        ("positive-score", cut_file(RESULTS), "lvis_instances_results.json"),
        ("ap-box", remove_file(f"inference/{DATASET}/per_class_ap_bbox.csv"), "per_class_ap_bbox.csv is missing"),
        ("loss", remove_file("metrics.json"), "metrics.json is missing"),
        ("loss", lambda folder: (folder / "metrics.json").write_text('{"iter'), "has no losses"),
    ],
)
def test_what_is_missing_or_half_written_is_named(figure, damage, names, run, dataset, tmp_path):
    whole = FinishedRun("whole", write_run(tmp_path / "whole", dataset))
    damage(run.folder)
    with pytest.raises(UserError, match=names):
        FIGURES[figure]([run])
    drawn = FIGURES[figure]([run, whole])
    assert len(drawn.left_out) == 1 and drawn.left_out[0].startswith("first: ") and names in drawn.left_out[0]


def test_files_and_the_page_show_the_same_with_their_own_colours(run, tmp_path):
    figure = FIGURES["loss"]([run])
    for ending, magic in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        path = tmp_path / "figures" / f"loss{ending}"
        save_figure(figure.draw, path)
        assert path.read_bytes().startswith(magic)
    svg = (tmp_path / "figures" / "loss.svg").read_text()
    assert LIGHT in svg and "var(--" not in svg
    page = page_figure(figure.draw, "losses")
    assert "var(--series-1)" in page and "#07080" not in page and LIGHT not in page
    with pytest.raises(UserError, match=r"loss\.jpg must end in one of \.svg"):
        save_figure(figure.draw, tmp_path / "loss.jpg")


def test_many_classes_are_lines_without_dots(dataset):
    entry = ledger_entry(dataset)
    entry["classes"] = [
        {"id": i, "name": str(i), "image_count": 2000 - i, "instance_count": 1, "frequency": "f"} for i in range(700)
    ]
    entry["class_ap"] = {DATASET: {"bbox": [float(i) for i in range(700)]}}
    figure = FIGURES["ap-box"]([FinishedRun("many", None, entry)])
    axes = Figure().subplots()
    figure.draw(axes, PAPER_PALETTE)
    assert not axes.collections
    assert axes.get_lines()[0].get_ydata().max() <= 699


def test_runs_are_found_and_told_apart(dataset, tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name / "eql", dataset)
    assert [run.name for run in find_runs([tmp_path / "runs"])[0]] == [
        f"eql ({tmp_path / 'runs' / name / 'eql'})" for name in ("a", "b")
    ]
    ledger = tmp_path / "ledger" / "table" / "row"
    ledger.mkdir(parents=True)
    for seed in range(3):
        (ledger / f"seed_{seed}.json").write_text(json.dumps(ledger_entry(dataset, name=f"row/seed_{seed}")))
    (ledger / "seed_1.json").write_text(json.dumps(ledger_entry(dataset, version=2)))
    (ledger / "seed_2.json").write_text("{")
    (tmp_path / "runs" / "a" / "eql" / "ledger.json").write_text(json.dumps(ledger_entry(dataset, name="a/seed_0")))
    (ledger / "seed_3.json").write_text(json.dumps(ledger_entry(dataset, name="a/seed_0")))  # a copy of the same run
    (ledger / "seed_4.json").write_text(json.dumps(ledger_entry(dataset, name="row/seed_0", seed=4)))
    (tmp_path / "empty").mkdir()
    runs, skipped = find_runs([tmp_path / "runs", tmp_path / "ledger", tmp_path / "empty"])
    assert [run.name for run in runs] == ["a/seed_0", "eql", "row/seed_0", "row/seed_0 #2"]
    assert [run.folder for run in runs] == [*(tmp_path / "runs" / name / "eql" for name in ("a", "b")), None, None]
    assert "seed_1.json was skipped" in skipped[0] and "version 2" in skipped[0]
    assert "seed_2.json was skipped" in skipped[1]
    assert "empty was skipped" in skipped[2]
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_runs([tmp_path / "nowhere"])
