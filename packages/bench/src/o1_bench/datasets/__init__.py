"""Collections: one loader or builder each. `o1_bench.suites` knows them all by name."""
