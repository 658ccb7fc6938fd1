"""Messages to token ids: `ChatFormat` and the `Encoded` conversation with its marked spans."""

from safedepth.chat.format import ChatFormat, Encoded

__all__ = ["ChatFormat", "Encoded"]
