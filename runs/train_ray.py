"""`o1-model train` on a Ray cluster: `python runs/train_ray.py PROCESSES config.yaml [flags]`.

Ray Train starts the processes, one a GPU, and tells each its rank as torchrun does. Checkpoints lie in the
`output_dir` of the settings, which all machines must share, and the same command goes on from the newest one.
Needs `pip install 'o1-model[ray]'`; RAY_ADDRESS names the cluster, without it this machine is one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer


def work(settings: dict[str, Any]) -> None:
    """Train in one of the processes."""
    from o1_model.__main__ import main

    os.chdir(settings["folder"])
    if code := main(["train", *settings["words"]]):
        raise SystemExit(code)


if __name__ == "__main__":
    settings = {"folder": str(Path.cwd()), "words": sys.argv[2:]}
    scaling = ScalingConfig(num_workers=int(sys.argv[1]), use_gpu=torch.cuda.is_available())
    TorchTrainer(work, train_loop_config=settings, scaling_config=scaling).fit()
