"""Train and evaluate a detector.

Takes Detectron2's own arguments: --config-file, --num-gpus, --num-machines,
--machine-rank, --dist-url, --eval-only, --resume, and KEY VALUE overrides of
the config. With MODEL.DEVICE cpu, --num-gpus N runs N processes on the CPU.
Under torchrun or srun it joins the processes they started.

    python tools/train_net.py \\
        --config-file EmojiLVIS/demo_eql.yaml OUTPUT_DIR output/eql SEED 1
"""

import argparse

import eql_d2.modeling  # noqa: F401  (registers the ROI heads)
from eql_d2.engine import LongTailTrainer, default_argument_parser, run_tool, setup


def main(args: argparse.Namespace) -> None:
    """One process of a run."""
    cfg = setup(args)
    if args.eval_only:
        model = LongTailTrainer.build_trained_model(cfg, args.resume)
        LongTailTrainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            LongTailTrainer.test_with_TTA(cfg, model)
    else:
        trainer = LongTailTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.description, parser.epilog = __doc__, None
    parser.add_argument("--ignore", action="store_true", help="leave out defective annotations and images, and go on")
    run_tool(main, parser)
