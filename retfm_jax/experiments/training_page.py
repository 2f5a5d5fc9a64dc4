"""The page of a training run: its losses, its validation, its learning rate and its speed."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from retfm_jax.config import ExperimentConfig
from retfm_jax.console import say
from retfm_jax.dataset_folders import is_synthetic
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, atomic_write
from retfm_jax.rendering import charts, markup
from retfm_jax.rendering.glossary import readable
from retfm_jax.runtime.writers import read_metrics

#: Name of the page, beside `metrics.jsonl`.
PAGE = "training.html"
#: Curves of a chart, and charts of validation.
_CURVES, _GROUPS = 4, 6
#: A curve is smoothed over this share of its points; those of few points are not, and show them.
_SMOOTH, _FEW = 1 / 40, 20

Numbers = Float[np.ndarray, " n"]
#: Of each metric the steps and the values.
Courses = Mapping[str, tuple[Numbers, Numbers]]


def write(config: ExperimentConfig, workdir: PathLike) -> Path | None:
    """Writes the page beside the metrics of a run.

    A run is none the worse without it: where it cannot be written, stderr says why.

    Args:
      config: of the run.
      workdir: its folder.

    Returns:
      the page; None where there are no metrics, or it could not be written.
    """
    path = as_path(workdir) / PAGE
    try:
        courses = read(workdir)
        if not courses:
            return None
        with atomic_write(path) as file:
            file.write(page(config, workdir, courses))
    except UserError as error:
        say(f"the page of the run is not written: {error}", error=True)
        return None
    return path


def read(workdir: PathLike) -> Courses:
    """Reads the metrics of a run.

    Args:
      workdir: folder of the run.

    Returns:
      by name, such as "loss" and "eval/auroc", the steps and the values, finite ones alone.

    Raises:
      UserError: the file cannot be read.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(workdir):
        step = line["step"]
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and np.isfinite(value):
                found.setdefault(name, []).append((step, float(value)))
    courses = {}
    for name, points in found.items():
        steps, values = np.array(points, np.float64).T
        courses[name] = (steps, values)
    return courses


def page(config: ExperimentConfig, workdir: PathLike, courses: Courses) -> str:
    """Makes the page.

    Args:
      config: of the run.
      workdir: its folder, for the header.
      courses: as `read` returns them.
    """
    facts = {
        "network": config.method,
        "workdir": workdir,
        "dataset": f"{config.data.dataset}, {config.data.train_split}",
        "batch": config.train.batch_size,
    }
    parts = [
        markup.answer(*map(markup.explained, sentences(courses, config.train.best))),
        charts.gallery(panels(courses), wide=True),
        '<p class="note">Thick lines are moving averages of the thin ones. All numbers are in '
        "metrics.jsonl, one line a step.</p>",
    ]
    title = f"Training of {config.method}"
    return markup.page(title, parts, facts, is_synthetic(config.data.dataset))


def sentences(courses: Courses, best: str | None = None) -> list[str]:
    """What the run came to, in sentences.

    Args:
      courses: as `read` returns them.
      best: the validation metric that decides which network is kept; None: the first one is told.
    """
    found = []
    if "loss" in courses:
        steps, values = courses["loss"]
        found.append(
            f"The loss went from {values[0]:.3g} to {_smoothed(values)[-1]:.3g} in "
            f"{int(steps[-1]):,} steps."
        )
    told = [name for name in courses if name.startswith("eval/") and name != "eval/loss"]
    if told:
        metric = f"eval/{best}" if f"eval/{best}" in told else told[0]
        steps, values = courses[metric]
        at = int(np.argmax(values))
        label = readable(metric.removeprefix("eval/").replace("/", ", "))
        found.append(
            f"On validation {label} was highest after step {int(steps[at]):,}: {values[at]:.3f}."
        )
    return found


