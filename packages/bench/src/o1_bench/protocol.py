"""How a collection is evaluated: its measures, what never counts, and what encoders are given by default.

A protocol is part of a `Collection` and stands in every result. Figures are comparable where collection,
measure and protocol are the same; `PROTOCOLS` has those that papers and leaderboards share, by name.
"""

from __future__ import annotations

import difflib

from o1_records import InputError, Record, quoted
from o1_records.types import Count, NonBlank


class Protocol(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a collection is evaluated.

    Attributes:
        name: what papers call it.
        measures: as ir-measures writes them; the first is the main one.
        ignore_identical_ids: a document with the id of its query never counts (BEIR).
        query_prompt: what encoders put before a query unless they are told otherwise; `{instruction}` is
            replaced by the task. Empty: their own prompt.
        max_length: the most tokens of a text that encoders read unless they are told otherwise; 0: their own.
        same_as: the protocol whose values of a measure these are; empty: its own.
        source: where it comes from.
    """

    name: NonBlank
    measures: tuple[NonBlank, ...] = ("nDCG@10", "RR@10", "R@100")
    ignore_identical_ids: bool = False
    query_prompt: str = ""
    max_length: Count = 0
    same_as: str = ""
    source: str = ""

    @property
    def family(self) -> str:
        """What decides whether two values of one measure can be compared."""
        return self.same_as or self.name

    @property
    def words(self) -> str:
        """The protocol in a line."""
        said = [f"measures {', '.join(self.measures)}"]
        if self.ignore_identical_ids:
            said.append("a document with the id of its query never counts")
        if self.query_prompt:
            said.append(f"encoders are given {quoted(self.query_prompt)} before queries")
        if self.max_length:
            said.append(f"encoders read {self.max_length:,} tokens at most")
        if self.source:
            said.append(self.source)
        return f"{self.name}: {'; '.join(said)}"


_O1 = "O1 Embedder's public code, scripts/eval.sh at 28b4583: every judgement of 1 or more is relevant"
_INSTRUCT = "Instruct: {instruction}\nQuery: "

PROTOCOLS: dict[str, Protocol] = {
    each.name: each
    for each in (
        Protocol(name="plain", source="trec_eval's, every document counts"),
        Protocol(name="beir", ignore_identical_ids=True, source="BEIR's evaluator (arXiv 2104.08663)"),
        Protocol(name="msmarco", measures=("RR@10", "R@50", "R@1000"), source="MS MARCO passage ranking"),
        Protocol(
            name="trec-dl",
            measures=("nDCG@10", "RR(rel=2)@10", "AP(rel=2)@1000", "R(rel=2)@1000"),
            source="TREC Deep Learning: passages of grade 2 and 3 are relevant",
        ),
        Protocol(
            name="bright",
            measures=("nDCG@10", "R@100"),
            source="BRIGHT's code (arXiv 2407.12883): a query's excluded documents never count",
        ),
        Protocol(
            name="bright-long",
            measures=("R@1", "nDCG@10"),
            source="BRIGHT's code, whole pages: a query's excluded documents never count",
        ),
        Protocol(name="r2med", measures=("nDCG@10", "R@100"), source="R2MED's code (arXiv 2505.14558)"),
        Protocol(name="o1-dev", measures=("RR@10", "R@1000", "nDCG@10"), same_as="msmarco", source=_O1),
        Protocol(name="o1-dl", measures=("nDCG@10", "RR@10", "R@1000"), same_as="trec-dl", source=_O1),
        Protocol(
            name="o1-beir",
            measures=("nDCG@10", "RR@10", "R@1000"),
            ignore_identical_ids=True,
            same_as="beir",
            source=_O1,
        ),
        Protocol(
            name="reasonembed-bright",
            measures=("nDCG@10", "R@10", "R@100"),
            query_prompt=_INSTRUCT,
            max_length=8192,
            same_as="bright",
            source="ReasonEmbed's evaluation_bright/scripts/ours",
        ),
        Protocol(
            name="reasonembed-r2med",
            measures=("nDCG@10", "R@10", "R@100"),
            query_prompt=_INSTRUCT,
            max_length=512,
            same_as="r2med",
            source="ReasonEmbed's evaluation_r2med/scripts/ours",
        ),
    )
}

PLAIN, BEIR = PROTOCOLS["plain"], PROTOCOLS["beir"]


def protocol_named(name: str) -> Protocol:
    """Return a protocol of `PROTOCOLS`. Raises InputError, with close names, for an unknown one."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=3, cutoff=0.5) or PROTOCOLS
        raise InputError(f"unknown protocol {quoted(name)}; did you mean {', '.join(near)}?")
    return PROTOCOLS[name]
