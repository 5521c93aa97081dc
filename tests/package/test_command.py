"""The command eql-d2 and what it finds from any folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from eql_d2 import __main__ as command
from eql_d2 import model_zoo
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.package_files import TOOLS
from tests.conftest import ROOT

JOBS_OF_A_CLONE = {
    *("demo", "gpu_check", "set_up", "install_detectron2", "detectron2_edits", "python_and_uv", "child_processes")
}


def run(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "eql_d2", *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_every_tool_is_a_verb():
    tools = {path.stem for path in TOOLS.glob("*.py")}
    assert set(command.VERBS.values()) == tools - JOBS_OF_A_CLONE
    for verb in command.VERBS:
        assert f"  {verb} " in command.usage()


def test_an_unknown_verb_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eql-d2", "trian"])
    with pytest.raises(SystemExit, match=r"^error: eql-d2 has no verb 'trian'; it must be one of train, "):
        command.main()


def test_a_verb_is_the_tool_from_any_folder(tmp_path, monkeypatch):
    done = run("reproduce", "list", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "eql_t2" in done.stdout and "seesaw_t1" in done.stdout
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["eql-d2", "reproduce", "show", "nothing_t1"])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # put back afterwards
    with pytest.raises(SystemExit, match=r"^error: There is no table nothing_t1"):
        command.main()


@pytest.mark.slow
@pytest.mark.parametrize("verb", command.VERBS)
def test_every_verb_has_help(verb, tmp_path):
    done = run(verb, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: eql-d2 {verb} ")


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "EmojiLVIS/demo_eql.yaml"
    assert Path(model_zoo.get_config_file(name)) == ROOT / "configs" / name
    assert model_zoo.get_config_file(f"configs/{name}") == model_zoo.get_config_file(name)
    assert model_zoo.get_config(name) == load_config(name) == load_config(str(ROOT / "configs" / name))


def test_a_config_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "EmojiLVIS").mkdir(parents=True)
    (tmp_path / "configs" / "EmojiLVIS" / "demo_eql.yaml").write_text("SEED: 77\n")
    assert load_config("configs/EmojiLVIS/demo_eql.yaml").SEED == 77


def test_a_name_that_does_not_exist():
    with pytest.raises(UserError, match=r"EmojiLVIS/demo_eq1.yaml; did you mean EmojiLVIS/demo_eql.yaml\?"):
        model_zoo.get_config_file("EmojiLVIS/demo_eq1.yaml")
    with pytest.raises(UserError, match=r"There is no config ../pyproject\.toml"):
        model_zoo.get_config_file("../pyproject.toml")


def test_a_model_by_name(tiny_checkpoint):
    model = model_zoo.get("EmojiLVIS/demo_softmax.yaml", device="cpu")
    assert not model.training and type(model.roi_heads.box_predictor).__name__ == "SoftmaxPredictor"
    with pytest.raises(UserError, match="do not fit the model"):
        model_zoo.get("EmojiLVIS/demo_softmax.yaml", str(tiny_checkpoint), "cpu")
