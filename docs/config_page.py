"""Write docs/config.md, the page of all configuration keys, from the rooms' config.py: `python docs/config_page.py`."""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from eql_d2.config import get_eql_d2_config
from eql_d2.losses import METHODS
from eql_d2.modeling.loss_config import key_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "config.md"
ROOMS = {
    "modeling": "Models and losses",
    "data": "Data",
    "engine": "Engine",
    "evaluation": "Evaluation",
    "classification": "Image classification",
}
HEAD = """# Every key that this project adds
To Detectron2's own [config reference](https://detectron2.readthedocs.io/en/latest/modules/config.html). Made from the
rooms' `config.py` by `python docs/config_page.py`; change a meaning there. `MODEL.DEVICE` is Detectron2's, but says
`cpu` where there is no GPU.
"""


def keys_of_file(path: Path) -> list[tuple[str, str, str]]:
    """(key, default as written, meaning) of each key that a config.py sets; the meaning is the comment above it."""
    source = path.read_text()
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#")
    }
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not ast.unparse(node.targets[0]).startswith("cfg."):
            continue
        if isinstance(node.value, ast.IfExp):  # MODEL.DEVICE, which the head of the page explains
            continue
        key, value = ast.unparse(node.targets[0]).removeprefix("cfg."), ast.unparse(node.value)
        line, lines = node.lineno - 1, []
        while line in comments:
            lines.insert(0, comments[line])
            line -= 1
        found.append((node.lineno, key, value, " ".join(lines)))
    rows, of_node = [], ""
    for _, key, value, meaning in sorted(found):
        if value == "CfgNode()":  # what it says is told at the node's first key
            of_node = meaning
        else:
            rows.append((key, value, " ".join(filter(None, (of_node, meaning)))))
            of_node = ""
    return rows


def meanings_of_arguments(docstring: str) -> dict[str, str]:
    """What the Args section of a docstring says of each argument."""
    section = re.search(r"\n *Args:\n(.*?)(\n\n|\Z)", inspect.cleandoc(docstring) + "\n\n", re.S)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", section[1] + "\n" if section else "", re.S | re.M)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def _row(key: str, default: str, meaning: str) -> str:
    meaning = meaning or "see the key above"
    return f"| `{key}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |"


def page() -> str:
    """The text of the page."""
    ours, theirs = get_eql_d2_config(), get_cfg()
    parts = [HEAD]
    for room, title in ROOMS.items():
        rows = keys_of_file(ROOT / "eql_d2" / room / "config.py")
        parts.append(f"## {title}\n`eql_d2/{room}/config.py`\n\n| key | default | meaning |\n| --- | --- | --- |")
        parts += [_row(key, value, meaning) for key, value, meaning in rows]
        parts.append("")
    parts.append(
        "## Losses\nOne node per method: the keywords of its loss's constructor in upper case. Methods without options "
        "have none.\n\n| key | default | meaning |\n| --- | --- | --- |"
    )
    for method in METHODS.values():
        meanings = meanings_of_arguments(method.loss_class.__doc__ or "")
        for keyword, default in method.options.items():
            key = f"MODEL.LONG_TAIL.{method.node}.{key_of(keyword)}"
            parts.append(_row(key, repr(default), meanings.get(keyword, "")))
    undocumented = added_keys(ours, theirs) - set(re.findall(r"^\| `([A-Z0-9_.]+)`", "\n".join(parts), re.M))
    assert not undocumented, f"without a meaning: {sorted(undocumented)}"
    return "\n".join(parts) + "\n"


def added_keys(ours: CfgNode, theirs: CfgNode, prefix: str = "") -> set[str]:
    """Dotted names of the keys that one config has and the other has not."""
    keys = set()
    for key, value in ours.items():
        if isinstance(value, CfgNode):
            keys |= added_keys(value, theirs.get(key, CfgNode()), f"{prefix}{key}.")
        elif key not in theirs:
            keys.add(prefix + key)
    return keys


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)} is written")
