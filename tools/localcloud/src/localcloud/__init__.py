"""The local cloud: MiniStack on 127.0.0.1, corrected where it differs from what AWS documents."""

MINISTACK_VERSION = "1.5.33"
"""The only MiniStack release the corrections are written against."""
