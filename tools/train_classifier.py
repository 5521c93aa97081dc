"""Train and evaluate an image classifier.

Takes Detectron2's own arguments, as train_net.py: --config-file, --num-gpus, --num-machines, --machine-rank,
--dist-url, --eval-only, --resume, and KEY VALUE overrides of the config. With MODEL.DEVICE cpu, --num-gpus N runs N
processes on the CPU. Under torchrun or srun it joins the processes they started.
"""

import argparse
import sys

from eql_d2.classification.trainer import CLASSIFICATION, ClassifierTrainer
from eql_d2.engine import default_argument_parser, launch, leave, load_config, setup
from eql_d2.errors import UserError


def main(args: argparse.Namespace) -> None:
    """One process of a run."""
    cfg = setup(args, CLASSIFICATION)
    if args.eval_only:
        ClassifierTrainer.test(cfg, ClassifierTrainer.build_trained_model(cfg, args.resume))
    else:
        trainer = ClassifierTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.description = __doc__
    parser.set_defaults(dist_url="auto")  # Detectron2's default is one port for all runs of a user
    arguments = parser.parse_args()
    try:
        launch(
            main,
            device=load_config(arguments.config_file, arguments.opts).MODEL.DEVICE,
            num_processes_per_machine=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    leave()
