"""docs/: keys, defaults, numbers, links and commands are those of the code, the papers and the benchmarks."""

import contextlib
import inspect
import io
import json
import re
import runpy
import shlex
import sys
from ast import literal_eval
from functools import cache
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer

import eql_d2.losses
from eql_d2.__main__ import VERBS
from eql_d2.config import get_eql_d2_config
from eql_d2.engine import load_config
from eql_d2.package_files import shipped_config
from eql_d2.reproduction.planned_runs import plan
from eql_d2.reproduction.tables import find_rows
from tests.conftest import ROOT
from tests.docs_pages import PAGES, code_blocks, prose, tables

METHODS = sorted(set((ROOT / "docs" / "methods").glob("*.md")) - {ROOT / "docs" / "methods" / "README.md"})
TABLES = [table for page in PAGES for table in tables(page)]
SECTIONS = (
    "The idea",
    "Formula",
    "Config",
    "When to use it",
    "Reported",
    "What differs from the first code",
    "Cost here",
)
OF_MANY_METHODS = ("seql", "comparisons", "newer_losses", "calibration", "one_stage")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
CONFIG_KEY = re.compile(r"(?:[A-Z][A-Z0-9_]+\.)+[A-Za-z0-9_]+")
SLURM_AND_TORCHRUN = ("srun", "torchrun")


def of_page(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())


def tables_with(*columns):
    found = [table for table in TABLES if set(columns) <= set(table.header)]
    assert found
    return found


def by_column(table):
    """The rows as {column: cell}."""
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def anchors(page):
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "", text)).lower().replace(" ", "-") for text in headings}


def value_of(cfg, key):
    for part in key.split("."):
        assert part in cfg, f"there is no key {key}"
        cfg = cfg[part]
    return cfg


def test_the_index_names_every_page():
    (index,) = tables(ROOT / "docs" / "README.md")
    targets = {(ROOT / "docs" / re.search(r"\((.+?)\)", row[0])[1]).resolve() for row in index.rows}
    assert targets >= set(PAGES) - {ROOT / "docs" / "README.md"}
    assert all(len(row) == 2 and row[1] for row in index.rows)


@of_page(PAGES)
def test_pages_are_short_and_speak_of_the_project_alone(page):
    lines = page.read_text().splitlines()
    assert len(lines) <= 150 or page.name == "config.md"  # which is made from the code
    breakable = [re.sub(r"\(https://\S+\)", "", line) for line in lines if not line.startswith(("|", "$$"))]
    assert max(len(line) for line in breakable) <= 120
    assert not re.search(r"/work/|/tmp/|/home/", page.read_text())


