"""Whether a text is a thought about its query: what language models write instead of one.

Pure functions of texts. They find what is plainly wrong; judging is left to o1-vote's committee. How many of
the wrong ones they find, and how many good ones they take for wrong, is measured on labelled sentences
(`benchmarks/synth_checks.py`); the README has the figures.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec

from o1_records import Document, Example, InputError, Qrel, Query, Record
from o1_records.kit.text import contained, jaccard, runs, shingles, words
from o1_synth.expert import Reason
from o1_synth.prompt import DocumentPrompt, Prompt

RULES = 2
"""Counted up when a rule below changes, so that finished work is checked again."""

_CANNOT = (
    r"(?:can ?not|can'?t|could ?n[o']t|won'?t|will not|would (?:not|rather not|prefer not to)|wouldn't"
    r"|(?:am|are|'m|'re) (?:\w+ )?"
    r"(?:unable|afraid|not (?:able|allowed|permitted|comfortable|programmed|designed))"
    r"|(?:must|have to|need to|will have to)(?: \w+ly)? (?:decline|pass)|refuse|decline"
    r"|(?:do not|don't) feel comfortable)"
)
_SERVE = (
    r"(?:help(?! (?:but|feeling|thinking|noticing|wondering))|assist|answer|comply|fulfil+|discuss|talk"
    r"|engage|take part|participate|respond|diagnose|prescribe|advise|browse|access|share|disclose"
    r"|reveal|endorse"
    r"|provid\w+|offer|generat\w+|creat\w+|writ\w+|produc\w+|recommend specific|predict|process|perform"
    r"|promot\w+"
    r"|give (?:you|out|legal|medical|financial|advice)|tell(?: you)?\b|view images|look that up"
    r"|(?:do|say) (?:that|this|so|it)\b|play|send|make phone|feel|continue|with (?:that|this))"
)
_AI = (
    r"(?:ai|artificial intelligence|(?:\w+ )?language model|ai (?:language model|assistant|model|chatbot)"
    r"|chatbot|(?:virtual|digital) assistant)"
)
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "I cannot provide", "I'm unable to help you", "I must decline"
        rf"\bi ?{_CANNOT}(?: and (?:can ?not|will not|won't))?(?: be able)?(?: to"
        rf"| with)?(?: \w+ly)? ?{_SERVE}"
        r"(?! that the)",
        r"\bwe (?:are|'re) unable to (?:process|answer|provide|assist|help|fulfil)",
        r"\bi (?:must|have to|need to|will have to|'ll have to) (?:respectfully )?decline\b"
        r"|\bgoing to have to pass\b",
        # "Sorry, I can't", "I understand that, but I can't"
        rf"(?:sorry|apologi\w+|unfortunately|regrettably|afraid)\b[^.!?:]{{0,40}}"
        rf"\bi ?(?:{_CANNOT}|(?:do not|don't|didn't|did not) (?:know|have|understand))",
        rf"(?:understand|thank you|thanks|note)\b[^.!?:]{{0,60}}\bi ?{_CANNOT}|\b, so i (?:won't|can't)\b",
        # "As an AI language model"
        rf"\b(?:as|being|i am|i'm) (?:just |only |merely )?an? {_AI}"
        r"(?:,(?! \w+ (?:predicts|is|are|can)\b)| and\b|\.| i\b| (?:developed|created|trained)\b)",
        r"\bi(?: am|'m) not a (?:doctor|lawyer|medical|financial|licensed|qualified)",
        r"\bmy (?:training data|knowledge(?: cut-?off)?)\b[^.!?]{0,60}"
        r"(?:ends?|limited|prevents?|until|up to|only|2\d{3})",
        r"against my (?:programming|guidelines|policy|policies)|in my training\b|\bmy (?:capabilities"
        r"|abilities)\b"
        r"|what i can do\b|i can help with\b|i am (?:not )?able to do|that i can provide"
        r"|i am (?:not )?programmed",
        # "I do not have access to", "I don't know"
        r"\bi (?:\w+ )?(?:do not|don't|lack|have no)(?: currently)?(?: have)?"
        r"(?: (?:any|the|enough|direct|personal|real-?time|sufficient|access to|such|current|specific))*"
        r" (?:access|ability|capability|information|data|experiences?|feelings|emotions|opinions?"
        r"|beliefs|knowledge"
        r"|answer|details)\b",
        r"\bi (?:do not|don't) know(?: the answer\b[^.]*)?\W*$|\bi only have information\b",
        # "This request violates", "It would be unethical for me"
        r"\b(?:this|your|the) (?:request|question|query|prompt)(?: you asked)?[^.!?]{0,50}"
        r"\b(?:violates|goes against|inappropriate|unclear|not clear|cannot be answered"
        r"|does not contain|lacks)\b",
        r"\bnot enough (?:information|context|details)\b",
        r"\bit(?: is|'s| would be| isn't)(?: not)? (?:inappropriate|unethical|illegal|appropriate"
        r"|ethical|possible"
        r"|wrong) for me\b",
        # it asks back: "Please provide more details", "How can I help you?"
        r"(?:^|[.!] )(?:could|can|would) you (?:please )?"
        r"(?:provide|clarify|specify|rephrase|tell me|give me|share)\b",
        r"(?:^|[.!;] )please (?:clarify|rephrase|specify|be more specific|share (?:more|the)"
        r"|provide (?:more|additional|further|the (?:text|passage|query|question|code|document)))"
        r"|\brephrase it\b|\bhow (?:can|may) i (?:help|assist) you\b|\bwhat would you like\b"
        r"|\bhappy to (?:help|assist)\b|\bnot sure (?:i understand|what you)\b"
        r"|\bi (?:would |'d )?need (?:more|additional|further|access to)\b[^.]*(?:information|details"
        r"|context|data)",
        r"\bi can only answer\b|\bi(?:'d| would) (?:rather|prefer) not\b|\bi strongly advise\b",
    )
)
_BEGINNING = 45  # words of a text in which a refusal shows
_NEW_WORDS, _NEW_SHARE = 4, 0.5
_RUN = 8  # words of a verbatim copy
_COPIED_SHARE, _COPIED_PART = 0.5, 0.5
_FRAME_RUN = 6
_LOOP_WINDOW, _LOOP_SHARE = 60, 0.4
_NEAR_COPY = 0.9  # Jaccard similarity of word triples
_LETTERS = 400  # read to know the script

_FILLERS = frozenset(
    words("""
    a an the of in on at to for with by from as is are was be been do does did how what why when where
    which who whose that this these those it its and or not if can could should would will may might i
    you we they he she his her my your about into there then than so such have has had also any some all
    more most very just only one query question ask answer asks asked asking want know find out explain
    describe tell user topic regard relat following mean please understand look seek provide response
    information reason
    """)
)

NAMES = ("refusal", "echo", "scaffold", "leak", "loop", "language", "duplicate", "truncated")
"""The checks that there are."""

RecordT = TypeVar("RecordT", bound=Record, contravariant=True)


def is_refusal(text: str) -> bool:
    """Whether a text begins as models decline, or ask back: "I'm sorry, but I can't"."""
    head = " ".join(text.replace("’", "'").split(maxsplit=_BEGINNING)[:_BEGINNING])
    return any(pattern.search(head) for pattern in _REFUSALS)


def is_echo(query: str, text: str) -> bool:
    """Whether a text says its query again and adds next to nothing.

    That is fewer than 4 words of content that the query does not have, and less than half of its own.
    """
    asked = {_stem(word) for word in words(query)}
    said = {_stem(word) for word in words(text) if word not in _FILLERS} - _FILLERS
    new = said - asked
    return bool(words(text)) and len(new) < _NEW_WORDS and len(new) < _NEW_SHARE * len(said)


def leaks(passage: str, text: str, query: str = "") -> bool:
    """Whether a text copies a passage.

    Of the passage's runs of eight words it contains half, or half of its own are from there. Runs that the
    query has, too, do not count; shorter passages never leak.
    """
    own = runs(words(query), _RUN) if len(words(query)) >= _RUN else frozenset[str]()
    known = words(passage)
    if len(known) < _RUN:
        return False
    whole = runs(known, _RUN) - own
    said = shingles(text, _RUN) - own
    return contained(whole, said) >= _COPIED_PART or contained(said, whole) >= _COPIED_SHARE


def is_scaffold(frame: Iterable[str], text: str, query: str = "") -> bool:
    """Whether a text repeats the prompt around its query: a label at the beginning of a line, an instruction.

    `frame` are the lines of the prompt that every query gets.
    """
    lines = [" ".join(line.split()).casefold() for line in text.splitlines()]
    said = runs(words(text), _FRAME_RUN)
    asked = shingles(query, _FRAME_RUN)
    for part in frame:
        part = " ".join(part.split()).casefold()
        if part.endswith(":") and any(line.lstrip("#*> ").startswith(part) for line in lines):
            return True
        told = words(part)
        if len(told) >= _FRAME_RUN and (runs(told, _FRAME_RUN) - asked) & said:
            return True
    return False


def is_loop(text: str) -> bool:
    """Whether a text ends in repeating itself: few of the word triples in its last 60 words are distinct.

    Text without spaces is read letter by letter.
    """
    units = words(text)
    if len(units) < 10 and len(text) > 200:
        units = list(text[-4 * _LOOP_WINDOW :])
    tail = units[-_LOOP_WINDOW:]
    triples = len(tail) - 2
    return triples >= 20 and len(runs(tail, 3)) < _LOOP_SHARE * triples


def is_other_script(query: str, text: str) -> bool:
    """Whether a text is mostly in another script than its query. Languages of one script count as equal."""
    asked, said = _scripts(query), _scripts(text)
    if asked.total() < 3 or said.total() < 20:
        return False
    script, letters = asked.most_common(1)[0]
    return letters >= 0.8 * asked.total() and said[script] < 0.5 * said.total()


class Checking(Protocol[RecordT]):
    """What tells a good answer from a bad one: `Checks`, or another class with these members."""

    @property
    def names(self) -> Sequence[str]:
        """Return what is checked. With `duplicate` among them, near-copies of another sample are redrawn."""

    @property
    def digest(self) -> str:
        """Return what names these checks; where it changed, finished work is checked again."""

    def fault(self, record: RecordT, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with the text of a sample, or None."""

    def compared(self, text: str) -> str:
        """Return the part of a good text that is compared to find near-copies."""


