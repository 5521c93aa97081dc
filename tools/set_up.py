"""Make the environment `.venv`: locked packages, Detectron2, this package.

Runs on any Python 3.7+ with its standard library only. Reads from the
environment, each optional:
  PYTHON              the Python for the environment (3.10 to 3.14), by name,
                      path, or version, which uv fetches if it is not there
  VENV                the environment's folder, default .venv
  DETECTRON2_SOURCE   folder or git URL[@revision] of official sources to
                      compile; `release` returns to the default; when unset, an
                      existing environment keeps what it has
Doing nothing is fast: a stamp in the environment holds what each step depended
on. A step's entry is removed before the step and written after it, so an
interrupted run is completed by the next one.

Examples:
    make setup                       # what a clone needs
    python tools/set_up.py --lock    # resolve pyproject.toml into the lock
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from child_processes import UserError, run, run_with_children, stop_in_order, trust_system_certificates
from install_detectron2 import is_url
from python_and_uv import CACHE, ROOT, environment_for, find_python, find_uv, requested_python

LOCK = ROOT / "requirements.lock"
TOOLS = ROOT / "tools"


def digest(*parts):
    """A short hash of files (Path: by content) and texts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        sha.update(hashlib.sha256(data).digest())
    return sha.hexdigest()[:16]


def fingerprint(folder):
    """A hash of the names, sizes and times of the files under a folder, without its .git."""
    lines = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {".git", "__pycache__", "build"})
        for name in sorted(files):
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(base, name))
                lines.append(f"{base}/{name} {status.st_size} {status.st_mtime_ns}")
    return digest("\n".join(lines))


class Environment:
    """The virtual environment, its stamp, and the steps that bring it up to date."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamp_path = folder / "eql_d2-setup.json"
        self.stamp = self.read_stamp()
        self.tools = None  # (uv, variables), found when first needed

    def read_stamp(self):
        """What the finished steps depended on; empty where there is no readable stamp."""
        try:
            return dict(json.loads(self.stamp_path.read_text()))
        except (OSError, ValueError):
            return {}

    def record(self, **entries):
        """Set entries of the stamp (None removes one) and write it in one piece."""
        self.stamp.update(entries)
        self.stamp = {key: value for key, value in self.stamp.items() if value is not None}
        unfinished = self.stamp_path.with_suffix(".new")
        unfinished.write_text(json.dumps(self.stamp, indent=1))
        os.replace(unfinished, self.stamp_path)

    def has(self, pattern):
        """Whether something in site-packages matches."""
        return any(self.folder.glob(f"lib/python3*/site-packages/{pattern}"))

    def uv(self, *arguments, doing):
        """Run uv."""
        uv, env = self.find_tools()
        run([uv, *arguments], doing, env=env, cwd=ROOT)

    def find_tools(self):
        """(uv, variables to run it with); fetches uv if need be."""
        if self.tools is None:
            _, python = requested_python() or find_python()
            uv = find_uv(python)
            self.tools = uv, environment_for(uv, python)
        return self.tools

    def current_version(self):
        """The version of the environment's Python, None where the environment has to be made anew."""
        whole = self.stamp.get("folder") == str(self.folder) and not self.stamp.get("syncing")
        return tuple(self.stamp["python"]) if whole and self.python.exists() and "python" in self.stamp else None

    def create(self, version, path):
        """Make the environment, unless it is there already with the wanted Python; True if made."""
        ours = self.stamp or self.folder == ROOT / ".venv"
        if not ours and self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(f"VENV={self.folder}: the folder holds something else; name a new one or delete it")
        print(f"making {self.folder} with Python {version[0]}.{version[1]}")
        self.find_tools()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.stamp = {}
        self.record(folder=str(self.folder))
        self.uv("venv", "--allow-existing", "--python", path, self.folder, doing="making the environment")
        self.record(python=list(version))

    def sync(self, key):
        """Install exactly what the lock says; this removes Detectron2 and the package."""
        print("installing the locked packages (the first time: about 3 GB to download, most of it torch)")
        self.record(syncing=True, lock=None, detectron2=None, package=None)
        self.uv("pip", "sync", "--python", self.python, LOCK, doing="installing requirements.lock")
        self.record(syncing=None, lock=key)

    def add_detectron2(self, source, key):
        """Install Detectron2 by tools/install_detectron2.py, which prints what it does."""
        self.record(detectron2=None)
        _, env = self.find_tools()
        env = dict(env, DETECTRON2_SOURCE=source)
        if run_with_children([str(self.python), str(TOOLS / "install_detectron2.py")], env=env).returncode != 0:
            sys.exit(1)
        self.record(detectron2=key, source=source)

    def add_package(self, key):
        """Install this package so that its files are used where they lie."""
        print("installing eql_d2 (editable)")
        self.record(package=None)
        command = ["pip", "install", "--python", self.python, "--no-deps", "--no-build-isolation", "-e", ROOT]
        self.uv(*command, doing="installing eql_d2")
        self.record(package=key)


