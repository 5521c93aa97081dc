#!/usr/bin/env python
"""List the configs: method, schedule, and the rows of tables that each reproduces.

Examples:
    python tools/list_configs.py
    python tools/list_configs.py LVISv1/official seesaw
"""

import argparse
import sys

from tabulate import tabulate

from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder
from eql_d2.reproduction.config_list import list_configs


def main(argv: list[str] | None = None) -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of the configs' names; none lists all")
    args = parser.parse_args(argv)
    entries = list_configs(configs_folder(), args.names)
    if not entries:
        raise UserError(f"There is no config with {' or '.join(args.names)} in its name.")
    rows = [(e.name, e.method, e.sampler, e.schedule, " ".join(e.rows)) for e in entries]
    print(
        tabulate(
            rows,
            headers=["config", "method", "sampler", "iterations x images", "rows"],
            maxcolwidths=[None, None, None, None, 60],
        )
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
