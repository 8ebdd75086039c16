"""Synthesise thoughts for queries: keyed, resumable, none lost.

`think` asks an `Expert` for several thoughts about each query and files every answer under the query it
belongs to. Experts: `ChatExpert` (a language model behind an OpenAI-compatible server) and `DocstringExpert`
(what people already wrote).
"""

from o1_synth.chat.expert import ChatExpert
from o1_synth.chat.http import Retry
from o1_synth.chat.request import Request
from o1_synth.chat.throttle import Throttle
from o1_synth.checks import Checks, DocumentChecks
from o1_synth.docstring import DocstringExpert
from o1_synth.expert import Expert, NoThought, Reason, Reply, Sampling
from o1_synth.job.scheduler import Job, Summary, think, think_about_documents
from o1_synth.prompt import DocumentPrompt, Prompt
from o1_synth.template import Template, read_template

__version__ = "0.1.0"

__all__ = [
    "ChatExpert",
    "Checks",
    "DocstringExpert",
    "DocumentChecks",
    "DocumentPrompt",
    "Expert",
    "Job",
    "NoThought",
    "Prompt",
    "Reason",
    "Reply",
    "Request",
    "Retry",
    "Sampling",
    "Summary",
    "Template",
    "Throttle",
    "read_template",
    "think",
    "think_about_documents",
]
