"""`python -m retfm_jax.cli`."""

import sys

from retfm_jax.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
