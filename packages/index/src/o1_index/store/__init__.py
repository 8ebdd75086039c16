"""An index on disk: versions under one pointer, files checked block by block, checkpoints of a build."""
