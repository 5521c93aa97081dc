"""Who may import whom: upward only, floor by floor, without circles, and losses without Detectron2."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "eql_d2"

# From the ground up; a room may import from its own and lower ones.
FLOORS = (
    ("errors", "known_warnings", "package_files"),
    ("safetensors_file",),
    ("child_processes", "once_a_machine", "plain_files"),
    ("long_tail",),
    ("losses",),
    ("data",),
    ("modeling",),
    ("evaluation",),
    ("drawing",),
    ("config",),  # gathers each room's config.py, of which those above hold nothing but keys
    ("engine",),
    ("prediction",),
    ("classification",),
    ("analysis",),
    ("reproduction",),
    ("conversion",),
    ("model_zoo",),
    ("__main__",),  # the command, which runs the tools
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Each module's name and file; a package is its __init__."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in it: modules, and members that are modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (members & set(MODULES)) | ({node.module} if members - set(MODULES) else set())
    return names


IMPORTS = {name: {i for i in imports_of(path) if i.split(".")[0] == "eql_d2"} for name, path in MODULES.items()}


def room_of(module: str) -> str | None:
    """The room of a module; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def holds_keys_only(module: str) -> bool:
    """Whether a module is a room's config.py, which any room above may need before its own is ready."""
    return module.split(".")[-1] == "config" and module != "eql_d2.config"


def test_every_room_has_its_floor():
    rooms = {room_of(name) for name in MODULES} - {None}
    assert rooms <= set(FLOOR_OF), "give the new room its floor"


def test_no_room_imports_from_above():
    wrong = [
        f"{name} imports {imported}"
        for name, imports in IMPORTS.items()
        for imported in imports
        if room_of(name)
        and room_of(imported)
        and not holds_keys_only(imported)
        and FLOOR_OF[room_of(imported)] > FLOOR_OF[room_of(name)]
    ]
    assert not wrong


@pytest.mark.parametrize("name", [name for name in MODULES if holds_keys_only(name)])
def test_a_rooms_keys_need_no_room_above_it(name):
    assert all(FLOOR_OF[room_of(imported)] <= FLOOR_OF[room_of(name)] for imported in IMPORTS[name])


def test_no_circle():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("room", ["losses", "long_tail"])
def test_the_mathematics_knows_no_detectron2(room):
    for name, path in MODULES.items():
        if room_of(name) == room:
            outside = {imported.split(".")[0] for imported in imports_of(path)} - {"eql_d2"}
            assert outside <= set(sys.stdlib_module_names) | {"torch", "orjson", "numpy"}, f"{name}: {outside}"


def test_losses_import_where_there_is_no_detectron2():
    code = "import sys; sys.modules['detectron2'] = None; import eql_d2.losses, eql_d2.long_tail"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_nothing_imports_the_tools():
    assert not [name for name, path in MODULES.items() if any(i.split(".")[0] == "tools" for i in imports_of(path))]


def test_a_file_name_stands_for_one_thing():
    """But for the names that every room may have."""
    names = [path.name for path in MODULES.values() if path.name not in ("__init__.py", "config.py")]
    assert not {name for name in names if names.count(name) > 1}
