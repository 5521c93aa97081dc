"""What Detectron2 v0.6 needs to run without compiled code on today's libraries.

Each edit names the file, how often the old text must occur, the old and the new text, and the reason.
`apply_edits` refuses to go on when a count differs, so an edit can neither be lost nor hit too much.
"""

from typing import NamedTuple


class Edit(NamedTuple):
    """One replacement in one file of the unpacked source distribution."""

    file: str
    count: int
    old: str
    new: str
    why: str


class EditError(Exception):
    """The source does not look as the table of edits expects."""


ALIAS = "NumPy 1.24 removed its aliases of Python's own types"
NO_C = "the wheel has no compiled extension: importing must work, only use may fail"
IMPORT_C = "from detectron2 import _C\n"
IMPORT_STAND_IN = "from detectron2 import _without_compiled as _C\n"
MESHGRID = "torch warns that `indexing` will have to be given; 'ij' is what it always did"

# A module that is imported in the place of the compiled one and explains itself at use.
STAND_IN = '''"""Stands in for detectron2._C, the compiled extension, which this build does not have."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(
        f"{name} needs Detectron2's compiled extension, which this build of v0.6 does not have; "
        "build the official sources instead: make setup DETECTRON2_SOURCE=<folder or git URL>"
    )
'''

# What upstream's tools/deploy/export_model.py imports: tracing and scripting, which it also has, go without caffe2.
WITHOUT_CAFFE2 = '''"""Stands in for detectron2.export.api, which needs caffe2."""

from detectron2.config import CfgNode


def add_export_config(cfg):
    """Add the option of caffe2's export, so that configs that name it are read."""
    is_frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.EXPORT_CAFFE2 = CfgNode({"USE_HEATMAP_MAX_KEYPOINT": False})
    if is_frozen:
        cfg.freeze()
    return cfg


class Caffe2Tracer:
    """Explains itself at use."""

    def __init__(self, cfg, model, inputs):
        raise NotImplementedError(
            "Caffe2Tracer needs caffe2, which torch no longer brings; trace the model instead "
            "(export_model.py --export-method tracing --format torchscript)"
        )
'''

NEW_FILES = {"detectron2/_without_compiled.py": STAND_IN, "detectron2/export/_without_caffe2.py": WITHOUT_CAFFE2}

# torchvision reads `groups` and `deformable_groups` from the shapes of weight and offset.
DEFORM_CONV = """def deform_conv(
    input,
    offset,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    deformable_groups=1,
    im2col_step=64,
):
    if input is not None and input.dim() != 4:
        raise ValueError(f"Expected 4D tensor as input, got {input.dim()}D tensor instead.")
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _DeformConv._output_size(input, weight, padding, dilation, stride)  # refuses a small input
    return deform_conv2d(input, offset, weight, None, stride, padding, dilation)


def modulated_deform_conv(
    input,
    offset,
    mask,
    weight,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    deformable_groups=1,
):
    return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
"""

LVIS_WITH_FLOAT = """    from types import SimpleNamespace

    import lvis.eval
    import numpy as np
    from lvis import LVISEval, LVISResults

    lvis.eval.np = SimpleNamespace(**{**vars(np), "float": float})
"""

SCALE_GRADIENT = "box_features = _ScaleGradient.apply(box_features, 1.0 / self.num_cascade_stages)\n"

FALL_BACK = """        if use_fast_impl:
            self._logger.warning(
                "The fast COCO evaluation is not compiled; using pycocotools instead "
                "(use_fast_impl=False chooses it without this warning)."
            )
        self._use_fast_impl = False
"""

