"""Importing the package registers its own names, and changes nothing that was there before."""

import subprocess
import sys

from tests.conftest import ROOT

# Runs in a process of its own: this one has imported the package long since.
PROGRAM = """
import importlib, logging, os, pkgutil, random, signal, sys, threading, warnings
import cv2, matplotlib, numpy, torch, torchvision, PIL.Image, tensorboard
import detectron2, detectron2.checkpoint, detectron2.export, detectron2.model_zoo
from detectron2 import modeling
from detectron2.data import DatasetCatalog, MetadataCatalog
import detectron2.engine, detectron2.evaluation, detectron2.utils.visualizer
import torch.distributed, torch.multiprocessing, torch.utils.data, torch.utils.tensorboard

REGISTRIES = [value for name, value in vars(modeling).items() if name.endswith("_REGISTRY")]
assert len(REGISTRIES) >= 6


def entries():
    state = {("dataset", name): DatasetCatalog[name] for name in DatasetCatalog.list()}
    for name in MetadataCatalog.list():
        state |= {("metadata", name, key): repr(value) for key, value in MetadataCatalog.get(name).as_dict().items()}
    for registry in REGISTRIES:
        state |= {(registry._name, name): value for name, value in registry}
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            state["logger", name] = (logger.level, list(logger.handlers), list(logger.filters), logger.propagate)
    state |= {("environment", name): value for name, value in os.environ.items()}
    state |= {("rc", name): repr(value) for name, value in matplotlib.rcParams.items()}
    return state


def globals_():
    return {
        "warnings": [tuple(map(str, rule)) for rule in warnings.filters],
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.backends.cudnn.benchmark,
                  torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "random": (hash(random.getstate()), torch.random.get_rng_state().sum().item(),
                   numpy.random.get_state()[1].sum()),
        "cv2": cv2.getNumThreads(),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "path": list(sys.path),
        "folder": os.getcwd(),
        "environment": sorted(os.environ),
        "pillow": PIL.Image.MAX_IMAGE_PIXELS,
        "excepthook": sys.excepthook,
        "numpy": str(numpy.geterr()),
        "lvis classes": len(MetadataCatalog.get("lvis_v1_train").thing_classes),
    }


before, globals_before = entries(), globals_()
import eql_d2
after_one = entries()
for module in pkgutil.walk_packages(eql_d2.__path__, "eql_d2."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = entries()
changed = [key for key, value in before.items() if key not in after or after[key] != value]
assert not changed, changed
for name, value in globals_before.items():
    assert globals_()[name] == value, (name, value, globals_()[name])
# Importing the rest of the package adds nothing that the first line did not.
late = [key for key in after if key not in after_one and key[0] not in ("logger", "rc", "environment")]
assert not late, late
new = {key[1] for key in after_one if key not in before}
for name in ("LongTailROIHeads", "LongTailCascadeROIHeads", "LongTailRPN", "NormedMaskRCNNConvUpsampleHead",
             "ImageClassifier", "CifarResNet", "emoji_lvis_demo_train", "openimages_challenge2019_val"):
    assert name in new, name

cfg = detectron2.config.get_cfg()
eql_d2.add_eql_d2_config(cfg)
from eql_d2.data.category_counts import dataset_counts
assert dataset_counts(("lvis_v1_train",)).num_images == 99388
assert dataset_counts(("lvis_v0.5_val",)).num_classes == 1230
assert {key: value for key, value in entries().items() if key in before} == before
print("all is as before")
"""


def test_importing_everything_changes_nothing_that_was_there():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "all is as before\n", done.stderr[-3000:]


def test_the_losses_work_without_detectron2():
    program = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import torch, eql_d2.losses as losses, eql_d2\n"
        "loss = losses.SeesawLoss(num_classes=3)\n"
        "print(sorted(loss(torch.zeros(2, 5), torch.tensor([0, 3]))), hasattr(eql_d2, 'add_eql_d2_config'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stderr[-3000:]
