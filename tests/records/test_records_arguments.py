import argparse

import pytest

from o1_records.command import at_least


@pytest.mark.parametrize(("least", "text", "number"), [(1, "1", 1), (0, "0", 0), (2, "10", 10)])
def test_a_whole_number_that_is_large_enough_is_taken(least, text, number):
    assert at_least(least)(text) == number


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "ten", "", "1e3"])
def test_anything_else_is_a_usage_error_that_says_what_is_wanted(text):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--k", type=at_least(1))
    with pytest.raises(argparse.ArgumentError, match=f"'{text}' is not a whole number of 1 or more"):
        parser.parse_args([f"--k={text}"])
