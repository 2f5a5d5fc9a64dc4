"""Finds the packages: what lies at the top of the repository is installed inside `retfm_jax`."""

from setuptools import find_packages, setup

_AT_THE_TOP = ("configs", "data_builders")

setup(
    packages=[
        *find_packages(include=["retfm_jax", "retfm_jax.*"]),
        *(
            f"retfm_jax.{found}"
            for name in _AT_THE_TOP
            for found in find_packages(include=[name, f"{name}.*"])
        ),
    ]
)
