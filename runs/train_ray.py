"""`o1-model train` on a Ray cluster: `python runs/train_ray.py PROCESSES config.yaml [flags]`.

Ray Train starts the processes, each with a GPU where there are any, and joins them as torchrun does.
Checkpoints lie in the `output_dir` of the settings, which all machines must share, and the same command
goes on from the newest one; what Ray notes lies in `ray_results`. Needs `pip install 'o1-model[ray]'`.
RAY_ADDRESS names the cluster, without it this machine is one.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def work(settings: dict[str, Any]) -> None:
    """Train in one of the processes."""
    from o1_model.__main__ import main

    os.chdir(settings["folder"])  # relative paths mean what they mean here
    if code := main(["train", *settings["words"]]):
        raise RuntimeError(f"o1-model train ended with {code}; the worker's output says why")


if __name__ == "__main__":
    processes, *words = sys.argv[1:]
    TorchTrainer(
        work,
        train_loop_config={"folder": str(Path.cwd()), "words": words},
        scaling_config=ScalingConfig(num_workers=int(processes), use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(storage_path=str(Path.cwd() / "ray_results")),
    ).fit()
