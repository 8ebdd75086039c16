"""The commands of `o1-vote`, a file each: `declare(parser)` and `run(args)`."""
