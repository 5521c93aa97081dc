"""Install Detectron2 into the environment of the Python that runs this file.

Default: the v0.6 source distribution, verified, edited
(tools/detectron2_edits.py), built into a pure-Python wheel, installed. With
DETECTRON2_SOURCE=<folder or git URL[@revision]>: the official sources,
compiled; this needs a C++ compiler (and nvcc for the CUDA operators).
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

from child_processes import UserError, run, stop_in_order, trust_system_certificates
from detectron2_edits import EditError, apply_edits

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "detectron2"

SDIST = "pb1-detectron2==0.6"  # detectron2/ and projects/ in it equal the official tag v0.6
SDIST_NAME = "pb1-detectron2-0.6.tar.gz"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# Downloads a source distribution without building it (pip runs setup.py, which wants torch).
UNEARTH = "unearth==0.19.0"
VERSION = "0.6+eqld2"

PROJECTS = {
    "point_rend": "PointRend/point_rend",
    "deeplab": "DeepLab/deeplab",
    "panoptic_deeplab": "Panoptic-DeepLab/panoptic_deeplab",
}

PYPROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{VERSION}"
description = "Detectron2 v0.6 with the edits of eql_d2's tools/detectron2_edits.py, without compiled code"
license = {{ text = "Apache-2.0" }}
requires-python = ">=3.10,<3.15"
dependencies = [
    "torch>=2.1",
    "torchvision>=0.16",
    "numpy",
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.10",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
]

[tool.setuptools.packages.find]
include = ["detectron2*"]

[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*"]
"""


def find_uv():
    """The uv to use: $UV, the one set_up.py keeps in the clone, or the one on PATH."""
    kept = ROOT / ".cache" / "uv" / "bin" / "uv"
    uv = os.environ.get("UV") or (str(kept) if kept.exists() else shutil.which("uv"))
    if not uv:
        raise UserError("uv is not there; run `make setup`, which fetches it and then runs this file")
    return uv


def index_options():
    """The index the user has chosen, in the words of unearth."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return ["--index-url", os.environ[name]]
    return []


def checksum(path):
    """The sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_sdist(uv):
    """Path of the verified source distribution, downloaded into the cache unless it is there already."""
    path = CACHE / SDIST_NAME
    if not path.exists():
        print(f"downloading {SDIST_NAME}")
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = CACHE / "download"
        shutil.rmtree(fresh, ignore_errors=True)
        command = [uv, "tool", "run", "--python", sys.executable, "--from", UNEARTH, "unearth"]
        command += [*index_options(), "--no-binary", "--download", fresh, SDIST]
        run(command, f"downloading {SDIST}")
        if not (fresh / SDIST_NAME).exists():
            raise UserError(f"the package index has no {SDIST_NAME}; set DETECTRON2_SOURCE instead")
        verify(fresh / SDIST_NAME)
        os.replace(fresh / SDIST_NAME, path)
    verify(path)
    return path


def verify(path, expected=None):
    """Refuse a file whose sha256 is not the expected one."""
    expected = expected or SHA256
    found = checksum(path)
    if found != expected:
        raise UserError(f"{path}: sha256 is {found}, expected {expected}; delete the file and try again")


def unpack(sdist, tree):
    """Unpack the source distribution so that `tree` is its top folder."""
    shutil.rmtree(tree, ignore_errors=True)
    parent = tree.parent / (tree.name + ".unpacking")
    shutil.rmtree(parent, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(parent, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (top,) = parent.iterdir()
    os.replace(top, tree)
    parent.rmdir()


def package(tree):
    """Lay out the edited tree as one package `detectron2` with its own metadata."""
    for name, folder in PROJECTS.items():
        shutil.move(str(tree / "projects" / folder), str(tree / "detectron2" / "projects" / name))
    for leftover in ("setup.py", "setup.cfg"):
        (tree / leftover).unlink()
    (tree / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")


def build_wheel(sdist):
    """The wheel of the edited v0.6, built once for each version of the installer and its edits."""
    parts = [Path(__file__), Path(__file__).with_name("detectron2_edits.py"), sdist]
    key = hashlib.sha256("".join(map(checksum, parts)).encode()).hexdigest()[:12]
    done = CACHE / f"wheel-{key}"
    if not done.is_dir():
        tree, out = CACHE / "tree", CACHE / "wheel-unfinished"
        unpack(sdist, tree)
        apply_edits(tree)
        package(tree)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        code = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
        run([sys.executable, "-c", code], "building the wheel of Detectron2", cwd=tree)
        os.replace(out, done)
    (wheel,) = done.glob("*.whl")
    return wheel


def is_url(source):
    """Whether DETECTRON2_SOURCE is a git URL rather than a folder."""
    return re.match(r"(git\+|(https?|ssh|git|file)://|git@)", source) is not None


def fetch_source(source):
    """Copy or clone the official sources into the cache, so that the user's folder stays untouched."""
    tree = CACHE / "source"
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    if is_url(source):
        if not shutil.which("git"):
            raise UserError(f"DETECTRON2_SOURCE={source}: git is not installed, which cloning needs")
        url = re.sub(r"^git\+", "", source)
        revision = None
        if "@" in url.rsplit("/", 1)[-1]:
            url, revision = url.rsplit("@", 1)
        run(["git", "clone", "--quiet", url, tree], f"cloning {url}")
        if revision:
            run(["git", "-C", tree, "checkout", "--quiet", revision], f"checking out {revision} of {url}")
    else:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise UserError(f"DETECTRON2_SOURCE={source}: no such folder")
        skip = shutil.ignore_patterns(".git", "build", "*.egg-info", "*.so", "__pycache__")
        if (folder / "setup.py").is_file() and (folder / "detectron2").is_dir():
            shutil.copytree(folder, tree, symlinks=True, ignore=skip)
    if not ((tree / "setup.py").is_file() and (tree / "detectron2" / "__init__.py").is_file()):
        raise UserError(f"DETECTRON2_SOURCE={source}: holds no Detectron2 (setup.py and detectron2/__init__.py)")
    return tree


def install_source(uv, source):
    """Compile and install the official sources."""
    compiler = os.environ.get("CXX") or "c++"
    if not shutil.which(compiler.split()[0]):
        raise UserError(
            f"no C++ compiler: {compiler!r} is not on PATH, and DETECTRON2_SOURCE compiles; install one "
            "(for example the package build-essential), set CXX, or use the default without compiled code"
        )
    tree = fetch_source(source)
    print("compiling Detectron2 (minutes)")
    install(uv, tree, "--no-build-isolation")


def install(uv, what, *options):
    """Install one wheel or folder, without its dependencies: the lock has them."""
    command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--reinstall", *options, what]
    run(command, "installing Detectron2")


def main():
    """Install Detectron2 as --source or DETECTRON2_SOURCE says."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="make setup runs it; by hand:\n    .venv/bin/python tools/install_detectron2.py --source FOLDER",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", default=os.environ.get("DETECTRON2_SOURCE", ""))
    args = parser.parse_args()
    trust_system_certificates()
    stop_in_order()
    try:
        uv = find_uv()
        if args.source:
            install_source(uv, args.source)
            print(f"installed Detectron2 from {args.source}")
        else:
            install(uv, build_wheel(fetch_sdist(uv)))
            print(f"installed Detectron2 {VERSION}: the release v0.6 without compiled code")
    except (UserError, EditError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
