"""Messages to token ids: `ChatFormat` and the `Encoded` conversation with its marked spans."""

from safedepth.chat.encoded import Encoded
from safedepth.chat.format import ChatFormat

__all__ = ["ChatFormat", "Encoded"]
