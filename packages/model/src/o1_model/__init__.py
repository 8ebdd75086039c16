"""Train and run one model that thinks before it embeds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Embedder",
    "Layout",
    "Thinking",
    "ThinkingRetriever",
    "aggregate",
    "calibrate",
    "confirm",
    "embed",
    "think",
]

if TYPE_CHECKING:
    from o1_model.embedder import Embedder
    from o1_model.jobs import embed, think
    from o1_model.layout import Layout
    from o1_model.retriever.calibrate import calibrate
    from o1_model.retriever.confirm import confirm
    from o1_model.retriever.retriever import ThinkingRetriever
    from o1_model.thinking.aggregate import aggregate
    from o1_model.thinking.settings import Thinking

_PLACES = {
    "Embedder": "o1_model.embedder",
    "Layout": "o1_model.layout",
    "Thinking": "o1_model.thinking.settings",
    "ThinkingRetriever": "o1_model.retriever.retriever",
    "aggregate": "o1_model.thinking.aggregate",
    "calibrate": "o1_model.retriever.calibrate",
    "confirm": "o1_model.retriever.confirm",
    "embed": "o1_model.jobs",
    "think": "o1_model.jobs",
}


def __getattr__(name: str) -> Any:
    # imported when used (PEP 562): torch and transformers take seconds
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
