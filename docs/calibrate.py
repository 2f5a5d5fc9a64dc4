"""Prints the table of `planning.md` that tells how far a plan's times can be trusted.

python docs/calibrate.py v5e:2x2
"""

import sys

from retfm_jax.console import say
from retfm_jax.planning import calibration
from retfm_jax.planning.machine_code import recording
from retfm_jax.planning.topologies import open_topology

if __name__ == "__main__":
    say("| program | known bound | estimate | machine code | of the bound |")
    say("|---|---|---|---|---|")
    with recording() as recorded:
        for row in calibration.times(open_topology(sys.argv[1]), recorded):
            known, estimate, code = (
                f"{1e3 * value:.2f} ms" for value in (row.known, row.estimate, row.machine_code)
            )
            ratios = f"{row.estimate / row.known:.2f}, {row.machine_code / row.known:.2f}"
            say(f"| {row.name} | {known} ({row.limit}) | {estimate} | {code} | {ratios} |")
