"""Train and evaluate a detector by a lazy config.

A lazy config (Detectron2's LazyConfig) is a Python file; those of this project
are in configs/lazy. All is as with train_net.py. Takes Detectron2's own
arguments: --config-file, --num-gpus, --num-machines, --machine-rank,
--dist-url, --eval-only, --resume, and overrides as train.max_iter=1000. With
train.device=cpu, --num-gpus N runs N processes on the CPU. Under torchrun or
srun it joins the processes they started.

    python tools/lazyconfig_train_net.py \\
        --config-file lazy/LVISv1/mask_rcnn_R50_FPN/eql.py \\
        train.output_dir=output/eql
"""

import argparse
from typing import Any

from eql_d2.engine import default_argument_parser, run_tool
from eql_d2.engine.lazy_config import load_lazy_config
from eql_d2.engine.lazy_trainer import LazyTrainer, evaluate_lazy, load_trained_lazily, setup_lazy


def main(args: argparse.Namespace) -> None:
    """One process of a run."""
    cfg = setup_lazy(args)
    if args.eval_only:
        evaluate_lazy(cfg, load_trained_lazily(cfg, args.resume))
    else:
        trainer = LazyTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


def start_options_of(args: argparse.Namespace) -> dict[str, Any]:
    """How the config's processes are to be started."""
    train = load_lazy_config(args.config_file, args.opts).train
    return {"device": str(train.device), "timeout": train.collective_timeout, "stop_grace": train.stop_grace}


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.description, parser.epilog = __doc__, None
    run_tool(main, parser, start_options_of)
