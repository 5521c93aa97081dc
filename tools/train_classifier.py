"""Train and evaluate an image classifier.

Takes Detectron2's own arguments, as train_net.py: --config-file, --num-gpus,
--num-machines, --machine-rank, --dist-url, --eval-only, --resume, and KEY
VALUE overrides of the config. With MODEL.DEVICE cpu, --num-gpus N runs N
processes on the CPU. Under torchrun or srun it joins the processes they
started.

    python tools/train_classifier.py \\
        --config-file classification/digits_lt/seql.yaml OUTPUT_DIR output/seql
"""

import argparse

from eql_d2.classification.classifier_trainer import CLASSIFICATION, ClassifierTrainer
from eql_d2.engine import default_argument_parser, run_tool, setup


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
    parser.description, parser.epilog = __doc__, None
    run_tool(main, parser)
