"""The generated pages of the reference: the code is walked, nothing is listed by hand.

Nothing here needs Sphinx; `conf.py` writes the pages before Sphinx reads them.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import diagrams

import retfm_jax
from retfm_jax.cli import make_parser
from retfm_jax.config import (
    ExperimentConfig,
    bundled_configs,
    load_config,
    load_variants,
    summary,
)
from retfm_jax.config.reference import Entry, entries, kind
from retfm_jax.data.kinds import get_kind, kind_names
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.data.public_sets.description import Label
from retfm_jax.data.tasks import described_tasks
from retfm_jax.errors import UserError
from retfm_jax.evaluation.protocols import get_protocol, protocol_names
from retfm_jax.methods import get_method_class, method_names
from retfm_jax.ranges import hints

#: Installed inside the package, but kept at the top of the repository (see `setup.py`).
_AT_THE_TOP = ("data_builders",)


def write(folder: Path) -> None:
    """Writes every page below a folder, touching none that is as it was, and removes all others."""
    wanted = {folder / name: text for name, text in pages().items()}
    for path in folder.rglob("*.*"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Every generated page: its path below the folder of generated pages -> its text."""
    return {
        **api_pages(),
        "commands.md": commands_page(),
        "config.md": config_page(),
        **bundled_pages(),
        "methods.md": methods_table(),
        "protocols.md": protocols_table(),
        "tasks.md": tasks_table(),
        "sets.md": sets_list(),
        "rooms.md": rooms_table(),
        "kinds.md": kinds_table(),
        **{f"diagrams/{name}.svg": svg for name, svg in diagrams.diagrams().items()},
    }


# The Python interface.


def public_modules() -> dict[str, bool]:
    """Name of every public module, packages before what they hold -> whether it is one."""
    found = {"retfm_jax": True}
    roots = {"retfm_jax": retfm_jax.__path__}
    for name in _AT_THE_TOP:
        root = f"retfm_jax.{name}"
        found[root] = True
        roots[root] = importlib.import_module(root).__path__
    for root, path in roots.items():
        found |= {module.name: module.ispkg for module in pkgutil.walk_packages(path, f"{root}.")}
    return {name: found[name] for name in sorted(found) if "._" not in name and not _config(name)}


def _config(name: str) -> bool:
    """Configs have pages of their own."""
    return f"{name}.".startswith("retfm_jax.configs.")


