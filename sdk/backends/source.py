"""What a backend uses of a loaded model."""

from __future__ import annotations

from typing import Any, Protocol

from sdk.graph.ir import Graph


class Source(Protocol):
    """The part of `sdk.model.Model` that backends read; the model itself lives a floor above them."""

    @property
    def name(self) -> str: ...

    @property
    def graph(self) -> Graph: ...

    @property
    def kind(self) -> str: ...

    @property
    def source(self) -> Any: ...

    @property
    def program(self) -> Any: ...

    @property
    def is_quantised(self) -> bool: ...

    def content(self) -> bytes: ...