@of_page(PAGES)
def test_links_to_files_resolve(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for target in targets:
        if not target.startswith("https://"):
            assert (page.parent / target.partition("#")[0]).exists(), target
        page_of = (page.parent / target.partition("#")[0]).resolve() if not target.startswith("#") else page
        if "#" in target and not target.startswith("https://") and page_of.suffix == ".md":
            assert target.partition("#")[2] in anchors(page_of), target
    assert targets


@of_page([page for page in METHODS if page.stem not in OF_MANY_METHODS])
def test_method_pages_have_the_same_sections(page):
    assert tuple(re.findall(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)) == SECTIONS
    idea = page.read_text().partition("## The idea\n")[2].partition("\n\n")[0]
    assert idea.count("\n- ") + 1 == 5


# --- config keys ------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_config():
    cfg = get_eql_d2_config()
    for table in tables_with("key", "default"):
        for row in by_column(table):
            (key,) = CODE_SPAN.fullmatch(row["key"]).groups()
            assert literal_eval(row["default"].strip("`")) == value_of(cfg, key), (table.page, key)
            assert row["meaning"]


def test_every_key_of_a_method_has_its_row():
    documented = {row["key"].strip("`") for table in tables_with("key", "default") for row in by_column(table)}
    nodes = {name: node for name, node in get_eql_d2_config().MODEL.LONG_TAIL.items() if isinstance(node, CfgNode)}
    assert set(nodes) >= {"EQL", "EQLV2", "SEESAW", "BAGS", "FOCAL", "FEDERATED"}
    for name, node in nodes.items():
        assert {f"MODEL.LONG_TAIL.{name}.{key}" for key in node} <= documented


@of_page(PAGES)
def test_keys_in_the_text_exist(page):
    cfg = get_eql_d2_config()
    tops = {name for name, node in cfg.items() if isinstance(node, CfgNode)}
    for span in CODE_SPAN.findall(prose(page)):
        for key in CONFIG_KEY.findall(span):
            if key.split(".")[0] in tops and not key.startswith("MODEL.LONG_TAIL.PRIOR_SOFTMAX"):  # of your_own_loss.md
                value_of(cfg, key)


def test_arguments_of_seql():
    (table,) = tables_with("argument", "default")
    parameters = inspect.signature(eql_d2.losses.SoftmaxEqualizationLoss).parameters
    rows = {row["argument"].strip("`"): row["default"] for row in by_column(table)}
    assert list(rows) == list(parameters)
    for name, default in rows.items():
        empty = parameters[name].default is inspect.Parameter.empty
        assert default == "–" if empty else literal_eval(default.strip("`")) == parameters[name].default


# --- numbers ----------------------------------------------------------------------------------------------


def test_reported_numbers_are_those_of_the_papers(shared_data):
    content = json.loads((shared_data.parent / "reference" / "paper_tables.json").read_text())
    results = {result["id"]: result for result in content["results"]}
    count = 0
    for table in tables_with("source"):
        for row in by_column(table):
            source, identity = re.fullmatch(r"(.+) \((r\d{3})\)", row["source"]).groups()
            result = results[identity]
            assert result["table"] == source, (table.page, row)
            for metric, cell in row.items():
                if metric in ("method", "source"):
                    continue
                assert (None if cell == "–" else float(cell)) == result["metrics"].get(metric), (table.page, row)
                count += 1
    assert count > 200


def test_every_reported_number_names_its_source():
    for page in METHODS:
        for table in tables(page):
            # Tables with seeds are of this project's runs, and are held to the ledger.
            if set(table.header) & {"AP", "APbbox", "top1"} and "seeds" not in table.header:
                assert "source" in table.header
                assert all(re.search(r"\(r\d{3}\)$", row[-1]) for row in table.rows)


def test_which_method_quotes_the_committed_runs():
    def mean(row, metric, table="emoji_benchmark", task="segm"):
        files = (ROOT / "benchmarks" / "ledger" / table / row).glob("*.json")
        values = [
            dataset[task][metric] for file in files for dataset in json.loads(file.read_text())["metrics"].values()
        ]
        return f"{sum(values) / len(values):.1f}"

    def box(row, table):
        return [mean(row, metric, table, "bbox") for metric in ("AP", "APr")]

    text = " ".join((ROOT / "docs" / "which_method.md").read_text().split())
    softmax, bags, both = mean("softmax", "APf"), mean("bags", "APr"), (mean("eql_rfs", "APr"), mean("eql_rfs", "APf"))
    assert f"({mean('seesaw', 'APf')} of softmax's {softmax})" in text
    assert f"APr {bags} instead of {mean('softmax', 'APr')}, APf {mean('bags', 'APf')} instead of {softmax}" in text
    assert f"({both[0]} and {both[1]})" in text
    assert f"APr to {mean('softmax_rfs', 'APr')} on EmojiLVIS, BAGS without sampling to {bags}" in text
    one_stage = [" {} and {}".format(*box(row, "emoji_one_stage")) for row in ("eqfl", "efl", "focal")]
    assert "EQLv2 has {} box AP and an APr of {}, ".format(*box("eqlv2", "emoji_one_stage")) in text
    assert "EQFL{}, EFL{}, the focal loss{}.".format(*one_stage) in text
    second = [
        box("bags_decoupled", "emoji_federated"),
        *(box(f"{row}_decoupled", "emoji_federated_since") for row in ("grw", "ebl")),
        box("crt", "emoji_federated"),
    ]
    assert (
        "BAGS brought {} box AP with an APr of {}, GRW {} and {}, EBL {} and {}, cRT {} and {}".format(
            *(value for pair in second for value in pair)
        )
        in text
    )


def test_costs_are_those_of_the_benchmark():
    measured = json.loads((ROOT / "benchmarks" / "results" / "losses_cpu.json").read_text())
    assert (measured["rois"], measured["threads"]) == (8192, 1)
    results = {result["loss"]: result for result in measured["results"]}
    memory = f"`F.cross_entropy` takes {results['F.cross_entropy']['peak_tensors']:.1f}."
    named = {"softmax cross-entropy": "softmax", "sigmoid cross-entropy": "sigmoid", "droploss": "drop_loss"}
    told = set()
    for table in tables_with("loss", "time", "memory"):
        assert memory in (ROOT / table.page).read_text()
        for row in by_column(table):
            name = row["loss"].lower()
            result = results[named.get(name, name if name in results else re.sub(r"\W", "_", name))]
            assert (row["time"], row["memory"]) == (f"{result['ratio']:.2f}", f"{result['peak_tensors']:.2f}")
            told.add(result["loss"])
    assert told >= {name for name in results if "by definition" in name} and len(told) == 16


def test_compared_calibrations_are_those_of_the_benchmark():
    measured = json.loads((ROOT / "benchmarks" / "results" / "calibration.json").read_text())["results"]
    softmax, sigmoid = measured["demo_softmax"], measured["demo_sigmoid"]
    (table,) = tables_with("calibration", "softmax AP", "sigmoid AP")
    told = {row[0]: list(row[1:]) for row in table.rows}
    assert told == {
        name: [f"{value:.1f}" for value in (*softmax[name].values(), *sigmoid[name].values())] for name in softmax
    }


def test_what_the_scaling_rule_makes_of_the_recipe():
    (table,) = tables_with("key", "1", "8", "64")
    path = "configs/LVISv1/eqlv2_1x/mask_rcnn_R50_FPN/eqlv2.yaml"
    assert path in (ROOT / "docs" / "reproduce.md").read_text()
    cfg = load_config(str(ROOT / path), ["SOLVER.REFERENCE_WORLD_SIZE", "8"])
    for row in by_column(table):
        key = row["key"].strip("`")
        for number in (1, 8, 64):
            scaled = DefaultTrainer.auto_scale_workers(cfg, number)
            assert literal_eval(row[str(number)]) == pytest.approx(value_of(scaled, key)), key


# --- commands ---------------------------------------------------------------------------------------------


def commands():
    """(page, words) of each command in a bash block."""
    for page in PAGES:
        for language, text in code_blocks(page):
            if language == "bash":
                for line in text.replace("\\\n", " ").splitlines():
                    if line.strip():
                        yield page, shlex.split(line, comments=True)


@cache
def help_of(*words: str) -> str:
    """What a tool, or a subcommand of it, says about its options."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [*words, "--help"])
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert end.value.code == 0
    return printed.getvalue()


def test_commands_name_tools_and_options_that_exist():
    seen = set()
    for page, words in commands():
        tool = next((word for word in words if word.startswith("tools/")), None)
        if words[0] == "eql-d2":
            assert words[1] in (*VERBS, "--help"), (page, words)
            if words[1] == "--help":
                continue
            tool = f"tools/{VERBS[words[1]]}.py"
            words = ["python", tool, *words[2:]]
        if words[0] == "python" and words[1].startswith("benchmarks/"):
            assert (ROOT / words[1]).is_file(), (page, words)
            continue
        if words[:2] in (["pip", "install"], ["docker", "build"], ["docker", "run"], ["tensorboard", "--logdir"]):
            continue
        if words == [".", ".venv/bin/activate"]:
            continue
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (page, words)
            continue
        if tool is None:
            assert words[:3] == ["python", "-m", "pytest"], (page, words)
            continue
        assert words[0] == "python" or words[0] in SLURM_AND_TORCHRUN
        arguments = words[words.index(tool) + 1 :]
        subcommand = () if arguments[0].startswith("--") else arguments[:1]
        for word in arguments:
            if word.startswith("--"):
                assert re.search(rf"{word}\b", help_of(tool, *subcommand)), (page, word)
        seen.add(tool)
    assert seen >= {"tools/train_net.py", "tools/make_emoji_lvis.py"}


def test_commands_name_configs_and_keys_that_exist():
    for page, words in commands():
        if "--config-file" not in words:
            continue
        path = words[words.index("--config-file") + 1]
        if path in ("prior_softmax.yaml", "birds/birds.yaml"):  # of the page or of a tool before; others run them
            continue
        overrides = words[words.index(path) + 1 :]
        while overrides and not CONFIG_KEY.fullmatch(overrides[0]) and overrides[0] != "OUTPUT_DIR":
            overrides = overrides[1:]
        cfg = load_config(str(shipped_config(path) or ROOT / path), overrides)
        assert all(value_of(cfg, key) is not None for key in overrides[::2]), (page, words)


def test_tables_and_rows_in_commands_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    named = []
    for _, words in commands():
        if words[1:2] != ["tools/reproduce.py"] or words[2] == "list":
            continue
        if words[2] == "collect" and "--table" not in words:  # the tables follow from the runs
            continue
        name = words[words.index("--table") + 1] if words[2] == "collect" else words[3]
        if name == "prior_table.yaml":  # written by the page; test_docs_own_loss.py runs it
            continue
        table, rows = find_rows(name)
        scale = "emoji" if "emoji" in words else "paper"
        runs, _ = plan(table, rows, [0], Path("output"), scale)
        assert runs, name
        named.append(words[2])
    assert {"run", "collect", "show", "jobs"} <= set(named) and len(named) == 9


def test_tools_and_files_named_in_the_text_exist():
    named = set()
    for page in PAGES:
        for span in CODE_SPAN.findall(prose(page)):
            match = re.match(r"(?:tools|configs|eql_d2|tests|benchmarks)/[\w./]+", span)
            named |= {match[0]} if match else set()
            if python := re.match(r"python (\S+\.py)", span):
                named.add(python[1])
    assert {"tools/check_dataset.py", "benchmarks/losses.py"} <= named
    assert not {name for name in named if not (ROOT / name).exists()}


@of_page(PAGES)
def test_yaml_blocks_are_yaml_and_python_blocks_python(page):
    for language, text in code_blocks(page):
        assert language in ("bash", "python", "text", "yaml"), language
        if language == "yaml":
            assert isinstance(yaml.safe_load(text), dict)
        if language == "python":
            compile(text, str(page), "exec")


def test_the_example_of_seql_runs():
    ((_, text),) = code_blocks(ROOT / "docs" / "methods" / "seql.md")
    names = {}
    exec(text, names)
    assert names["logits"].grad.isfinite().all()
    assert names["probabilities"].sum(dim=1).tolist() == pytest.approx([1.0] * 8)


def test_detectron2s_defaults_in_the_text_are_true():
    """Keys of Detectron2's own whose defaults the pages tell."""
    cfg = get_cfg()
    assert (cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE) == (0.05, 100)
    assert (cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.MODEL.RESNETS.NORM) == (0, "FrozenBN")
    assert Path(ROOT / "docs" / "troubleshooting.md").read_text().count("score threshold 0.05, 100 detections") == 1
