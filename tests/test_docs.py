"""The generated reference leaves nothing out; there is one home and one version of the project.

The build itself is `make docs`; the generators need no Sphinx.
"""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from retfm_jax.config import bundled_configs, load_config
from retfm_jax.config.reference import entries

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # what lies beside it is found, as in a build
        patch.syspath_prepend(ROOT / "docs")
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(pages):
    return pages.pages()


def test_every_public_module_is_documented_once(generated):
    files = [
        *(path.relative_to(ROOT) for path in (ROOT / "retfm_jax").rglob("*.py")),
        *("retfm_jax" / path.relative_to(ROOT) for path in (ROOT / "data_builders").rglob("*.py")),
    ]
    modules = {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        for file in files
        if not any(re.match("_(?!_init__)", part) for part in file.parts)
    }
    api = "".join(text for name, text in generated.items() if name.startswith("api/"))
    documented = re.findall(r"^\.\. automodule:: (\S+)$", api, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == modules


def test_every_config_entry_is_documented(generated):
    terms = set(re.findall(r"^`([\w.]+)`", generated["config.md"], re.MULTILINE))
    for name in bundled_configs():
        paths = {entry.path for entry in entries(load_config(name))}
        # Sections that are not there by default are one entry.
        optional = ("data.expert.", "data.curriculum.")
        assert {path for path in paths if not path.startswith(optional)} <= terms
        assert f"configs/{name}.md" in generated


def commands():
    """The commands of README, CONTRIBUTING and the pages, as (file, words behind `retfm`)."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts]
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(pages)]:
        text = path.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S))
        for command in re.findall(r"\bretfm (.*)", blocks.replace("\\\n", " ")):
            yield path.name, command


def test_every_verb_and_option_that_a_page_shows_is_one(generated):
    sections = re.split(r"^## ", generated["commands.md"], flags=re.MULTILINE)[1:]
    options = {
        section.partition("\n")[0]: set(re.findall(r"--\w+", section)) for section in sections
    }
    shown = list(commands())
    assert len(shown) > 50
    for page, command in shown:
        words = re.match(r"data \w+|\w+", command)[0]
        given = set(re.findall(r"(?<= )--\w+(?!\S*\.)", command))
        assert given <= options[f"`retfm {words}`"], (page, command)


def test_a_build_removes_what_is_gone_and_touches_what_changed(
    pages, generated, tmp_path, monkeypatch
):
    monkeypatch.setattr(pages, "pages", lambda: generated)
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "retfm_jax.gone.rst").write_text("gone")
    pages.write(tmp_path)
    assert not (tmp_path / "api" / "retfm_jax.gone.rst").exists()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    pages.write(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written


def test_the_home_of_the_project_is_one():
    home = PROJECT["urls"]["Repository"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    for name in ("README.md", "CONTRIBUTING.md"):
        assert home in text_of(name)
        assert set(re.findall(r"https://github\.com/\w+/retfm_jax", text_of(name))) == {home}


def test_the_version_is_one():
    releases = re.findall(r"^## (\d\S*) - (\S+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    citation = yaml.load(text_of("CITATION.cff"), yaml.BaseLoader)
    assert (citation["version"], citation["date-released"]) == releases[0]
    assert PROJECT["version"] == releases[0][0]


def test_files_of_the_repository_that_a_page_links_are_there():
    home = PROJECT["urls"]["Repository"]
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts]
    linked = {
        name
        for page in [ROOT / "README.md", *pages]
        for name in re.findall(
            rf"{re.escape(home)}/(?:blob|tree)/main/([^)\s#]+)", page.read_text(encoding="utf-8")
        )
    }
    assert linked
    assert all((ROOT / name).exists() for name in linked), sorted(linked)
