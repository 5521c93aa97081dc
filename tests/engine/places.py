"""What scripts of several processes run: it imports little."""

import torch.distributed as dist
from detectron2.utils import comm


def report_places(folder):
    """Write what each process knows of its place."""
    place = (comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size(), dist.get_backend())
    (folder / f"{comm.get_rank()}").write_text(" ".join(map(str, place)))
