"""Collections: one loader or builder each. `o1_bench.datasets.suites` knows them all by name."""
