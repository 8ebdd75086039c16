"""Results: what a run found and what it cost, with the files to check it."""
