"""What the training tools have in common on the command line."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from eql_d2.engine.config_files import check_config_files, find_config, load_config
from eql_d2.engine.launch import launch, leave, place_given_by_cluster
from eql_d2.engine.method_in_use import leaves
from eql_d2.engine.resuming import RESUME_MODES
from eql_d2.engine.stopping import RunStopped
from eql_d2.errors import ToldByAnother, UserError


def start_options_of_config(args: argparse.Namespace) -> dict[str, Any]:
    """How :func:`launch` is to start the processes, by the config that a command names."""
    cfg = load_config(args.config_file, args.opts)
    several = args.num_gpus * args.num_machines > 1 and place_given_by_cluster(os.environ) is None
    if several and not torch.cuda.is_available() and "MODEL.DEVICE" not in _keys_of(args):
        raise UserError(
            f"--num-gpus is {args.num_gpus}, but PyTorch finds no GPU; to run as many processes on the CPU, add "
            "MODEL.DEVICE cpu to the command."
        )
    return {
        "device": cfg.MODEL.DEVICE,
        "timeout": cfg.ENGINE.COLLECTIVE_TIMEOUT,
        "stop_grace": cfg.ENGINE.STOP_GRACE,
    }


def _keys_of(args: argparse.Namespace) -> set[str]:
    """The keys that a command's overrides, its config file and what that is based on name."""
    config_file = find_config(args.config_file)
    contents = check_config_files(config_file) if config_file else []
    return {*args.opts[::2], *(key for _, content in contents for key in leaves(content))}


def run_tool(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    start_options_of: Callable[[argparse.Namespace], dict[str, Any]] = start_options_of_config,
) -> None:
    """Read the command line, start the processes that it asks for, and leave; a mistake ends as one line.

    Exit status: 0 done, 1 an error, 75 stopped by a signal with a checkpoint to resume from, 128 and the number of the
    signal without one.

    Args:
        main: one process of a run, given the arguments.
        parser: Detectron2's ``default_argument_parser()``, perhaps with more arguments.
        start_options_of: ``device``, and perhaps ``timeout`` and ``stop_grace``, of :func:`launch` by the arguments.
    """
    arguments = parse_arguments(parser, sys.argv[1:])
    try:
        launch(
            main,
            num_processes_per_machine=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
            **start_options_of(arguments),
        )
    except ToldByAnother:
        leave(1)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        leave(1)
    except RunStopped as stop:
        print(stop.sentence, file=sys.stderr)
        leave(stop.code)
    leave()


def parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Read a training tool's command line.

    Args:
        parser: Detectron2's ``default_argument_parser()``, perhaps with more arguments.
        arguments: without the program's name.

    Returns:
        As Detectron2's, with ``resume`` one of :data:`RESUME_MODES` or empty.
    """
    parser = argparse.ArgumentParser(
        parents=[parser],
        add_help=False,
        conflict_handler="resolve",
        description=parser.description,
        epilog=parser.epilog,
        formatter_class=parser.formatter_class,
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        default="",
        choices=RESUME_MODES,
        help="go on from OUTPUT_DIR's last checkpoint; auto: if there is one, else start; last-good: from the newest "
        "whole one, if the last is broken",
    )
    parser.set_defaults(dist_url="auto")  # Detectron2's default is one port for all runs of a user
    # The KEY VALUE pairs that may follow are not the option's.
    arguments = list(arguments)
    for place, (argument, following) in enumerate(zip(arguments, [*arguments[1:], ""], strict=True)):
        if argument == "--resume":
            joined = following in RESUME_MODES
            arguments[place : place + 1 + joined] = [f"--resume={following if joined else 'last'}"]
            break
    return parser.parse_args(arguments)