def detectron2_key(environment, lock_key):
    """(source, key): where Detectron2 comes from, and what its installation depends on."""
    wanted = os.environ.get("DETECTRON2_SOURCE")
    source = wanted or environment.stamp.get("source", "")
    source = "" if source == "release" else source
    parts = [lock_key, source, TOOLS / "install_detectron2.py"]
    if not source:
        parts.append(TOOLS / "detectron2_edits.py")  # only the release is edited
    elif not is_url(source):
        source = os.path.abspath(os.path.expanduser(source))
        if not wanted and not os.path.isdir(source):  # what was compiled from it stays good
            return source, environment.stamp.get("detectron2")
        parts[1] = source + fingerprint(source)
    return source, digest(*parts)


def set_up(environment):
    """Do what is missing; True if something was."""
    if not LOCK.exists():
        raise UserError(f"{LOCK.name} is missing; get it from the repository or write it: make lock")
    did = False
    requested = requested_python()
    version = environment.current_version()
    if version is None or (requested and requested[0] != version):
        version, path = requested or find_python()
        environment.create(version, path)
        did = True
    lock_key = digest(LOCK, version)
    if environment.stamp.get("lock") != lock_key or not environment.has("torch"):
        environment.sync(lock_key)
        did = True
    source, key = detectron2_key(environment, lock_key)
    if environment.stamp.get("detectron2") != key or not environment.has("detectron2-*.dist-info"):
        environment.add_detectron2(source, key)
        did = True
    there = (ROOT / "eql_d2" / "__init__.py").exists()
    key = digest(ROOT / "pyproject.toml", ROOT / "setup.py", str(ROOT), there, lock_key)
    if environment.stamp.get("package") != key or not environment.has("eql_d2-*.dist-info"):
        environment.add_package(key)
        did = True
    return did


def write_lock(environment):
    """Resolve pyproject.toml into requirements.lock; pins that still fit are kept."""
    options = [f"--extra={name}" for name in extras() if name != "docs"]
    options += ["--universal", "--python-version", "3.10", "--generate-hashes"]
    options += ["--no-emit-index-url", "--custom-compile-command", "make lock", "--output-file", LOCK.name]
    environment.uv("pip", "compile", "pyproject.toml", *options, doing="resolving pyproject.toml")
    print(f"wrote {LOCK.name}")


def extras():
    """Extra -> its packages, as pyproject.toml lists them (Pythons before 3.11 cannot read TOML)."""
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    lists = re.findall(r"^([a-z_]+) = \[(.*?)\]$", section, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r'"([^"]+)"', packages) for name, packages in lists}


def set_up_docs():
    """Make .cache/docs, the environment that builds the site; nothing is done where it has what the extra says."""
    environment = Environment(CACHE / "docs")
    key = digest(*extras()["docs"])
    if environment.stamp.get("docs") == key and environment.python.exists():
        return
    environment.create(*find_python())
    print("installing the packages that build the site")
    environment.uv(
        "pip", "install", "--python", environment.python, *extras()["docs"], doing="installing the docs extra"
    )
    environment.record(docs=key)


def main():
    """Set up the environment and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", action="store_true", help="write requirements.lock instead")
    parser.add_argument("--docs", action="store_true", help="set up what builds the site of the docs instead")
    arguments = parser.parse_args()
    started = time.time()
    folder = Path(os.path.abspath(ROOT / os.path.expanduser(os.environ.get("VENV") or ".venv")))
    CACHE.mkdir(exist_ok=True)
    trust_system_certificates()
    stop_in_order()
    try:
        with open(CACHE / "setup.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second `make` in the same clone waits
            if arguments.docs:
                set_up_docs()
            elif arguments.lock:
                write_lock(Environment(folder))
            elif set_up(Environment(folder)):
                print(f"{folder} is ready after {time.time() - started:.0f} s")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the next `make setup` completes it")


if __name__ == "__main__":
    main()
