"""Parts of the programs that exports hold: what is taken along is read as text, not imported.

Nothing here imports this package but for what is taken along, too; see `interop.bundles`.
"""
