"""Finds the packages: what lies at the top of the repository is installed inside `retfm_jax`.

Folders that hold files alone count, too: setuptools calls them packages without a name of their
own.
"""

from setuptools import find_namespace_packages, setup

_AT_THE_TOP = ("configs", "data_builders")


def _found(name: str) -> list[str]:
    return find_namespace_packages(include=[name, f"{name}.*"], exclude=["*.__pycache__"])


setup(
    packages=[
        *_found("retfm_jax"),
        *(f"retfm_jax.{found}" for name in _AT_THE_TOP for found in _found(name)),
    ]
)
