"""Data of LVIS v1.0 with this project's loaders and evaluator."""

from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from omegaconf import OmegaConf

from eql_d2.data.training.mapper import LongTailMapper
from eql_d2.engine.lazy_loader import detection_test_loader, detection_train_loader
from eql_d2.evaluation import LVISEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(detection_train_loader)(
    names="lvis_v1_train",
    mapper=L(LongTailMapper)(
        is_train=True,
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=(640, 672, 704, 736, 768, 800), sample_style="choice", max_size=1333
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        image_format="BGR",
        use_instance_mask=True,
    ),
    sampler="TrainingSampler",
    total_batch_size=16,
    num_workers=4,
)

dataloader.test = L(detection_test_loader)(
    name="lvis_v1_val",
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        image_format="${...train.mapper.image_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = L(LVISEvaluator)(
    dataset_name="${..test.name}",
    tasks=("bbox", "segm"),
    output_dir="${train.output_dir}/inference/${.dataset_name}",
)
