"""Templates: what a model is told, with markers for what is filled in, and how its answer begins and ends.

A template is a TOML file with the fields of `Template`, or a text file that is its message to the model:

```toml
system = "You write search queries."
user = '''{exemplars}Query:
{query}
Response:'''
stop = ['Query:']
```
`{query}` stands for the query between fences of backticks, which no text can leave, `{query:plain}` for the
query as it is; so do the other markers.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec

from o1_records import InputError
from o1_records.styles import DOCUMENT_STYLES, QUERY_STYLES, TEXT, Style

_FOLDER = Path(__file__).parent / "templates"
_MARKER = re.compile(r"\{(\w+)(:plain)?\}")
_FENCED = frozenset({"query", "passage", "document", "text"})  # what others wrote

Message = dict[str, str]


@dataclass(frozen=True)
class Kind:
    """The markers of a kind of templates: of each set in `needs` at least one, and none but those in `may`.

    `styles` are the templates of this kind that every package knows.
    """

    needs: Sequence[Set[str]]
    may: Set[str] = frozenset()
    styles: Mapping[str, Style] = dataclasses.field(default_factory=dict)

    def fits(self, template: Template) -> bool:
        """Whether a template has the markers of this kind."""
        found = template.markers
        return all(found & either for either in self.needs) and found <= frozenset(self.may).union(
            *self.needs
        )


ABOUT_QUERIES = Kind([{"query", "text"}], {"task", "exemplars"}, QUERY_STYLES)
ABOUT_DOCUMENTS = Kind([{"document", "text"}], styles=DOCUMENT_STYLES)
CLEAN = Kind([{"document"}], {"topic"})
WRITE = Kind([{"document"}], {"task", "length", "level"})
ANNOTATE = Kind([{"query"}, {"document"}], {"instruction", "query_type", "document_type", "relevance"})


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model is told, and how its answer begins and ends.

    Args:
        user: the message of the user.
        system: the message of the system, without markers; "" for none.
        exemplar: one exemplar, with `{query}` and `{passage}`.
        exemplars: what `{exemplars}` stands for where there are exemplars, with all of them in `{list}`.
        prefix: how the answer begins, where a model can be made to continue it.
        stop: where an answer ends.
        stop_after_prefix: where an answer that began with `prefix` ends, too.
        max_tokens: tokens of an answer that are enough, unless the sampling says otherwise.
        form: what is kept of an answer, see `o1_records.styles.Style`.
    """

    user: str
    system: str = ""
    exemplar: str = "\nExample query:\n{query}\nIts response:\n{passage}\n"
    exemplars: str = "{list}"
    prefix: str = ""
    stop: tuple[str, ...] = ()
    stop_after_prefix: tuple[str, ...] = ()
    max_tokens: int | None = None
    form: Literal["text", "code", "keywords"] = "text"

    @classmethod
    def of_style(cls, style: Style) -> Template:
        """Return the template that asks for a style of `o1_records.styles`."""
        return cls(
            user=style.instruction.replace(TEXT, "{text:plain}"),
            prefix=style.prefix,
            stop_after_prefix=style.stop,
            max_tokens=style.max_tokens,
            form=style.form,
        )

    @property
    def markers(self) -> frozenset[str]:
        """Return the names of the markers in the user's message."""
        return frozenset(name for name, _ in _MARKER.findall(self.user))

    def messages(self, parts: Mapping[str, str]) -> list[Message]:
        """Return the messages, with the markers replaced."""
        messages = [{"role": "user", "content": filled(self.user, parts)}]
        return [{"role": "system", "content": self.system}, *messages] if self.system else messages

    def clean(self, text: str, *, continued: bool) -> str:
        """Return what is kept of an answer; `continued` if it went on after the prefix."""
        text = text.strip()
        before = _MARKER.sub("", self.exemplar.partition("{passage")[0]).rstrip().rpartition("\n")[2]
        for label in filter(None, (self.cue, before if before.endswith(":") else "")):
            if text.casefold().startswith(label.casefold()):  # some models say it again
                text = text[len(label) :].lstrip()
        return Style(instruction=TEXT, form=self.form).clean(text, continued=continued)

    @property
    def cue(self) -> str:
        """Return the label that the user's message ends with, such as "Response:"; "" without one."""
        last = self.user.rstrip().rpartition("\n")[2].strip()
        return last if last.endswith(":") else ""

    @property
    def labels(self) -> frozenset[str]:
        """Return the labels of a query and of an answer, such as "Query:", which no answer repeats."""
        ours = self.exemplar.splitlines() + self.user.splitlines() if "exemplars" in self.markers else []
        before = (line.partition("{")[0].strip() for line in ours if "{query" in line or "{passage" in line)
        after = (
            _MARKER.sub("", one).strip()
            for one, two in pairwise(ours)
            if two.strip().startswith(("{query", "{passage"))
        )
        return frozenset(label for label in (*before, *after, self.cue) if label.endswith(":"))

    def frame(self) -> Iterator[str]:
        """Yield the lines around what is filled in: instructions, labels, cues."""
        for text in (self.system, self.user, self.exemplars, self.exemplar):
            for line in _MARKER.sub("\n", text).splitlines():
                if line.strip():
                    yield line.strip()


