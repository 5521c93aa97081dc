"""Makes mutants of the package and says which of them no test notices: ``make mutants``.

For each mutant of a seeded sample the tests that mirror its file run first, then those that name its module, then those
of its room, the quickest first, until one fails. Everything happens in a temporary copy; the repository is never
changed.

Mutants that change nothing are known by ``equivalent.yaml``, each with the reason, and are left out of the sample.
``--past`` tries the changes of ``past.yaml`` instead: those that no test noticed once.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.running import ROOT, TestRunner, copy_of_repository

AREAS = {
    "losses": ("losses/*.py", "long_tail/*.py"),
    "modeling": ("modeling/*.py",),
    "samplers": ("data/training/*sampler*.py", "data/training/loader.py", "data/category_counts.py"),
    "mapper": ("data/training/mapper.py", "data/training/image_targets.py", "data/training/ignore_regions.py"),
    "cache": ("data/annotations/*.py",),
    "metrics": ("evaluation/metrics/*.py",),
    "checkpoint": ("engine/checkpoint.py",),
    "trainer": ("engine/trainer.py", "engine/starting.py", "engine/evaluating.py", "engine/class_watch.py"),
    "launcher": ("engine/launch.py",),
    "collect": ("reproduction/collect.py",),
}
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
PAST = Path(__file__).with_name("past.yaml")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("--areas", nargs="+", choices=AREAS, default=list(AREAS), help="what to mutate (default: all)")
    parser.add_argument("--number", type=int, default=300, help="size of the sample (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--match", default="", help="only mutants whose file and line contain this text")
    parser.add_argument("--seconds", type=float, default=120, help="most CPU seconds of tests a mutant (default 120)")
    parser.add_argument("--past", action="store_true", help="try the changes that no test noticed once")
    parser.add_argument("--output", type=Path, default=Path("output/mutants"), help="folder of the table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the sample; the exit code is 1 if a mutant survived."""
    options = parse_arguments(arguments)
    if options.past:
        return try_past(options.match, options.output)
    sample = choose(options.areas, options.number, options.seed, options.match)
    options.output.mkdir(parents=True, exist_ok=True)
    results: list[dict] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = copy_of_repository(Path(folder))
        runner = TestRunner(copy, options.output / "seconds.json")
        for number, mutant in enumerate(sample, 1):
            results.append(try_mutant(runner, copy, mutant, options.seconds))
            report(results, options.output)
            left = (time.monotonic() - start) / number * (len(sample) - number)
            state = "survived" if results[-1]["noticed_by"] is None else "noticed"
            print(
                f"{number}/{len(sample)}, {results_of(results)}, {left / 60:.0f} minutes left: {state} {mutant.path}:"
                f"{mutant.line} {mutant.after}",
                flush=True,
            )
    print(f"\n{(options.output / 'survivors.md').read_text()}")
    return int(any(result["noticed_by"] is None for result in results))


def try_past(match: str, output: Path) -> int:
    """Try the changes of ``past.yaml`` on the test file of each; the exit code is 1 if one is not noticed."""
    output.mkdir(parents=True, exist_ok=True)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = copy_of_repository(Path(folder))
        runner = TestRunner(copy, output / "seconds.json")
        for entry in (entry for entry in past() if match in f"{entry['file']} {entry['before']}"):
            passes = runner.seconds(entry["tests"]) is not None  # on the unchanged code: else it says nothing
            source = (copy / entry["file"]).read_text()
            with runner.changed(entry["file"], source.replace(entry["before"], entry["after"]).encode()):
                noticed = passes and runner.notice([entry["tests"]])
            survived += not noticed
            print(f"{'noticed' if noticed else 'SURVIVED'} {entry['file']}: {entry['after'].strip()}", flush=True)
    return int(survived > 0)


def past() -> list[dict[str, str]]:
    """The changes that no test noticed once: file, text before and after, and the test file that notices."""
    return yaml.safe_load(PAST.read_text())


def choose(areas: Iterable[str], number: int, seed: int, match: str = "") -> list[Mutant]:
    """A sample of the mutants of some areas, without those that are known to change nothing."""
    known = {key for key, _ in equivalent()}
    found = [
        mutant
        for mutant in all_mutants(areas)
        if mutant.key not in known and match in f"{mutant.path}:{mutant.line} {mutant.before}"
    ]
    return random.Random(seed).sample(found, min(number, len(found)))


def all_mutants(areas: Iterable[str] = tuple(AREAS)) -> list[Mutant]:
    """Every mutant of some areas."""
    patterns = [pattern for area in areas for pattern in AREAS[area]]
    files = sorted({path for pattern in patterns for path in (ROOT / "eql_d2").glob(pattern)})
    return [mutant for file in files for mutant in mutants_of(str(file.relative_to(ROOT)), file.read_bytes())]


def equivalent() -> list[tuple[tuple[str, str, str], str]]:
    """(key, reason) of the mutants that change nothing."""
    entries = yaml.safe_load(EQUIVALENT.read_text()) or []
    return [((entry["file"], entry["before"], entry["after"]), entry["reason"]) for entry in entries]


def try_mutant(runner: TestRunner, copy: Path, mutant: Mutant, seconds: float) -> dict:
    """Run tests on a mutant until one notices it."""
    changed = mutant.apply((copy / mutant.path).read_bytes())
    run: list[str] = []
    noticed_by = None
    for name, wave in waves_of_tests(copy, mutant.path).items():
        chosen = []
        for usual, test in sorted((usual, test) for test in wave if (usual := runner.seconds(test)) is not None):
            if usual <= seconds or not run:
                chosen.append(test)
                seconds -= usual
        if not chosen:
            continue
        run += chosen
        with runner.changed(mutant.path, changed):
            if runner.notice(chosen):
                noticed_by = name
                break
    entry = {key: getattr(mutant, key) for key in ("path", "line", "kind", "before", "after")}
    return {**entry, "noticed_by": noticed_by, "test_files": run}


def waves_of_tests(copy: Path, path: str) -> dict[str, list[str]]:
    """Test files for a file of the package, in the order in which they run."""
    module = Path(path).relative_to("eql_d2").with_suffix("")
    dotted = ".".join(["eql_d2", *module.parts])
    files = sorted(str(file.relative_to(copy)) for file in (copy / "tests").rglob("test_*.py"))
    files = [file for file in files if not file.startswith("tests/mutation/")]
    mirror = str(Path("tests", module.parent, f"test_{module.name}.py"))
    naming = [file for file in files if dotted in (copy / file).read_text()]
    room = [file for file in files if Path(file).parent == Path("tests", module.parent)]
    waves: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, wave in (("mirror", [file for file in files if file == mirror]), ("module", naming), ("room", room)):
        waves[name] = [file for file in wave if file not in seen]
        seen.update(wave)
    return waves


def results_of(results: list[dict]) -> str:
    """The share that was noticed, in words."""
    noticed = sum(result["noticed_by"] is not None for result in results)
    return f"{noticed} of {len(results)} noticed ({100 * noticed / len(results):.1f} %)"


def report(results: list[dict], folder: Path) -> None:
    """Write all results as JSON, and the survivors as a table."""
    (folder / "mutants.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))
    lines = [f"{results_of(results)}.", "", "| where | what | before | after | test files |", "| --- " * 5 + "|"]
    for result in results:
        if result["noticed_by"] is None:
            before, after = (result[key].replace("|", "\\|") for key in ("before", "after"))
            where = f"`{result['path']}:{result['line']}`"
            lines.append(f"| {where} | {result['kind']} | `{before}` | `{after}` | {len(result['test_files'])} |")
    (folder / "survivors.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    sys.exit(main())