class Passages:
    """The passages that thoughts about a query must not copy: its positives. All texts are held in memory."""

    def __init__(
        self, examples: Iterable[Example] = (), qrels: Iterable[Qrel] = (), documents: Iterable[Document] = ()
    ) -> None:
        self._texts: defaultdict[str, list[str]] = defaultdict(list)
        hasher = hashlib.sha256()
        for example in examples:
            for document in example.positives:
                self._add(hasher, example.query.query_id, document.full_text)
        answers: defaultdict[str, list[str]] = defaultdict(list)
        for qrel in qrels:
            if qrel.relevance > 0:
                answers[qrel.doc_id].append(qrel.query_id)
        for document in documents:
            for query_id in answers.get(document.doc_id, ()):
                self._add(hasher, query_id, document.full_text)
        self.digest = hasher.hexdigest()[:16]

    def _add(self, hasher: hashlib._Hash, query_id: str, text: str) -> None:
        hasher.update(msgspec.json.encode([query_id, text]))
        self._texts[query_id].append(text)

    def __call__(self, query: Query) -> Sequence[str]:
        """Return the passages of a query."""
        return self._texts.get(query.query_id, ())


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks that a thought has to pass.

    Args:
        names: what is checked. A thought that max_tokens cut off passes, unless `truncated` is among them.
        passages: texts that a thought about a query must not copy.
        prompt: what the model is told, for `scaffold` and for exemplars that it copies.
    """

    names: Sequence[str] = NAMES[:-1]
    passages: Callable[[Query], Iterable[str]] = field(default_factory=Passages)
    prompt: Prompt | None = None

    def __post_init__(self) -> None:
        """Raise InputError for an unknown name."""
        _refuse_unknown(self.names, NAMES)

    @property
    def digest(self) -> str:
        """Return a name of the rules, the checks that are made, and the passages."""
        return _digest(self.names, getattr(self.passages, "digest", ""))

    def fault(self, query: Query, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with a text, or None; near-copies are found elsewhere."""
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.TRUNCATED: lambda: finish_reason == "length",
            Reason.REFUSAL: lambda: is_refusal(text),
            Reason.ECHO: lambda: is_echo(query.text, text),
            Reason.LOOP: lambda: is_loop(text),
            Reason.LANGUAGE: lambda: is_other_script(query.text, text),
            Reason.SCAFFOLD: lambda: is_scaffold(self._frame(), text, query.text),
            Reason.LEAK: lambda: any(leaks(it, text, query.text) for it in self._not_to_copy(query, sample)),
        }
        return next((reason for reason, test in tests.items() if reason in self.names and test()), None)

    def compared(self, text: str) -> str:
        """Return all of the text."""
        return text

    def _frame(self) -> tuple[str, ...]:
        return (*self.prompt.template.frame(), self.prompt.task) if self.prompt else ()

    def _not_to_copy(self, query: Query, sample: int) -> Iterator[str]:
        yield from self.passages(query)
        if self.prompt is not None:
            # a request for several samples shows the exemplars of the first one
            for shown in range(sample + 1):
                for exemplar in self.prompt.exemplars(query, shown):
                    yield exemplar.passage


