"""What verbs say of a table with a row for each photograph or case."""

from retfm_jax.console import say
from retfm_jax.experiments.photograph_rows import Summary


def say_rows(made: Summary, table: str, units: str = "images") -> None:
    """Says how many rows a table has, and of what no use could be made.

    Args:
      made: its summary.
      table: its name.
      units: what has a row.
    """
    if made.unreadable:
        problems = made.first_problems
        more = ["..."] * (made.unreadable > len(problems))
        say(f"{made.unreadable} {units} cannot be used:", *problems, *more)
    resumed = f" ({made.resumed} of them from before)" if made.resumed else ""
    if made.unmeasured:
        say(
            f"{made.count} rows in {table}{resumed}",
            f"{made.unmeasured} have no flags of quality, which are of color fundus photographs",
        )
        return
    say(
        f"{made.count} rows in {table}{resumed}",
        f"not_fundus {made.not_fundus}, low_quality {made.low_quality}: by rules that nobody has "
        "validated yet",
    )
