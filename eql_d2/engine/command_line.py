"""What the training tools have in common on the command line."""

import argparse
import sys
from collections.abc import Callable

from eql_d2.engine.launch import launch, leave
from eql_d2.engine.setup import load_config
from eql_d2.errors import UserError


def run_tool(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Read the command line, start the processes that it asks for, and leave; a mistake ends as one line.

    Args:
        main: one process of a run, given the arguments.
        parser: Detectron2's ``default_argument_parser()``, perhaps with more arguments.
    """
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
