"""The main job in the small: softmax and a long-tail method on EmojiLVIS.

    python tools/demo.py
    python tools/demo.py --method seesaw --quick

Both start from the same small detector, which comes with this project and was
trained on other glyphs (configs/EmojiLVIS/pretrained.safetensors), train side
by side, one CPU core each, by tools/train_net.py with
configs/EmojiLVIS/demo_METHOD.yaml, are evaluated and compared. An interrupted
demo is continued; a finished one is shown again.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from eql_d2.analysis.final_metrics import comparison_table, read_final_metrics
from eql_d2.child_processes import STOP_SIGNALS, end_with_parent
from eql_d2.data.emoji_lvis import PRESETS, generate_emoji_lvis
from eql_d2.data.registration import datasets_root
from eql_d2.drawing.detection_sheet import save_detection_pictures
from eql_d2.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "softmax"
SECOND_STAGES = ("bags_decoupled", "crt", "lws")  # train the classifier of the finished softmax detector
METHODS = sorted(path.stem.removeprefix("demo_") for path in (ROOT / "configs" / "EmojiLVIS").glob("demo_*.yaml"))
QUICK = ("SOLVER.MAX_ITER", "100", "SOLVER.STEPS", "(75,)", "SOLVER.CHECKPOINT_PERIOD", "50")
PROGRESS = [
    (re.compile(r"eta: (\S+)\s+iter: (\d+)\s+total_loss: (\S+)"), "step {1}, loss {2}, {0} left"),
    (re.compile(r"Inference done (\S+)\. .*ETA=(\S+)"), "evaluating image {0}, {1} left"),
]
SECONDS_BETWEEN_LINES = 10.0  # where the output is no terminal
SECONDS_TO_STOP = 60.0  # for the step at hand and its checkpoint


class Training:
    """One training and its evaluation in a process of its own, as a user would run it.

    Args:
        method: of ``configs/EmojiLVIS/demo_METHOD.yaml``.
        run: its folder.
        overrides: keys and values of the config.
    """

    def __init__(self, method: str, run: Path, *overrides: str) -> None:
        self.method, self.run = method, run
        self.state = "starting"
        config = Path("configs", "EmojiLVIS", f"demo_{method}.yaml")
        command = [sys.executable, "tools/train_net.py", "--config-file", str(config)]
        if (run / "last_checkpoint").exists():
            command.append("--resume")
        # One core each: a loader of its own would take the other training's.
        command += ["OUTPUT_DIR", str(run), "DATALOADER.NUM_WORKERS", "0", *overrides]
        print(f"$ python {' '.join(command[1:])}\n  full log: {run / 'log.txt'}", flush=True)
        run.mkdir(parents=True, exist_ok=True)
        with (run / "stderr.txt").open("w") as stderr:
            # A session of its own: Ctrl-C reaches it through this process alone.
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            for pattern, text in PROGRESS:
                if found := pattern.search(line):
                    self.state = text.format(*found.groups())

    def finish(self) -> str:
        """Wait for its end; what went wrong, or nothing."""
        status = self.process.wait()
        self._reader.join()
        self.state = "finished" if not status else "failed"
        if not status:
            return ""
        said = (self.run / "stderr.txt").read_text()[-2000:].strip()
        return f"{self.method}: {said or f'ended with status {status}'}"

    def stop(self) -> None:
        """Tell it to write a checkpoint and end; end it if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--method",
        default="bags",
        choices=METHODS,
        metavar="METHOD",
        help=f"what to compare softmax with (default: bags): {', '.join(METHODS)}",
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the training: a minute, to see that it runs")
    arguments = parser.parse_args()
    start = time.monotonic()
    os.chdir(ROOT)  # configs and datasets are found from here
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    data = generate_emoji_lvis(PRESETS["demo"], datasets_root() / "emoji_lvis")
    folder = Path("output", "demo_quick" if arguments.quick else "demo")
    methods = list(dict.fromkeys((BASELINE, arguments.method)))
    overrides = QUICK if arguments.quick else ()
    if arguments.method in SECOND_STAGES:
        train([BASELINE], folder, *overrides)
        weights = ("MODEL.WEIGHTS", str(folder / BASELINE / "model_final.pth"))
        train([arguments.method], folder, *overrides, *weights)
    else:
        train(methods, folder, *overrides)
    results = {m: folder / m / "inference" / "emoji_lvis_demo_val" / "lvis_instances_results.json" for m in methods}
    picture = folder / arguments.method / "detections.png"
    save_detection_pictures(results, data / "val.json", data, picture)
    show({method: folder / method for method in methods}, picture, time.monotonic() - start, arguments.quick)


def stop(number: int, frame: Any) -> None:
    """End by an exception, which ends the trainings."""
    raise KeyboardInterrupt


def has_results(run: Path) -> bool:
    """Whether a run has finished and was evaluated."""
    try:
        read_final_metrics(run)
    except UserError:
        return False
    return (run / "model_final.pth").exists()


def train(methods: list[str], folder: Path, *overrides: str) -> None:
    """Train and evaluate those that are not finished, side by side, and tell how far they are."""
    trainings: list[Training] = []
    try:
        for method in methods:
            if not has_results(folder / method):
                trainings.append(Training(method, folder / method, *overrides))
        told = time.monotonic()
        while any(training.process.poll() is None for training in trainings):
            time.sleep(0.5)
            if any(training.process.poll() for training in trainings):
                break  # one has failed: the other need not go on
            if sys.stdout.isatty() or time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                show_progress(trainings)
        failed = next((training for training in trainings if training.process.poll()), None)
        if failed is not None:
            for training in trainings:
                training.stop()
            sys.exit(f"\n{failed.finish()}")
        for training in trainings:
            training.finish()
    except KeyboardInterrupt:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second one must not leave a training behind
        print("\nStopping; the step at hand is finished first …", flush=True)
        for training in trainings:
            training.process.terminate()
        for training in trainings:
            training.stop()
        sys.exit("Stopped. The same command goes on from here.")


def show_progress(trainings: list[Training]) -> None:
    """One line for all trainings, which replaces the last on a terminal."""
    line = " | ".join(f"{training.method}: {training.state}" for training in trainings)
    rewind, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
    print(rewind + line, end=end, flush=True)


def show(runs: dict[str, Path], picture: Path, seconds: float, quick: bool) -> None:
    """Print the table, where the pictures are, and what to do next."""
    print("\n\nLVIS metrics in percent on EmojiLVIS's validation set (60 classes):\n")
    print(comparison_table({method: read_final_metrics(run) for method, run in runs.items()}))
    print("\nAPr, APc, APf: rare, common and frequent classes. Both trained in this run, from the same weights.")
    if quick:
        print("This was the quick form: too short a training to compare methods; leave --quick out.")
    folder = picture.parent.parent
    print(f"Ground truth and detections:  {picture}")
    print(f"Models, logs, per-class AP:   {folder} (delete it to train again)")
    print(f"The demo took {seconds:.0f} s.")
    python, folders = os.path.relpath(Path(sys.executable).parent / "python"), " ".join(map(str, runs.values()))
    print(
        f"Next: one page on these runs with `{python} tools/report.py --runs {folders}`; your own data with "
        "tools/start_project.py (docs/your_data.md)."
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")
