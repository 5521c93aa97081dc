"""Reading of config files: YAML of plain values, with bases, own modules, and the nearest key named for a mistake."""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY

import eql_d2.config  # as a module: it imports engine/config.py, and thereby this package
from eql_d2.engine.auto_values import auto_allowed
from eql_d2.engine.config_paths import resolve_paths
from eql_d2.engine.method_in_use import leaves
from eql_d2.engine.own_modules import import_modules, imports_named, one_name_allowed
from eql_d2.errors import UserError
from eql_d2.package_files import shipped_config
from eql_d2.plain_files import read_yaml


def load_config(config_file: str, overrides: list[str] | None = None) -> CfgNode:
    """Read a config file and apply KEY VALUE overrides, after importing the modules that ``ENGINE.IMPORT`` names.

    Args:
        config_file: YAML file, or the name of one of this project's, as ``EmojiLVIS/demo_eql.yaml``; empty for the
            defaults. Its relative paths are relative to it.
        overrides: alternating keys and values.

    Raises:
        UserError: the file or a module is missing, it is not YAML, or a key does not exist; the nearest is named.
    """
    return load_config_and_names(config_file, overrides)[0]


def load_config_and_names(config_file: str, overrides: list[str] | None = None) -> tuple[CfgNode, list[str]]:
    """As :func:`load_config`, with the keys that the file itself and the overrides name.

    What the file is based on serves several methods, and its keys are not among them.
    """
    config_file = find_config(config_file)
    contents = check_config_files(config_file) if config_file else []
    import_modules(imports_named([content for _, content in contents], overrides or []))
    cfg = eql_d2.config.get_eql_d2_config()
    with _mistakes_told(cfg, f"Config file {config_file}"), one_name_allowed(cfg):
        with auto_allowed(cfg):
            if config_file:
                _merge_file(cfg, config_file, contents)
                resolve_paths(cfg, contents)
        with auto_allowed(cfg):
            cfg.merge_from_list(overrides or [])
    return cfg, [*(leaves(contents[0][1]) if contents else ()), *(overrides or [])[::2]]


def find_config(config_file: str) -> str:
    """The path of a config file, or of one of this project's by its name; empty stays empty.

    Raises:
        UserError: there is neither.
    """
    if not config_file or Path(config_file).is_file():
        return config_file
    shipped = shipped_config(config_file)
    if shipped is None:
        raise UserError(f"Config file {config_file} does not exist.")
    return str(shipped)


def check_config_files(path: str, below: tuple[str, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """Make sure that a config file and those that it is based on are YAML of plain values.

    A base is a path from its file's folder, or else the name of one of this project's configs.

    Args:
        path: local file.
        below: files that are based on this one.

    Returns:
        The file and its bases, each with its content, that which overrules the others first.

    Raises:
        UserError: one of them is not, is missing, or is based on itself.
    """
    if path in below:
        raise UserError(f"Config file {path} is based on itself by its _BASE_.")
    try:
        content = read_yaml(Path(path).read_text(encoding="utf-8"), f"Config file {path}")
    except FileNotFoundError:
        raise UserError(f"Config file {path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Config file {path} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"Config file {path} cannot be read: it is no mapping of keys to values.")
    contents = [(Path(path), content)]
    for base in reversed(_bases(content)):  # the last overrules the others
        contents += check_config_files(_find_base(path, base), (*below, path))
    return contents


def _bases(content: dict[str, Any]) -> list[str]:
    """The local files that a config file is based on."""
    bases = content.get(BASE_KEY) or []
    bases = bases if isinstance(bases, list) else [bases]
    return [base for base in bases if isinstance(base, str) and not base.startswith(("http://", "https://"))]


def _beside(path: str | Path, base: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(base)))


def _find_base(path: str | Path, base: str) -> str:
    """The file that is meant by a ``_BASE_``; where there is none, the path that was looked for first."""
    beside = _beside(path, base)
    return beside if os.path.exists(beside) else str(shipped_config(base) or beside)


def _merge_file(cfg: CfgNode, config_file: str, contents: list[tuple[Path, dict[str, Any]]]) -> None:
    """Merge a config file and its bases, which Detectron2 finds by their paths alone."""
    if all(_find_base(path, base) == _beside(path, base) for path, content in contents for base in _bases(content)):
        cfg.merge_from_file(config_file, allow_unsafe=False)
        return
    merged: dict[str, Any] = {}
    for _, content in reversed(contents):
        _override(merged, {key: value for key, value in content.items() if key != BASE_KEY})
    cfg.merge_from_other_cfg(CfgNode(merged))


def _override(values: dict[str, Any], by: dict[str, Any]) -> None:
    """Replace values by others, in place, node by node."""
    for key, value in by.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _override(values[key], value)
        else:
            values[key] = value


def parse_config(text: str, source: str, overrides: list[str] | None = None) -> CfgNode:
    """Read a dumped config, executing nothing that it may hold, and apply KEY VALUE overrides.

    Options of losses that are not known here, since they are the run's own, are taken as they are.

    Args:
        text: YAML without ``_BASE_``, as ``CfgNode.dump`` writes it.
        source: where it is from, for error messages.
        overrides: alternating keys and values.

    Raises:
        UserError: it is not YAML, or a key does not exist.
    """
    cfg = eql_d2.config.get_eql_d2_config()
    with _mistakes_told(cfg, source):
        dumped = CfgNode(read_yaml(text, source))
        for name, node in dumped.get("MODEL", {}).get("LONG_TAIL", {}).items():
            if isinstance(node, CfgNode) and name not in cfg.MODEL.LONG_TAIL:
                cfg.MODEL.LONG_TAIL[name] = node.clone()
        cfg.merge_from_other_cfg(dumped)
        cfg.merge_from_list(overrides or [])
    return cfg


@contextmanager
def _mistakes_told(cfg: CfgNode, source: str) -> Iterator[None]:
    """Turn what goes wrong in merging a config into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"Config file {error.filename} does not exist.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from None
    except KeyError as error:
        raise UserError(_unknown_key_message(cfg, str(error.args[0]))) from None
    # An unknown key among the overrides, a value of another type than the default's, a list of odd length, YAML that
    # is not a mapping: the config library tells them apart by text only.
    except (RecursionError, MemoryError):
        raise UserError(f"{source} holds a value that is nested too deeply to be read.") from None
    except (AssertionError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        if "Non-existent key" in str(error):
            raise UserError(_unknown_key_message(cfg, str(error))) from None
        raise UserError(f"The config cannot be read: {error}") from None


def _unknown_key_message(cfg: CfgNode, error_text: str) -> str:
    key = error_text.rsplit(": ", 1)[-1].strip("'\" ")
    nearest = difflib.get_close_matches(key, list(_all_keys(cfg)), n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else "; see docs/config.md and Detectron2's config reference."
    return f"Config key {key} does not exist{hint}"


def _all_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{key}.")
