"""What tools/set_up.py builds an environment with: a Python of 3.10 to 3.14, and uv; fetched where there is none.

Runs on any Python 3.7+ with its standard library only.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from child_processes import UserError, run

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"

UV_VERSION = "0.13.9"
UV_AT_LEAST = (0, 6)
PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
FETCHED_PYTHON = "3.11"  # on a machine without one of them; what the tests run on
PROBE = "import sys; print(*sys.version_info[:2], sys.executable)"


def probe(python):
    """(version, path) of a Python given by name or path; (None, None) where it does not run."""
    try:
        answer = subprocess.run([python, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        major, minor, path = answer.stdout.decode().strip().split(" ", 2)
    except (OSError, ValueError):
        return None, None
    return (int(major), int(minor)), path


def requested_python():
    """(version, path) of the Python the user asks for by PYTHON, or None."""
    name = os.environ.get("PYTHON")
    if not name:
        return None
    number = re.match(r"3\.(\d+)$", name)  # a version instead of a name: what is on PATH, or uv fetches it
    asked_for = (3, int(number.group(1))) if number else None
    version, path = probe("python" + name if number else os.path.expanduser(name))
    if asked_for in PYTHONS and version != asked_for:
        return fetch_python(name)
    if version is None:
        raise UserError(f"PYTHON={name}: there is no such Python; name one of version 3.10 to 3.14")
    if version not in PYTHONS:
        raise UserError(f"PYTHON={name}: this is Python {version[0]}.{version[1]}; 3.10 to 3.14 is needed")
    return version, path


def find_python():
    """(version, path) of the Python to build on: this one if it is in range, one on PATH, or one that uv fetches."""
    for name in (sys.executable, "python3.13", "python3.12", "python3.11", "python3.10", "python3.14"):
        version, path = probe(name)
        if version in PYTHONS:
            return version, path
    return fetch_python()


@functools.lru_cache(maxsize=1)
def fetch_python(wanted=None):
    """(version, path) of a Python that uv keeps for the user, and fetches where it has none.

    `wanted` is the version that the user asks for; None is FETCHED_PYTHON, as the machine has none that will do.
    """
    here = f"python3 is {sys.version_info[0]}.{sys.version_info[1]}"
    why = f"PYTHON={wanted}" if wanted else f"{here}; 3.10 to 3.14 is needed"
    wanted, asked_for = wanted or FETCHED_PYTHON, wanted
    print(f"fetching Python {wanted} by uv ({why})")
    uv = find_uv(sys.executable)
    env = environment_for(uv, sys.executable)
    # Of uv's own Pythons, and nothing linked into the user's ~/.local/bin.
    env.update(UV_PYTHON_DOWNLOADS="automatic", UV_PYTHON_PREFERENCE="only-managed", UV_PYTHON_INSTALL_BIN="0")
    done = subprocess.run([uv, "python", "install", wanted], env=env, capture_output=True, text=True)
    if done.returncode == 0:
        found = subprocess.run([uv, "python", "find", wanted], env=env, capture_output=True, text=True)
        version, path = probe(found.stdout.strip())
        if version in PYTHONS:
            return version, path
    said = done.stderr.strip().splitlines() or ["no reason given"]
    reason = said[-1].replace("cause:", "").strip()
    if asked_for:
        raise UserError(
            f"PYTHON={asked_for}: there is no python{asked_for} here, and uv could not fetch one ({reason}); install "
            "it, or name another of 3.10 to 3.14"
        )
    raise UserError(
        f"Python 3.10 to 3.14 is needed ({here}), and uv could not fetch one ({reason}); "
        "install one or name it: PYTHON=..."
    )


def uv_version(uv):
    """The version of a uv as a tuple, () where it does not run."""
    try:
        text = subprocess.run([uv, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    except OSError:
        return ()
    found = re.search(r"(\d+)\.(\d+)", text.decode())
    return tuple(map(int, found.groups())) if found else ()


def find_uv(python):
    """A recent enough uv: on PATH, kept in the clone, or fetched into the clone by `python -m pip`."""
    on_path = shutil.which("uv")
    if on_path and uv_version(on_path) >= UV_AT_LEAST:
        return on_path
    kept = CACHE / "uv" / "bin" / "uv"
    if uv_version(str(kept)) < UV_AT_LEAST:
        print(f"fetching uv {UV_VERSION}")
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode != 0:
            raise UserError(
                f"{python} has no pip, and there is no uv; install either (Debian: apt install python3-pip)"
            )
        shutil.rmtree(CACHE / "uv", ignore_errors=True)
        # --target writes to the given folder only: neither root nor an unmanaged Python is needed.
        command = [python, "-m", "pip", "install", "--quiet", "--target", CACHE / "uv", f"uv=={UV_VERSION}"]
        run(command, "fetching uv", env=dict(os.environ, PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0"))
    return str(kept)


def environment_for(uv, python):
    """Variables for uv and the installer; pip's choice of an index holds for uv too."""
    env = dict(os.environ, UV=uv, UV_PYTHON_DOWNLOADS="never")
    for name in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "CONDA_PREFIX"):
        env.pop(name, None)
    if not (env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL")):
        index = env.get("PIP_INDEX_URL")
        if not index:
            answer = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True)
            found = re.search(r"^(?:global|install|site|user)\.index-url='(.*)'$", answer.stdout, re.MULTILINE)
            index = found and found.group(1)
        if index:
            env["UV_DEFAULT_INDEX"] = index
    return env
