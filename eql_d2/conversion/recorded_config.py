"""What a checkpoint of mmdetection records of its config: Python text, which is read and never run."""

import ast
from typing import Any


def read_recorded_config(text: str) -> dict[str, Any]:
    """The values that a config's text assigns, as far as they are plain.

    Args:
        text: Python source of literals, ``dict(…)`` calls and names assigned before; mmdetection 1.x puts the
            file's path on a line before it.

    Returns:
        Top-level names and values; what is not plain is None; empty if the text is not Python.
    """
    for source in (text, text.partition("\n")[2]):
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError):
            continue
        values: dict[str, Any] = {}
        for statement in statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = _value_of(statement.value, values)
        return values
    return {}


def _value_of(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value_of(element, names) for element in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value_of(key, names): _value_of(value, names) for key, value in pairs if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        result: dict[str, Any] = {}
        for keyword in node.keywords:
            value = _value_of(keyword.value, names)
            result |= {keyword.arg: value} if keyword.arg else (value if isinstance(value, dict) else {})
        return result
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def find_dict(values: Any, key: str) -> dict[str, Any] | None:
    """The first dict, in the order of writing, that holds a key."""
    if isinstance(values, dict) and key in values:
        return values
    for child in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        found = find_dict(child, key)
        if found is not None:
            return found
    return None
