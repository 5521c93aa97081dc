"""Check and measure all that a GPU changes, in at most eight minutes, into a file.

    make gpu-check                # or: python tools/gpu_check.py
    make gpu-check DEVICE=cpu     # a rehearsal with small sizes, without a GPU

Beforehand: `make setup` on the machine, and nothing else. If `python
tools/make_emoji_lvis.py --preset full` has made its set, what is left of the
time goes into the first row of the table emoji_full. Parts that fail are
named; the exit status is then 1.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eql_d2.child_processes import end_with_parent

ALL_SECONDS = 480
ROOT = Path(__file__).resolve().parents[1]
EMOJI_FULL = ROOT / "datasets" / "emoji_lvis" / "full"


@dataclass(frozen=True)
class Part:
    """A command of the check.

    Attributes:
        name: what it is called.
        command: arguments of Python.
        limit: seconds after which it is stopped.
        output: JSON file that it writes; None: the last line of what it prints, if that is JSON.
        may_be_stopped: whether the limit is no failure.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    output: Path | None = None
    may_be_stopped: bool = False


def parts_of(device: str, folder: Path) -> list[Part]:
    """All parts, in order; on a CPU with small sizes."""
    small = device == "cpu"
    of_device = ("--device", device)
    steps = ("--steps", "2" if small else "100")

    def benchmark(name: str, script: str, *options: str, limit: float) -> Part:
        output = folder / f"{name.replace(' ', '_')}.json"
        return Part(name, (f"benchmarks/{script}.py", *options, "--json", str(output)), limit, output)

    def own(name: str, *options: str, limit: float) -> Part:
        return Part(name, ("benchmarks/gpu_parts.py", name, *of_device, *options), limit)

    few = ("--rois", "64", "--repeats", "1")
    parts = [
        Part("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests/losses", "tests/modeling"), 60),
        benchmark("losses 1024", "losses", *(few if small else ("--rois", "1024")), limit=30),
        benchmark("losses 8192", "losses", *(few if small else ("--rois", "8192", "--repeats", "5")), limit=60),
        benchmark("selection", "selection", *of_device, "--repeats", "1" if small else "5", limit=30),
        benchmark("job", "job", *of_device, *(("--small", "--repeats", "1") if small else ()), limit=120),
        own("train-bf16", *steps, limit=30),
        own("train-fp16", *steps, limit=30),
        own("one-process", *steps, limit=30),
        own("compile", "--rois", "8" if small else "1024", limit=60),
    ]
    if small:  # a rehearsal may share a slow machine
        return [Part(p.name, p.command, 900, p.output) for p in parts]
    if EMOJI_FULL.is_dir():
        command = ("tools/reproduce.py", "run", "emoji_full/softmax", "--output", str(folder / "emoji_full"))
        parts.append(Part("emoji_full", command, ALL_SECONDS, may_be_stopped=True))
    return parts


def do(part: Part, left: float = math.inf) -> dict[str, Any]:
    """Run a part within its limit and the seconds left; whether it passed, its seconds, what it found or last said."""
    start = time.monotonic()
    limit = min(part.limit, max(left, 1.0))
    stopped = False
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *part.command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=end_with_parent,
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        stopped = True
        process.terminate()
        out, err = process.communicate()
    passed = process.returncode == 0 or (stopped and part.may_be_stopped)
    outcome: dict[str, Any] = {"passed": passed, "seconds": round(time.monotonic() - start, 1)}
    if stopped:
        outcome["stopped after seconds"] = round(limit, 1)
    found = _found(part, out)
    if found is not None and passed:
        outcome["found"] = found
    else:
        outcome["said"] = (out + err).splitlines()[-5:]
    return outcome


def _found(part: Part, out: str) -> Any:
    try:
        return json.loads(part.output.read_text() if part.output else out.splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return None


def machine(device: str) -> dict[str, Any]:
    """What the numbers are of."""
    import torch

    facts = {"device": device, "torch": torch.__version__, "python": sys.version.split()[0]}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "GPU": properties.name,
            "memory (GB)": round(properties.total_memory / 1e9, 1),
            "CUDA": torch.version.cuda,
        }
    return facts


def main() -> None:
    """Run all parts, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "gpu_check")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    arguments = parser.parse_args()
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU on this machine; rehearse with DEVICE=cpu (--device cpu).")
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = parts_of(arguments.device, folder)
    unknown = set(arguments.only or ()) - {part.name for part in parts}
    if unknown:
        sys.exit(f"error: There is no part {sorted(unknown)[0]!r}; parts are {', '.join(part.name for part in parts)}.")
    parts = [part for part in parts if not arguments.only or part.name in arguments.only]
    content: dict[str, Any] = {"machine": machine(arguments.device), "parts": {}}
    path = folder / f"{arguments.device}.json"
    end = time.monotonic() + (ALL_SECONDS if arguments.device == "cuda" else math.inf)
    for number, part in enumerate(parts):
        left = end - time.monotonic()
        at_most = min(left, sum(later.limit for later in parts[number:])) / 60
        print(f"{number + 1} of {len(parts)}: {part.name} (at most {at_most:.0f} min left)", flush=True)
        content["parts"][part.name] = outcome = do(part, left)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(f"   {'passed' if outcome['passed'] else 'FAILED'} in {outcome['seconds']} s", flush=True)
    failed = [name for name, outcome in content["parts"].items() if not outcome["passed"]]
    print(f"Written to {path}.")
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; {path} has the end of what they said.")


if __name__ == "__main__":
    main()
