"""How calls are held against their annotations while the tests run; see conftest.py."""

from beartype import BeartypeConf, beartype

#: An int serves where a float is wanted, as it does for every other checker.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
