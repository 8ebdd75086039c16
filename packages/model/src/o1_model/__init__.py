"""Train and run one model that thinks before it embeds."""

from o1_model.aggregate import aggregate
from o1_model.embedder import Embedder
from o1_model.layout import Layout
from o1_model.think import Thinking

__version__ = "0.1.0"

__all__ = ["Embedder", "Layout", "Thinking", "aggregate"]
