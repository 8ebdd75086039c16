"""`o1-model train`: joint training; flags, or a file of them, or both."""

from __future__ import annotations

import argparse
import logging
import os


def declare(command: argparse.ArgumentParser) -> None:
    """Nothing: its flags are transformers', whose own parser reads them."""


def run(args: argparse.Namespace) -> int:
    """Read the flags, train, and tell what is going on on stderr."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from o1_model.arguments import parse
    from o1_model.train import train

    model, data, evaluation, objective, training = parse(args.typed[1:])
    logging.basicConfig(format="%(message)s")
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("o1_model").setLevel(logging.INFO)
    with logging_redirect_tqdm():
        train(model, data, training, objective=objective, evaluation=evaluation)
    return 0
