"""What the tools read of ``train``; eql_d2/engine/lazy_trainer.py lists what may be added."""

import torch
from detectron2 import model_zoo

train = model_zoo.get_config("common/train.py").train
train.device = "cuda" if torch.cuda.is_available() else "cpu"
train.seed = -1  # drawn at the start
