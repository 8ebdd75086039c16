"""Which documents belong to the domain: a yes or no about each (ReasonEmbed, section 3.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from o1_records import Document, InputError, Query, write_jsonl
from o1_synth.expert import Reason
from o1_synth.generate import Answers, Job, Summary, think
from o1_synth.prompt import Message, fenced, filled, read_template
from o1_synth.remix.documents import ExpertOf, as_document, as_query, text_of
from o1_synth.remix.domain import Domain


class CleanPrompt:
    """Asks whether a document belongs to a topic."""

    def __init__(self, topic: str, template: str | Path = "remix_clean") -> None:
        if not topic.strip():
            raise InputError("cleaning needs a topic: name a domain")
        self.topic = topic
        self._template = read_template(template, {"document"}, {"topic"})
        self.digest = hashlib.sha256(f"{topic}\0{self._template}".encode()).hexdigest()[:16]

    def messages(self, query: Query) -> list[Message]:
        """The question about the document that stands in the query's place."""
        return filled(self._template, {"topic": self.topic, "document": fenced(text_of(query))})


class YesOrNo:
    """An answer is one of two words."""

    names = (Reason.UNPARSED,)

    def fault(self, query: Query, text: str, finish_reason: str) -> Reason | None:
        """UNPARSED for any other answer."""
        return Reason.UNPARSED if _answer(text) is None else None

    def compared(self, text: str) -> str:
        """Not compared: every document has one answer."""
        return text


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """How a cleaning ended, and how many documents were kept."""

    summary: Summary
    kept: int


def clean(
    documents: Iterable[Document],
    expert: ExpertOf,
    *,
    out: str | Path,
    domain: Domain,
    template: str | Path = "remix_clean",
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Cleaned:
    """Write the documents of a domain to `out`, ordered by doc_id; resumes as `think` does.

    `expert` makes an expert of a prompt, as `functools.partial(ChatExpert, url, model)` does. A
    document without an answer is left out and listed with the failures.
    """
    kept = 0

    def publish(answers: Answers) -> None:
        nonlocal kept
        kept = write_jsonl(
            out, (as_document(asked) for asked, said in answers() if _answer(said.text) == "yes")
        )

    summary = think(
        map(as_query, documents),
        expert(prompt=CleanPrompt(domain.topic or domain.name, template)),
        out=out,
        samples=1,
        concurrency=concurrency,
        progress=progress,
        job=replace(job or Job(), checks=YesOrNo()),
        publish=publish,
    )
    return Cleaned(summary=summary, kept=kept)


def _answer(text: str) -> str | None:
    found = re.fullmatch(r"\W*(yes|no)\W*", text, re.IGNORECASE)
    return found[1].lower() if found else None
