"""What an index is, beside its vectors and ids."""

from __future__ import annotations

from typing import Literal

from o1_records import InputError, Record
from o1_records.vectors import Encoder

Metric = Literal["inner_product", "cosine"]
METRICS: tuple[Metric, ...] = ("inner_product", "cosine")


class Settings(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How vectors are held (`factory`), searched (`parameters`) and compared; who encoded them.

    `factory` is FAISS's index_factory string, `parameters` its ParameterSpace string ("nprobe=16").
    """

    factory: str = "Flat"
    parameters: str = ""
    metric: Metric = "inner_product"
    encoder: Encoder | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        if self.metric not in METRICS:
            raise InputError(f"metric {self.metric!r} is none of {', '.join(METRICS)}")

    def refuse_other_encoder(self, encoder: Encoder | None) -> None:
        """Raise InputError unless `encoder`'s vectors can be searched for here.

        They cannot when another encoder made them (both are named) or when they are documents'.
        """
        if not self._same_space(encoder):
            raise InputError(f"the queries were encoded by {encoder}, the index holds {self.encoder}")
        if encoder is not None and encoder.role == "document":
            raise InputError(
                "the vectors to search for were encoded as documents; give a folder of query vectors"
            )

    def refuse_other_documents(self, encoder: Encoder | None) -> None:
        """Raise InputError unless `encoder`'s vectors can be added here; both are named."""
        if not self._same_space(encoder) or (encoder is not None and encoder.role == "query"):
            raise InputError(f"the documents were encoded by {encoder}, the index holds {self.encoder}")

    def _same_space(self, encoder: Encoder | None) -> bool:
        """Whether `encoder`'s vectors can be compared with these; two unknown encoders count as one."""
        mine = self.encoder
        return mine is encoder if mine is None or encoder is None else mine.same_space(encoder)