def panels(courses: Courses) -> list[charts.Panel]:
    """Charts of a run: loss and its parts, validation, learning rate, gradient and speed.

    Args:
      courses: as `read` returns them.
    """
    found = []
    if "loss" in courses:
        curves = _both(courses["loss"], 0)
        if "eval/loss" in courses:
            curves = [
                *(curve._replace(label="training" if not curve.faint else "") for curve in curves),
                charts.Curve(*courses["eval/loss"], "validation", color=1),
            ]
        found.append(_panel("Loss", "loss", curves))
    parts = [name for name in courses if name.startswith("loss_") and name != "loss_total"]
    if len(parts) > 1:
        found.append(_named("Parts of the loss", "loss", courses, parts, "loss_"))
    for name, metrics in list(_grouped(courses).items())[:_GROUPS]:
        title = f"Validation: {readable(name)}"
        found.append(_named(title, readable(name), courses, metrics, "eval/", name))
    for name, title in (("learning_rate", "Learning rate"), ("grad_norm", "Norm of the gradient")):
        if name in courses:
            curves = _both(courses[name], 0) if name == "grad_norm" else [_curve(courses[name], 0)]
            found.append(_panel(title, readable(name), curves, from_zero=True))
    if "samples_per_second" in courses:
        curves = _both(courses["samples_per_second"], 2)
        found.append(_panel("Speed", "samples a second", curves, from_zero=True))
    return found


def _grouped(courses: Courses) -> dict[str, list[str]]:
    """Validation metrics by what they measure: the last part of their names."""
    groups: dict[str, list[str]] = {}
    for name in courses:
        if name.startswith("eval/") and name != "eval/loss":
            groups.setdefault(name.rpartition("/")[2], []).append(name)
    return groups


def _named(
    title: str,
    y_label: str,
    courses: Courses,
    names: Sequence[str],
    prefix: str,
    suffix: str = "",
) -> charts.Panel:
    """Some curves in one chart, each with what is its own of its name."""
    chosen = names[:_CURVES]
    labels = [
        readable(name.removeprefix(prefix).removesuffix(suffix).replace("/", " ").strip())
        for name in chosen
    ]
    shared = _shared([label.split() for label in labels]) if len(labels) > 1 else 0
    labels = [" ".join(label.split()[shared:]) or "all" for label in labels]
    curves = [
        _curve(courses[name], number)._replace(label=label if len(names) > 1 else "")
        for number, (name, label) in enumerate(zip(chosen, labels, strict=True))
    ]
    hidden = len(names) - _CURVES
    note = f"{hidden} more are in metrics.jsonl" if hidden > 0 else ""
    return _panel(title, y_label, curves)._replace(note=note)


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many first words all have, and more besides."""
    most = min(map(len, parts)) - 1
    return next((at for at in range(most) if len({each[at] for each in parts}) > 1), max(most, 0))


def _curve(course: tuple[Numbers, Numbers], color: int) -> charts.Curve:
    steps, values = course
    return charts.Curve(steps, _smoothed(values), color=color)


def _both(course: tuple[Numbers, Numbers], color: int) -> list[charts.Curve]:
    """The values, and behind them their moving average."""
    smooth = _curve(course, color)
    raw = charts.Curve(*course, color=color, faint=True)
    return [smooth] if len(course[1]) <= _FEW else [raw, smooth]


def _smoothed(values: Numbers) -> Numbers:
    """Moving average, of as many points as there are at the ends."""
    reach = int(len(values) * _SMOOTH / 2)
    if len(values) <= _FEW or not reach:
        return values
    kernel = np.ones(2 * reach + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _panel(
    title: str, y_label: str, curves: Sequence[charts.Curve], from_zero: bool = False
) -> charts.Panel:
    """A chart over steps; of long curves it spans all but the rarest peaks."""
    values = np.concatenate([curve.y for curve in curves])
    high = float(np.percentile(values, 99.5) if len(values) > 200 else values.max())
    low = 0.0 if from_zero else float(values.min())
    room = 0.06 * (high - low) or abs(high) / 2 or 0.5
    dots = [
        (x, y, curve.color)
        for curve in curves
        if len(curve.x) <= _FEW
        for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True)
    ]
    last = max(float(curve.x[-1]) for curve in curves)
    return charts.Panel(
        title,
        "step",
        y_label,
        curves,
        x_limits=(0.0, max(last, 1.0)),
        y_limits=(low if from_zero else low - room, high + room),
        dots=dots,
        integers=True,
    )
