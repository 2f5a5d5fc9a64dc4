"""Optional dependencies, and the command that installs them."""

import importlib.metadata


def install(extra: str) -> str:
    """Command that installs what an extra of this package asks for.

    Args:
      extra: a name of pyproject's optional dependencies, such as "torch".
    """
    try:
        lines = importlib.metadata.requires("retfm-jax") or ()
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        lines = ()
    wanted = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        if f"extra == '{extra}'" in marker.replace('"', "'"):
            wanted.append(f"'{requirement.strip()}'")
    if not wanted:
        return f"pip install '.[{extra}]' in this project's folder"
    return f"pip install {' '.join(wanted)}"