def api_pages() -> dict[str, str]:
    """A page for each package, with a section for each of its modules."""
    modules = public_modules()
    found = {}
    for package in (name for name, is_package in modules.items() if is_package):
        inside = [name for name in modules if name.rpartition(".")[0] == package]
        # What a package passes on is documented where it is defined.
        lines = [*_title(package, "="), f".. automodule:: {package}", "   :ignore-module-all:", ""]
        if below := [name for name in inside if modules[name]]:
            lines += [".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in below), ""]
        for name in inside:
            if not modules[name]:
                lines += [*_title(name.rpartition(".")[2], "-"), f".. automodule:: {name}", ""]
        found[f"api/{package}.rst"] = "\n".join(lines)
    return found


def _title(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


# The command line.


def verbs(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb with its parser: ("train", ...), ("data build", ...)."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for verb, child in action.choices.items():
            full = f"{name} {verb}".strip()
            below = list(verbs(child, full))
            yield from below or [(full, child)]


def commands_page() -> str:
    """What `retfm <verb> --help` says, for every verb."""
    parser = make_parser()
    lines = ["# Command line", "", _sentence(parser.description), "", parser.epilog or "", ""]
    for name, verb in verbs(parser):
        lines += [f"## `retfm {name}`", "", _sentence(verb.description), ""]
        lines += ["```text", *_usage(verb), "```", ""]
        for group in verb._action_groups:
            actions = [action for action in group._group_actions if action.dest != "help"]
            if not actions:
                continue
            if group.title not in ("positional arguments", "options"):
                lines += [f"*{_sentence(group.title).rstrip('.')}*", ""]
            for action in actions:
                lines += _definition(_invocation(action), _help(verb, action))
        if verb.epilog:
            lines += [verb.epilog, ""]
    return "\n".join(lines)


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    return formatter.format_help().strip().splitlines()


def _invocation(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = ""
    if action.nargs != 0:
        choices = action.choices and "{" + ",".join(map(str, action.choices)) + "}"
        value = " " + (action.metavar or choices or action.dest.upper())
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "") % (vars(action) | {"prog": parser.prog})
    if action.required and action.option_strings:
        return f"*Required*; {text}"
    if action.default not in (None, False, argparse.SUPPRESS):
        return f"{text}; default: `{action.default}`"
    return text


# Configurations.


def config_page() -> str:
    """Every entry of a configuration: those of all methods, then each method's own."""
    lines = ["# Config entries", ""]
    lines += [
        "`--config.ENTRY=VALUE` changes an entry; `retfm configs NAME` lists those of one config. "
        "Defaults are those of the schema; the bundled configs change them.",
        "",
    ]
    lines += [f"`{entry.path}`, {entry.kind}: {entry.meaning}" for entry in _top_entries()]
    lines.append("")
    for path, section in _top_sections():
        lines += _section_text(path, section)
    for name in method_names():
        model = get_method_class(name).config_class()
        lines += _section_text("model", model, f" of `{name}`")
        for path, tower in _other_towers(model):
            lines += _section_text(path, tower, f" of `{name}`, `kind={tower.kind}`")
    return "\n".join(lines)


def _top_entries() -> Iterator[Entry]:
    config = load_config(bundled_configs()[0])
    for entry in entries(config):
        if "." not in entry.path:
            yield entry


def _top_sections() -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(ExperimentConfig):
        if dataclasses.is_dataclass(field.default):
            yield field.name, field.default


def _section_text(path: str, section: Any, whose: str = "") -> list[str]:
    """A section's own entries under a heading, and then the sections in it."""
    about = inspect.cleandoc(type(section).__doc__).split("\n")[0]
    own = (entry for entry in entries(section, f"{path}.") if entry.path.rpartition(".")[0] == path)
    lines = [f"## `{path}`{whose}", "", about, "", *_entry_list(own)]
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            lines += _section_text(f"{path}.{field.name}", value, whose)
    return lines


def _other_towers(model: Any) -> Iterator[tuple[str, Any]]:
    """Towers that a method takes in the place of its default one."""
    for name, hint in hints(type(model)).items():
        for option in typing.get_args(hint):
            if hasattr(option, "sizes") and not isinstance(getattr(model, name), option):
                yield f"model.{name}", option()


def _entry_list(found: Iterable[Entry]) -> list[str]:
    lines = []
    for entry in found:
        about = f"*{entry.kind}*; default: `{entry.value}`"
        text = " ".join(filter(None, [_sentence(entry.meaning), about]))
        lines += _definition(f"`{entry.path}`", text)
    return lines


def bundled_pages() -> dict[str, str]:
    """A page for each bundled config: its file, its variants, and what it changes."""
    names = bundled_configs()
    lines = ["# Bundled configs", "", "| config | method | what it is |", "|---|---|---|"]
    for name in names:
        about = summary(name).replace("|", "\\|")
        lines.append(f"| [{name}](configs/{name}.md) | `{load_config(name).method}` | {about} |")
    lines += ["", "```{toctree}", ":hidden:", "", *(f"configs/{name}" for name in names), "```", ""]
    return {"configs.md": "\n".join(lines)} | {
        f"configs/{name}.md": _bundled_page(name) for name in names
    }


def _bundled_page(name: str) -> str:
    module = importlib.import_module(f"retfm_jax.configs.{name}")
    config = load_config(name)
    lines = [f"# {name}", "", inspect.cleandoc(module.__doc__), ""]
    lines += ["```python", Path(module.__file__).read_text(encoding="utf-8").rstrip(), "```", ""]
    try:
        variants = load_variants(name)
    except UserError:
        variants = {}
    if variants:
        lines += ["## Variants", "", "What `retfm ablate` trains.", ""]
        for variant, changes in variants.items():
            said = ", ".join(f"`{change}`" for change in changes)
            lines += _definition(f"`{variant}`", said or "As it is.")
    model = get_method_class(config.method).config_class()
    defaults = {
        entry.path: entry.value
        for path, section in (*_top_sections(), ("model", model))
        for entry in entries(section, f"{path}.")
    }
    lines += ["## Entries that differ from the defaults", "", "| entry | value |", "|---|---|"]
    for entry in entries(config):
        if defaults.get(entry.path) != entry.value:
            lines.append(f"| `{entry.path}` | `{entry.value}` |")
    return "\n".join([*lines, ""])


# What there is to choose from.


def methods_table() -> str:
    """The methods, what each takes for a sample, and the configs that train it."""
    configs = {name: load_config(name) for name in bundled_configs()}
    lines = ["| method | what it is | `sample_kind` | bundled configs |", "|---|---|---|---|"]
    for name in method_names():
        cls = get_method_class(name)
        module = inspect.getmodule(cls)
        about = inspect.cleandoc(module.__doc__).split("\n")[0]
        kinds = _sample_kinds(cls)
        trained = [config for config, values in configs.items() if values.method == name]
        linked = ", ".join(f"[{config}](/generated/configs/{config}.md)" for config in trained)
        lines.append(f"| `{name}` | {about} | {kinds} | {linked} |")
    return "\n".join([*lines, ""])


def _sample_kinds(cls: Any) -> str:
    chosen = hints(cls.config_class).get("samples")
    return f"{kind(chosen)} (`model.samples`)" if chosen else f"`{cls.sample_kind}`"


def kinds_table() -> str:
    """The kinds of samples, the arrays of a batch of each, and who learns from them."""
    lines = ["| kind | arrays of a batch | methods |", "|---|---|---|"]
    for name in kind_names():
        found = get_kind(name)
        arrays = ", ".join(f"`{each}`" for each in found.roles)
        methods = (each for each in method_names() if name in _kinds_of(each))
        trained = ", ".join(f"`{each}`" for each in methods)
        lines.append(f"| `{name}`: {found.unit} | {arrays} | {trained} |")
    return "\n".join([*lines, ""])


def _kinds_of(method: str) -> tuple[str, ...]:
    """The kinds of samples that a method takes."""
    cls = get_method_class(method)
    chosen = hints(cls.config_class).get("samples")
    return typing.get_args(chosen) if chosen else (cls.sample_kind,)


def protocols_table() -> str:
    """The protocols of `retfm evaluate --task`."""
    lines = ["| protocol | what it asks | learns from a split |", "|---|---|---|"]
    for name in protocol_names():
        protocol = get_protocol(name)
        about = inspect.cleandoc(type(protocol).__doc__).split("\n")[0]
        lines.append(f"| `{name}` | {about} | {'yes' if protocol.learns else 'no'} |")
    return "\n".join([*lines, ""])


def tasks_table() -> str:
    """The published tasks of `retfm evaluate --dataset`, and those of segmentation."""
    lines = ["| task | classes or structures | below `--data_dir` | source |", "|---|---|---|---|"]
    for name, task in described_tasks().items():
        where = f"dataset `{task.get('dataset')}`"
        if "set" in task:
            where = "folder " + " or ".join(f"`{folder}`" for folder in task["folders"])
        lines.append(f"| `{name}` | {len(task['classes'])} | {where} | {task.get('source', '')} |")
    return "\n".join([*lines, ""])


def sets_list() -> str:
    """The public sets: terms, layouts, labels, and what nobody could verify."""
    lines = []
    for name, described in public_sets().items():
        layouts = ", ".join(f"`{layout.name}`" for layout in described.layouts)
        tasks = ", ".join(f"`{task}`" for task in described.tasks)
        lines += [f"## `{name}`", "", f"{described.title}. {described.source}.", ""]
        lines += [f"Licence: {described.licence}. From <{described.url.split()[0]}>.", ""]
        lines += [f"Layouts: {layouts}.", ""] * bool(layouts)
        masks = ", ".join(f"`{structure}`" for structure in described.masks)
        lines += [f"Masks: {masks}.", ""] * bool(masks)
        lines += [f"Tasks: {tasks}.", "", described.about.strip(), ""]
        lines += [f"- {each}" for each in map(_counted, described.labels.values()) if each]
        lines += [f"- Not verified: {each}." for each in described.unverified]
        lines += [""]
    return "\n".join([*lines, ""])


def _counted(label: Label) -> str:
    """How many images of each class there are, and who counted them."""
    if not label.images:
        return ""
    said = ", ".join(f"{number:,} `{name}`" for name, number in label.images.items())
    return f"Images by `{label.name}`: {said} ({label.counted})."


def rooms_table() -> str:
    """Which packages the modules of each package import."""
    package = Path(retfm_jax.__file__).parent
    rooms = sorted(path.parent.name for path in package.glob("*/__init__.py"))
    lines = ["| room | imports |", "|---|---|"]
    for room in rooms:
        found = {
            alias.split(".")[1]
            for path in (package / room).rglob("*.py")
            for alias in _imports(ast.parse(path.read_text(encoding="utf-8")))
        }
        imported = ", ".join(f"`{other}`" for other in rooms if other in found - {room})
        lines.append(f"| `{room}` | {imported} |")
    return "\n".join([*lines, ""])


def _imports(tree: ast.Module) -> Iterator[str]:
    """Modules of this package that a module imports, at its top or later."""
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.startswith("retfm_jax."))
        if isinstance(node, ast.ImportFrom) and node.module == "retfm_jax":
            yield from (f"retfm_jax.{alias.name}" for alias in node.names)


# Text.


def _definition(term: str, text: str) -> list[str]:
    return [term, *textwrap.indent(text, "  ").replace("  ", ": ", 1).splitlines(), ""]


def _sentence(text: str | None) -> str:
    """A text as a sentence: its first letter large, and a full stop behind it."""
    text = " ".join((text or "").split())
    return text and text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
