"""Which documents belong to the domain: a yes or no about each (ReasonEmbed, section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from o1_records import Document, InputError, write_jsonl
from o1_synth.checks import Parses
from o1_synth.expert import ExpertOf
from o1_synth.job.scheduler import Answers, Job, Summary, run_job
from o1_synth.prompt import template_digest
from o1_synth.remix.domain import Domain
from o1_synth.template import CLEAN, Message, Template, as_template


class CleanPrompt:
    """Asks whether a document belongs to a topic."""

    def __init__(self, topic: str, template: Template | str | Path = "remix_clean") -> None:
        if not topic.strip():
            raise InputError("cleaning needs a topic: name a domain")
        self.topic = topic
        self.template = as_template(template, CLEAN)
        self.digest = template_digest(self.template, topic)

    def messages(self, document: Document, sample: int = 0) -> list[Message]:
        """Return the question about a document."""
        return self.template.messages({"topic": self.topic, "document": document.full_text})


def yes_or_no(text: str) -> str | None:
    """Return "yes" or "no" where that word is all of an answer, whatever its case and punctuation."""
    found = re.fullmatch(r"\W*(yes|no)\W*", text, re.IGNORECASE)
    return found[1].lower() if found else None


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
    template: Template | str | Path = "remix_clean",
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Cleaned:
    """Write the documents of a domain to `out`, ordered by doc_id; resumes as `think` does.

    `expert` makes an expert that asks with a prompt, as `functools.partial(ChatExpert, url, model)` does. A
    document without an answer is left out and listed with the failures.

    Raises InputError as `think` does, and for a domain without a topic.
    """
    kept = 0

    def publish(answers: Answers[Document]) -> None:
        nonlocal kept
        kept = write_jsonl(out, (document for document, said in answers() if yes_or_no(said.text) == "yes"))

    summary = run_job(
        documents,
        Document,
        expert(prompt=CleanPrompt(domain.topic or domain.name, template)),
        Parses(yes_or_no),
        command="remix clean",
        outputs=[Path(out)],
        samples=1,
        concurrency=concurrency,
        progress=progress,
        job=job or Job(),
        publish=publish,
    )
    return Cleaned(summary=summary, kept=kept)