EDITS = [
    # --- Pillow
    Edit(
        "detectron2/data/transforms/transform.py",
        1,
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed LINEAR, the old name of BILINEAR",
    ),
    # --- NumPy
    Edit("detectron2/data/build.py", 1, "num_classes,), dtype=np.int)", "num_classes,), dtype=int)", ALIAS),
    Edit("detectron2/data/build.py", 1, "0)], dtype=np.int\n", "0)], dtype=int\n", ALIAS),
    Edit("detectron2/data/datasets/pascal_voc.py", 1, "dtype=np.str)", "dtype=str)", ALIAS),
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", 2, ".astype(np.bool)", ".astype(bool)", ALIAS),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", 2, "dtype=np.int)", "dtype=int)", ALIAS),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", 2, "dtype=np.float)", "dtype=float)", ALIAS),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", 3, ".astype(np.float)", ".astype(float)", ALIAS),
    Edit(
        "detectron2/layers/mask_ops.py",
        1,
        "np.array(mask, copy=False)",
        "np.asarray(mask)",
        "NumPy 2 raises where copy=False cannot be granted",
    ),
    Edit("detectron2/structures/masks.py", 2, ".astype(np.bool)", ".astype(bool)", ALIAS),
    Edit("detectron2/structures/masks.py", 1, "dtype=np.bool)", "dtype=bool)", ALIAS),
    Edit("detectron2/utils/video_visualizer.py", 1, "dtype=np.bool)", "dtype=bool)", ALIAS),
    Edit("detectron2/utils/visualizer.py", 3, ".astype(np.bool)", ".astype(bool)", ALIAS),
    Edit(
        "detectron2/evaluation/lvis_evaluation.py",
        1,
        "    from lvis import LVISEval, LVISResults\n",
        LVIS_WITH_FLOAT,
        "the package lvis uses np.float, one of NumPy's former aliases; its own copy of the namespace still has it",
    ),
    # --- Python
    Edit(
        "detectron2/data/common.py",
        1,
        "self._rng.sample(self._fallback_candidates, k=1)[0]",
        "self._rng.sample(list(self._fallback_candidates), k=1)[0]",
        "Python 3.11 no longer samples from a set",
    ),
    # --- setuptools
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        1,
        "import pkg_resources\n",
        "import importlib.resources\n",
        "setuptools 81 removed pkg_resources",
    ),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        1,
        "    cfg_file = pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )\n",
        "    cfg_file = str(\n"
        '        importlib.resources.files("detectron2.model_zoo").joinpath("configs", config_path)\n'
        "    )\n",
        "setuptools 81 removed pkg_resources",
    ),
    # --- torch
    Edit(
        "detectron2/modeling/anchor_generator.py",
        1,
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        MESHGRID,
    ),
    Edit(
        "projects/Panoptic-DeepLab/panoptic_deeplab/post_processing.py",
        1,
        "torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n",
        'torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n        indexing="ij",\n',
        MESHGRID,
    ),
    Edit(
        "detectron2/engine/hooks.py",
        2,
        "isinstance(self.scheduler, torch.optim.lr_scheduler._LRScheduler)",
        "isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler)",
        "torch 2 derives its schedulers from LRScheduler; their state was left out of checkpoints",
    ),
    Edit(
        "detectron2/export/__init__.py",
        1,
        "from .api import *\n",
        "try:\n    from .api import *\nexcept ImportError:  # needs caffe2\n    from ._without_caffe2 import *\n",
        "torch no longer brings caffe2; tracing, which FLOP counts use too, works without it",
    ),
    Edit(
        "detectron2/modeling/roi_heads/cascade_rcnn.py",
        1,
        "        " + SCALE_GRADIENT,
        "        if self.training:\n            " + SCALE_GRADIENT,
        "torch does not trace a Python function of gradients; the main branch has the same",
    ),
    # --- no compiled extension
    Edit("detectron2/layers/deform_conv.py", 1, IMPORT_C, IMPORT_STAND_IN, NO_C),
    Edit("detectron2/layers/roi_align_rotated.py", 1, IMPORT_C, IMPORT_STAND_IN, NO_C),
    Edit("detectron2/layers/rotated_boxes.py", 1, IMPORT_C, IMPORT_STAND_IN, NO_C),
    Edit("detectron2/evaluation/fast_eval_api.py", 1, IMPORT_C, IMPORT_STAND_IN, NO_C),
    Edit(
        "detectron2/layers/nms.py",
        1,
        "from torchvision.ops import nms  # BC-compat\n",
        "from torchvision.ops import nms  # BC-compat\n\n" + IMPORT_STAND_IN,
        NO_C,
    ),
    Edit(
        "detectron2/layers/nms.py",
        1,
        "return torch.ops.detectron2.nms_rotated(",
        "return _C.nms_rotated(",
        "torch.ops.detectron2 is registered by the compiled extension",
    ),
    Edit(
        "detectron2/layers/deform_conv.py",
        1,
        "deform_conv = _DeformConv.apply\nmodulated_deform_conv = _ModulatedDeformConv.apply\n",
        DEFORM_CONV,
        "torchvision has the same operator, for CPU and GPU, forward and backward",
    ),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        1,
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "",
        "the fast evaluation is compiled code",
    ),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        1,
        "        self._use_fast_impl = use_fast_impl\n",
        FALL_BACK,
        "the fast evaluation is compiled code, and the default",
    ),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        1,
        "(COCOeval_opt if use_fast_impl else COCOeval)(",
        "COCOeval(",
        "the fast evaluation is compiled code",
    ),
]


def apply_edits(tree, edits=EDITS, new_files=NEW_FILES):
    """Apply `edits` to the unpacked source in `tree` (a Path) and add `new_files` (path: text)."""
    for edit in edits:
        path = tree / edit.file
        if not path.is_file():
            raise EditError(f"{edit.file}: no such file, but an edit is meant for it ({edit.why})")
        text = path.read_text(encoding="utf-8")
        found = text.count(edit.old)
        if found != edit.count:
            raise EditError(f"{edit.file}: {edit.old!r} found {found} times, expected {edit.count} ({edit.why})")
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    for name, text in new_files.items():
        path = tree / name
        if path.exists():
            raise EditError(f"{name}: exists already, but is meant to be new")
        path.write_text(text, encoding="utf-8")
