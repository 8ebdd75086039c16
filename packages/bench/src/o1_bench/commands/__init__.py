"""The commands of `o1-bench`, one file each: `declare` its options, `run` it."""
