"""MiniStack on 127.0.0.1, corrected where its behaviour differs from what AWS documents."""

MINISTACK_VERSION = "1.5.33"
"""The only MiniStack release that the corrections fit."""
