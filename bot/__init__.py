"""adapter-merge-bot: an adapter shows up, we plan the merge, merge it, validate it and publish it."""

__version__ = "0.1.0"
