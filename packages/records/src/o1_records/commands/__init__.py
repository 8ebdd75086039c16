"""The commands of `o1-records`, one file each: `declare` adds its options, `run` runs it."""