@dataclass(frozen=True, kw_only=True)
class DocumentChecks:
    """The checks that a thought about a document has to pass; `leak` is a copy of the document."""

    NAMES = ("refusal", "scaffold", "leak", "loop", "language", "duplicate", "truncated")

    names: Sequence[str] = NAMES[:-1]
    prompt: DocumentPrompt | None = None

    def __post_init__(self) -> None:
        """Raise InputError for an unknown name."""
        _refuse_unknown(self.names, self.NAMES)

    @property
    def digest(self) -> str:
        """Return a name of the rules and the checks that are made."""
        return _digest(self.names)

    def fault(self, document: Document, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with a text, or None; near-copies are found elsewhere."""
        frame = tuple(self.prompt.template.frame()) if self.prompt else ()
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.TRUNCATED: lambda: finish_reason == "length",
            Reason.REFUSAL: lambda: is_refusal(text),
            Reason.LOOP: lambda: is_loop(text),
            Reason.LANGUAGE: lambda: is_other_script(document.text, text),
            Reason.SCAFFOLD: lambda: is_scaffold(frame, text, document.full_text),
            Reason.LEAK: lambda: leaks(document.full_text, text),
        }
        return next((reason for reason, test in tests.items() if reason in self.names and test()), None)

    def compared(self, text: str) -> str:
        """Return all of the text."""
        return text


class Parses:
    """The check of an answer that is read by a function: it fails where `parse` returns None."""

    names = (Reason.UNPARSED,)

    def __init__(self, parse: Callable[[str], object | None]) -> None:
        self._parse = parse
        self.digest = _digest(self.names)

    def fault(self, record: Record, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return UNPARSED where the text cannot be read."""
        return Reason.UNPARSED if self._parse(text) is None else None

    def compared(self, text: str) -> str:
        """Return the text; not used, because these answers may be equal."""
        return text


def _refuse_unknown(names: Iterable[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"unknown checks {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


def _digest(names: Iterable[str], *more: str) -> str:
    return hashlib.sha256(msgspec.json.encode([RULES, sorted(map(str, names)), *more])).hexdigest()[:16]


class Known:
    """The texts that one query has so far, to recognise a near-copy by."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._shingles = [shingles(text) for text in texts]

    def add(self, text: str) -> bool:
        """Add a text; where it is a near-copy of one of them, return False and do not add it."""
        own = shingles(text)
        if any(jaccard(own, other) >= _NEAR_COPY for other in self._shingles):
            return False
        self._shingles.append(own)
        return True


class Siblings:
    """The known texts of the queries that are being worked on.

    Queries come one after another: a query is forgotten when its last request has ended and another query has
    begun. `load` returns what was written about a query in earlier runs.
    """

    def __init__(self, load: Callable[[str], Iterable[str]]) -> None:
        self._load = load
        self._known: dict[str, Known] = {}
        self._running: Counter[str] = Counter()
        self._latest = ""

    @contextlib.contextmanager
    def of(self, key: str) -> Iterator[Known]:
        """Yield the known texts of a query while a request for it is running."""
        if key not in self._known:
            self._known[key] = Known(self._load(key))
        self._running[key] += 1
        before, self._latest = self._latest, key
        self._forget(before)
        try:
            yield self._known[key]
        finally:
            self._running[key] -= 1
            self._forget(key)

    def _forget(self, key: str) -> None:
        if key != self._latest and not self._running[key]:
            self._known.pop(key, None)
            del self._running[key]


def _stem(word: str) -> str:
    """Return a word without the endings that a repeated query changes."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _scripts(text: str) -> Counter[str]:
    head = text[:_LETTERS]
    if head.isascii():  # five times as fast
        return Counter(LATIN=sum(map(str.isalpha, head)))
    return Counter(_script(letter) for letter in head if letter.isalpha())


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK"}.get(name, name)
