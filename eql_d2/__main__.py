"""The command ``eql-d2``: the tools as verbs, from any folder. ``eql-d2 train`` runs tools/train_net.py, and so on."""

import ast
import re
import sys
from types import ModuleType

from eql_d2.package_files import TOOLS

VERBS = {
    "train": "train_net",
    "train-lazy": "lazyconfig_train_net",
    "train-classifier": "train_classifier",
    "evaluate": "evaluate",
    "predict": "predict",
    "export": "export_model",
    "check": "check_dataset",
    "new": "start_project",
    "samples": "show_samples",
    "ensemble": "ensemble",
    "report": "report",
    "figures": "figures",
    "reproduce": "reproduce",
    "configs": "list_configs",
    "convert": "convert_checkpoint",
    "emoji-lvis": "make_emoji_lvis",
}
"""The tool that each verb runs. The demo and the set-up are jobs of a clone."""


def usage() -> str:
    """What ``eql-d2 --help`` prints."""
    lines = [f"  {verb:17} {_first_line(tool)}" for verb, tool in VERBS.items()]
    return "\n".join(
        ["usage: eql-d2 VERB [OPTION ...]", "", *lines, "", "eql-d2 VERB --help tells the options of a verb."]
    )


def in_verbs(text: str, command: str = "python ") -> str:
    """A text in which the tools that it calls are verbs: outside of a clone there is no folder ``tools``.

    Args:
        text: of a tool, or what it says.
        command: expression for what stands before a tool that is to be called.
    """
    verb_of = {tool: verb for verb, tool in VERBS.items()}
    return re.sub(
        rf"\b{command}tools/(\w+)\.py\b",
        lambda found: f"eql-d2 {verb_of[found[1]]}" if found[1] in verb_of else found[0],
        text,
    )


def _first_line(tool: str) -> str:
    text = (TOOLS / f"{tool}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def main() -> None:
    """Run the tool that the first argument names, as ``python tools/TOOL.py`` does."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
        return
    if verb not in VERBS:
        sys.exit(f"error: eql-d2 has no verb {verb!r}; it must be one of {', '.join(VERBS)}.")
    path = TOOLS / f"{VERBS[verb]}.py"
    sys.argv = [f"eql-d2 {verb}", *arguments]
    tool = ModuleType("__main__")
    tool.__file__ = str(path)  # by which the processes that it starts find it
    sys.modules["__main__"] = tool
    try:
        exec(compile(in_verbs(path.read_text(encoding="utf-8")), path, "exec"), tool.__dict__)
    except SystemExit as error:
        sys.exit(in_verbs(error.code, "(?:python )?") if isinstance(error.code, str) else error.code)


if __name__ == "__main__":
    main()
