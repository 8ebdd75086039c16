"""The `o1-records` command: check, convert and look at files of records."""

from __future__ import annotations

import sys

from o1_records import __version__
from o1_records.commands import convert, head, schema, validate
from o1_records.kit.command import Program

main = Program(
    "o1-records",
    {
        "validate": (validate, "check every line of files"),
        "convert": (convert, "convert from one file format to another"),
        "schema": (schema, "print the JSON Schema of a record"),
        "head": (head, "print the first records of a file"),
    },
    version=__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
