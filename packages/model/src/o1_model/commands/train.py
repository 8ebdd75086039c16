"""`o1-model train`: joint training; flags, or a file of them, or both."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace

from o1_records.kit.command import EVERYTHING, reads, refuse_conflicts, writes

own_parser = True  # transformers' parser reads the flags


def declare(command: ArgumentParser) -> None:
    """Add the files that it reads and writes; `o1-model train --help` lists all flags."""
    reads(command, "--train_data", once=True, nargs="+", inside=EVERYTHING, help="JSONL files of examples")
    reads(command, "--model_name_or_path", inside=EVERYTHING, type=str, help="the model to train")
    reads(command, "--eval_collection", help="BEIR folder to measure on")
    writes(command, "--output_dir", folder=True, help="folder of the checkpoint")


def run(args: Namespace) -> int:
    """Read the flags, train, and tell on stderr what is going on."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from o1_model.training.arguments import parse
    from o1_model.training.train import train

    model, data, evaluation, objective, training = parse(args.typed[1:])
    files = ArgumentParser()
    declare(files)
    paths = Namespace(
        train_data=data.paths,
        model_name_or_path=model.model_name_or_path,
        eval_collection=evaluation.eval_collection or None,
        output_dir=str(training.output_dir),
    )
    refuse_conflicts(files, paths)
    logging.basicConfig(format="%(message)s")
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("o1_model").setLevel(logging.INFO)
    with logging_redirect_tqdm():
        train(model, data, training, objective=objective, evaluation=evaluation, new_job=training.new_job)
    _leave_the_others()
    return 0


def _leave_the_others() -> None:
    """End the group of processes together: one that ends before the others may be aborted by its threads."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
