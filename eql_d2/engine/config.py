"""Configuration keys of the engine: what trains, what is watched, values that follow from the data."""

from detectron2.config import CfgNode


def add_engine_config(cfg: CfgNode) -> None:
    """Add the keys, in place."""
    cfg.ENGINE = CfgNode()
    # Python modules to import before anything is built, e.g. ("my_losses",) with the user's own box predictor;
    # found as usual, or in the current folder.
    cfg.ENGINE.IMPORT = ()
    # Iterations between two logs of what a method balances: each class's gradients and loss state. 0: never.
    cfg.ENGINE.WATCH_PERIOD = 100
    # OpenMP threads of each training process on a CPU; 0 leaves PyTorch's choice.
    cfg.ENGINE.CPU_THREADS = 0
    # Minutes that a process waits for the others before the run ends; loading and evaluating large sets, or a slow
    # network drive, may keep one of them busy for long.
    cfg.ENGINE.COLLECTIVE_TIMEOUT = 30.0
    # Seconds between a signal to stop (SIGTERM, SIGINT, SIGHUP) and the end of processes that have not finished their
    # step and written the checkpoint by then. Less than a scheduler leaves before it kills (Slurm's KillWait: 30).
    cfg.ENGINE.STOP_GRACE = 25.0

    # Experiment trackers that get what metrics.json gets, the config and the final table: "wandb" (Weights & Biases),
    # "mlflow". Their own environment variables say where and how, e.g. WANDB_MODE=offline, MLFLOW_TRACKING_URI.
    cfg.ENGINE.TRACKERS = ()
    # The project of Weights & Biases and the experiment of MLflow; a run is named by the end of OUTPUT_DIR.
    cfg.ENGINE.TRACKER_PROJECT = "eql_d2"

    # Shell-style name patterns of the parameters that train, e.g. "roi_heads.box_predictor*.cls_score.*"; empty: all.
    cfg.SOLVER.TRAINABLE = ()

    # SGD or AdamW; both take BASE_LR and WEIGHT_DECAY.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Each stage of a backbone of timm learns this many times as fast as the one above it, in (0, 1]; 1: all alike.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # What SOLVER.AMP.ENABLED casts to: float16 (GPUs; the loss is scaled) or bfloat16 (also on the CPU).
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Exponential moving average of weights, batch norm's statistics and what losses collect: evaluated beside the model
    # (metrics end in _EMA), and written as model_final_ema.pth.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    # Share of the average that stays with each step, in (0, 1).
    cfg.SOLVER.EMA.DECAY = 0.999
    # Metric by which the best checkpoint is kept as model_best.pth, as segm/APr; empty: none. Needs TEST.EVAL_PERIOD.
    cfg.SOLVER.BEST_METRIC = ""
    # Most checkpoints that a run keeps besides model_final.pth and model_best.pth; 0: all.
    cfg.SOLVER.MAX_CHECKPOINTS = 0

    # The share in (0, 1) of all class images that belongs to tail classes, from which a LAMBDA of auto follows. With
    # 0.09 it is EQL's own threshold on LVIS v0.5.
    cfg.MODEL.LONG_TAIL.TAIL_RATIO = 0.09
    # Keys that say auto, to be settled when the training data are known. They may be: NUM_CLASSES of MODEL.ROI_HEADS,
    # MODEL.RETINANET and MODEL.CLASSIFIER, and of this node PRIOR_PROB, EQL.LAMBDA, SEQL.LAMBDA, DROP_LOSS.LAMBDA and
    # BAGS.BIN_EDGES. Noted by what reads a config.
    cfg.MODEL.LONG_TAIL.AUTO = ()