def filled(text: str, parts: Mapping[str, str]) -> str:
    """Return a text with its markers replaced, in one pass: a marker in an inserted text stays text."""

    def part(found: re.Match[str]) -> str:
        name, plain = found[1], found[2]
        return parts[name] if plain or name not in _FENCED else fenced(parts[name])

    return _MARKER.sub(part, text)


def fenced(text: str) -> str:
    """Return a text between fences of more backticks than it contains, so that it cannot close its own."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def read_template(name: str | Path, kind: Kind = ABOUT_QUERIES) -> Template:
    """Return a template: of a file (a name with a suffix), or one that comes with o1-synth.

    `paper` is the prompt of O1 Embedder, `o1` ours for the same purpose, `reason` asks for reasoning in steps
    (in the manner of BRIGHT); the others are the styles of `o1_records.styles`. Raises InputError where there
    is no such template, and for markers that templates of this kind cannot have.
    """
    path = Path(name)
    if path.suffix:
        if not path.exists():
            raise InputError(f"{path}: there is no such template file")
        return checked_template(_read(path), str(path), kind)
    known = {file.stem: _read(file) for file in _FOLDER.iterdir()}
    known = {stem: template for stem, template in known.items() if kind.fits(template)}
    known |= {style: Template.of_style(kind.styles[style]) for style in kind.styles}
    if str(name) not in known:
        raise InputError(
            f"there is no template {str(name)!r}; name a file (with a suffix), or one of "
            f"{', '.join(sorted(known))}"
        )
    return known[str(name)]


def as_template(template: Template | str | Path, kind: Kind) -> Template:
    """Return a template that is given as itself or by a name, of the kind that is wanted."""
    if isinstance(template, Template):
        return checked_template(template, "the template", kind)
    return read_template(template, kind)


def checked_template(template: Template, place: str, kind: Kind) -> Template:
    """Return the template; InputError where a marker is missing or unknown. Other braces stay as they are."""
    if not kind.fits(template):
        wanted = " and ".join(" or ".join(f"{{{name}}}" for name in sorted(either)) for either in kind.needs)
        may = f" and may have {', '.join(f'{{{name}}}' for name in sorted(kind.may))}" if kind.may else ""
        raise InputError(
            f"{place}: has markers {sorted(template.markers)}; it needs {wanted}{may}, and no other"
        )
    for field, text, markers in (
        ("exemplar", template.exemplar, {"query", "passage"}),
        ("exemplars", template.exemplars, {"list"}),
    ):
        found = {name for name, _ in _MARKER.findall(text)}
        if found != markers:
            raise InputError(f"{place}: {field} has markers {sorted(found)}; it needs {sorted(markers)}")
    return template


def _read(path: Path) -> Template:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".toml":
            return Template(user=text)
        return msgspec.convert(tomllib.loads(text), Template)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: {error}") from error
