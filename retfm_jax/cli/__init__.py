"""The command line, ``retfm <verb>``: a file for each verb, and nothing that a library would need.

Only here are options, tables for a console and words about flags. A verb's file is cheap to import;
what it works with is imported when it runs.
"""

from retfm_jax.cli.dispatch import main, make_parser

__all__ = ["main", "make_parser"]
