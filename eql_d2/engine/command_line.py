"""What the training tools have in common on the command line."""

import argparse
import sys
from collections.abc import Callable

from eql_d2.engine.launch import launch, leave
from eql_d2.engine.setup import load_config
from eql_d2.errors import UserError


def device_of_config(args: argparse.Namespace) -> str:
    """``MODEL.DEVICE`` of the config that a command names."""
    return load_config(args.config_file, args.opts).MODEL.DEVICE


def run_tool(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    device_of: Callable[[argparse.Namespace], str] = device_of_config,
) -> None:
    """Read the command line, start the processes that it asks for, and leave; a mistake ends as one line.

    Args:
        main: one process of a run, given the arguments.
        parser: Detectron2's ``default_argument_parser()``, perhaps with more arguments.
        device_of: says where the processes train, "cpu" or "cuda", by the arguments.
    """
    parser.set_defaults(dist_url="auto")  # Detectron2's default is one port for all runs of a user
    arguments = parser.parse_args()
    try:
        launch(
            main,
            device=device_of(arguments),
            num_processes_per_machine=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    leave()
