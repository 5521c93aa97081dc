"""Train and evaluate a detector.

Takes Detectron2's own arguments: --config-file, --num-gpus, --num-machines, --machine-rank, --dist-url,
--eval-only, --resume, and KEY VALUE overrides of the config. With MODEL.DEVICE cpu, --num-gpus N runs N
processes on the CPU. Under torchrun or srun it joins the processes they started.
"""

import argparse
import sys

from detectron2.engine import default_argument_parser
from detectron2.utils import comm

import eql_d2.modeling  # noqa: F401  (registers the ROI heads)
from eql_d2.engine import LongTailTrainer, launch, load_config, setup
from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.errors import UserError


def main(args: argparse.Namespace) -> None:
    """One process of a run."""
    try:
        cfg = setup(args)
        if args.eval_only:
            model = LongTailTrainer.build_model(cfg)
            AtomicCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
            LongTailTrainer.test(cfg, model)
        else:
            trainer = LongTailTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()
    except UserError as error:
        sys.stderr.write(
            f"error (process {comm.get_rank()}): {error}\n" if comm.get_rank() else f"error: {error}\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.description = __doc__
    arguments = parser.parse_args()
    try:
        device = load_config(arguments.config_file, arguments.opts).MODEL.DEVICE
        launch(
            main,
            device=device,
            num_processes_per_machine=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
