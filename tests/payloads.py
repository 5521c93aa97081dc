"""Files that would run code if they were opened without care: each makes the file that it is told to."""

import io
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


class _Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self._call


def _touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def _nested(protocol: int) -> Callable[[Path], bytes]:
    """A call deep inside of what looks like a checkpoint."""
    return lambda path: pickle.dumps({"model": {"w": [1, (2, _Calls(eval, _touch(path)))]}}, protocol)


def _line(code: str) -> Callable[[Path], bytes]:
    """A pickle written by hand."""
    return lambda path: code.replace("PATH", str(path)).encode()


def _system(path: Path) -> str:
    return f"touch {path}"


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda path: pickle.dumps(_Calls(__import__("os").system, _system(path))),
    "eval": lambda path: pickle.dumps(_Calls(eval, _touch(path))),
    "exec": lambda path: pickle.dumps(_Calls(exec, _touch(path))),
    "subprocess": lambda path: pickle.dumps(_Calls(subprocess.call, ["touch", str(path)])),
    "open": lambda path: pickle.dumps(_Calls(open, str(path), "w")),
    "nested, protocol 0": _nested(0),
    "nested, protocol 2": _nested(2),
    "nested, protocol 5": _nested(5),
    "INST opcode": _line("(S'touch PATH'\nios\nsystem\n."),
    "OBJ opcode": lambda path: b"(cos\nsystem\nS'touch " + str(path).encode() + b"'\no.",
    "NEWOBJ of a class with code": lambda path: (
        b"\x80\x02csubprocess\nPopen\n(]q\x00(X\x05\x00\x00\x00touch"
        + b"X"
        + len(str(path)).to_bytes(4, "little")
        + str(path).encode()
        + b"etR."
    ),
    "a name with dots": lambda path: (
        b"\x80\x04\x8c\x0btorch.utils\x8c\x15collect_env.os.system\x93\x8c"
        + bytes([len(_system(path))])
        + _system(path).encode()
        + b"\x85R."
    ),
    "a loader of bytes in PyTorch": lambda path: pickle.dumps(
        _Calls(torch.storage._load_from_bytes, _old_torch_bytes(_Calls(eval, _touch(path))))
    ),
    "numpy's run test": lambda path: pickle.dumps(_Calls(__import__("runpy").run_path, str(_script(path)))),
    "builtins through getattr": lambda path: pickle.dumps(_Calls(_Getattr(__import__("os"), "system"), _system(path))),
    "BUILD with a function as state setter": lambda path: (
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsbX"
        + len(_system(path)).to_bytes(4, "little")
        + _system(path).encode()
        + b"b."
    ),
}


class _Getattr:
    """A bound method, which pickles as getattr."""

    def __new__(cls, owner: object, name: str) -> Callable:
        return getattr(owner, name)


def _script(path: Path) -> Path:
    script = path.with_name("script.py")
    script.write_text(_touch(path))
    return script


def _old_torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def write_torch_file(path: Path, data: bytes, old_format: bool = False) -> None:
    """Write a file of ``torch.save`` whose pickle is replaced.

    Args:
        path: to write.
        data: the pickle.
        old_format: that of PyTorch before 1.6: pickles one after another.
    """
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(1)}, buffer, _use_new_zipfile_serialization=not old_format)
    if old_format:
        protocol = pickle.dumps(1001, protocol=2)
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
        path.write_bytes(magic + protocol + pickle.dumps({}, protocol=2) + data)
        return
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith("data.pkl") else source.read(name))


YAMLS: dict[str, Callable[[Path], str]] = {
    "apply": lambda path: f"A: !!python/object/apply:os.system ['touch {path}']",
    "new": lambda path: f"A: !!python/object/new:os.system ['touch {path}']",
    "eval": lambda path: f'A: !!python/object/apply:eval ["{_touch(path)}"]',
    "module": lambda path: "A: !!python/module:antigravity",
    "name": lambda path: "A: !!python/name:os.system",
    "long tag": lambda path: f"A: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch {path}']",
    "deep list": lambda path: "A: " + "[" * 5000 + "]" * 5000,
    "deep mapping": lambda path: "A: " + "{B: " * 5000 + "1" + "}" * 5000,
    "repeated aliases": lambda path: (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        )
    ),
    "an alias of itself": lambda path: "A: &a [*a]",
    "an unknown tag": lambda path: "A: !Ref x",
}
