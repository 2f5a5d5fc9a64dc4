"""Sphinx: pages written by hand, and a reference that `pages.py` generates from the code."""

import builtins
import importlib.metadata
import os
import re
import sys
from pathlib import Path

# Figures are computed; whatever accelerator is here has no part in it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent))
import pages
from sphinx.domains.python import PythonDomain

_about = importlib.metadata.metadata("retfm-jax")
_urls = dict(line.split(", ", 1) for line in _about.get_all("Project-URL"))

project = "retfm_jax"
author = "The retfm_jax authors"
copyright = f"2026, {author}"
version = release = _about["Version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
_INCLUDED = ("kinds", "methods", "protocols", "rooms", "sets", "tasks")
exclude_patterns = ["_build", *(f"generated/{name}.md" for name in _INCLUDED)]

# Docstrings name code in single backticks; where it is documented, that is a link.
default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
# The contents of a page name its modules; with every function they are long, and slow to build.
toc_object_entries = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# A dash of an option stays a dash.
smartquotes = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["diagrams.css"]
html_title = f"retfm_jax {version}"
html_theme_options = {
    "source_repository": _urls["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
}


#: How jaxtyping prints an array, and then a random key, which may be of either kind.
_ARRAY = re.compile(r"[\w.]*\b_jax\.Array")
_KEY = re.compile(r"\S*Key\[Array, ''\] \| \S*UInt32\[Array, '2'\] \| \S*UInt32\[Array, '4'\]")


class _Python(PythonDomain):
    """Links a name only where it is clear whose it is: `bytes` is the built-in, not a field."""

    def find_obj(self, env, modname, classname, name, objtype, searchmode=0):
        if searchmode == 1 and (hasattr(builtins, name) or not self._documented(name)):
            return []
        found = super().find_obj(env, modname, classname, name, objtype, searchmode)
        return found if len(found) == 1 else []

    def _documented(self, name):
        """Tells cheaply that nothing can have the name, which saves looking through all objects."""
        last = self.__dict__.get("last_names")
        if last is None or last[0] != len(self.objects):
            last = len(self.objects), {each.rpartition(".")[2] for each in self.objects}
            self.last_names = last
        return name.rpartition(".")[2] in last[1]


def setup(app):
    """Writes the generated pages, and makes docstrings and signatures easier to read."""
    app.add_domain(_Python, override=True)
    pages.write(Path(app.srcdir) / "generated")
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _whole, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _short)


def _skip(app, what, name, thing, skip, options):
    """Leaves out the fields of named tuples, which the docstring of their class describes."""
    if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    return None


def _whole(app, what, name, thing, options, lines):
    """Keeps napoleon from taking what stands before a colon for the type of an attribute."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def _short(app, what, name, thing, options, signature, returns):
    """Names arrays and keys as the code does: Float[Array, "b d"], PRNGKeyArray."""
    return tuple(
        part and _KEY.sub("PRNGKeyArray", _ARRAY.sub("Array", part))
        for part in (signature, returns)
    )
