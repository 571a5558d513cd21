"""What every section of the config is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Score = Literal["teacher", "dense", "bm25", "run"]


class Section(BaseModel):
    """A part of the config: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
