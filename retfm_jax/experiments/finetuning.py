"""Fine-tuning: what a run with classes takes from its data and its weights, once, before it begins.

The configuration that it makes is whole: it stands in the workdir, and nothing has to be found out
again by those who load the network.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from retfm_jax.config import ExperimentConfig, ImageConfig, from_dict
from retfm_jax.config.stored_paths import located
from retfm_jax.console import say
from retfm_jax.data.labeled import LabeledData, open_labeled
from retfm_jax.data.sources import RecordSource
from retfm_jax.decisions import FILE, write_decisions
from retfm_jax.errors import UserError
from retfm_jax.evaluation.decision_fitting import fit_decisions
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.files import PathLike, as_path, read_json
from retfm_jax.interop.initial import FREE
from retfm_jax.model import load
from retfm_jax.runtime import distributed
from retfm_jax.runtime.checkpoints import FOLDER as CHECKPOINTS
from retfm_jax.runtime.checkpoints import whole_steps

#: Parameters of the head, which low-rank updates do not replace.
_HEAD = "head"
#: Digits of a prevalence: the same run on another machine has the same configuration.
_DIGITS = 6


class Prepared(NamedTuple):
    """A run that is ready to begin.

    Attributes:
      config: with everything that data and weights decide.
      data: the labeled photographs, opened: "train" and, where it is evaluated, "validation".
      said: sentences for the user.
    """

    config: ExperimentConfig
    data: LabeledData
    said: tuple[str, ...]


def prepare(config: ExperimentConfig, workdir: PathLike) -> Prepared:
    """Fills the classes, what they are to each other, prevalence, tower and preprocessing.

    Args:
      config: the experiment, of a method whose network has classes.
      workdir: folder of the run; one that resumes has its tower and its preprocessing from there,
        also where the weights that it began with are gone.

    Raises:
      UserError: the data cannot be used (see `labeled.open_labeled`), the weights cannot be read,
        or the config contradicts them.
    """
    classes, outcome = _stated(config)
    data = dataclasses.replace(config.data, classes=classes, outcome=outcome)
    splits = ("train", "validation") if evaluates(config) else ("train",)
    opened = open_labeled(data, splits)
    opened, said = _ordered(opened, config.data.classes or config.model.classes)
    train = opened.sources["train"]
    prevalence = tuple(round(float(share), _DIGITS) for share in train.prevalence)
    entries: dict[str, Any] = {
        "classes": opened.classes,
        "outcome": opened.outcome,
        "prevalence": prevalence,
    }
    data = dataclasses.replace(data, classes=opened.classes, outcome=opened.outcome)
    config = dataclasses.replace(config, data=data)
    form, image, found = _tower(config, workdir)
    model = dataclasses.replace(config.model, **entries, **form)
    config = dataclasses.replace(
        config, model=model, data=dataclasses.replace(data, image=image), lora=_with_head(config)
    )
    counts = ", ".join(
        f"{name} {int(count)}"
        for name, count in zip(opened.classes, (train.labels > 0).sum(0), strict=True)
    )
    sizes = ", ".join(f"{split} {len(source)}" for split, source in opened.sources.items())
    what = f"{opened.outcome}, in training: {counts}; photographs: {sizes}"
    return Prepared(config, opened, (f"classes: {what}", *opened.said, *said, *found))


def evaluates(config: ExperimentConfig) -> bool:
    """Tells whether a run looks at its validation split.

    Args:
      config: the experiment.
    """
    return bool(config.train.evaluate_every or config.train.evaluate_epochs)


def _stated(config: ExperimentConfig) -> tuple[tuple[str, ...], Any]:
    """Classes and outcome that the config names, in its `data` or in its `model`."""
    found = []
    for entry in ("classes", "outcome"):
        of_data, of_model = getattr(config.data, entry), getattr(config.model, entry)
        if of_data and of_model and of_data != of_model:
            raise UserError(
                f"config.data.{entry} and config.model.{entry} differ ({of_data!r}, {of_model!r}): "
                "give one of them"
            )
        found.append(of_data or of_model)
    return found[0], found[1]


def _ordered(data: LabeledData, named: Sequence[str]) -> tuple[LabeledData, tuple[str, ...]]:
    """Puts grades into their order, and says what looks like grades and is not taken for them.

    Raises:
      UserError: the classes are said to be grades, and nothing tells their order.
    """
    grades = data.outcome == "grades"
    if named or data.ordered:
        return data, (f"grades: {', '.join(data.classes)}",) if grades else ()
    order = class_order(data.classes)
    if grades and order is None and len(data.classes) > 2:
        raise UserError(
            f"nothing tells the order of the grades {', '.join(data.classes)}: name them in "
            "config.data.classes from the lowest on"
        )
    if order is None:
        return data, ()
    if grades:
        return data.reordered(order.classes), (f"grades: {order} ({order.known_from})",)
    advice = "config.data.outcome=grades learns their order, too"
    like = f"these classes look like grades, {order} ({order.known_from}); {advice}"
    return data, (like,) if data.outcome == "exclusive" else ()


def _tower(
    config: ExperimentConfig, workdir: PathLike
) -> tuple[dict[str, Any], ImageConfig, tuple[str, ...]]:
    """Entries of `config.model` that say the form of the tower, and the preprocessing.

    What the config changes wins where a tower can be used in several ways.
    """
    workdir = as_path(workdir)
    if whole_steps(workdir / CHECKPOINTS):
        stored = from_dict(located(read_json(workdir / "config.json"), workdir))
        if not hasattr(stored.model, "classes"):
            raise UserError(
                f"{workdir} holds a run of method {stored.method}; take another workdir"
            )
        form = {name: getattr(stored.model, name) for name in _FORM}
        return _adopted(config, form, stored.data.image, ())
    source = config.init.image
    if config.init.weights is not None or source is None:
        said = (
            ()
            if source or config.init.weights
            else ("config.init.image names no weights: the image tower learns from the beginning",)
        )
        return {}, _sized(config.data.image, config.model.image), said
    if config.init.text is not None:
        raise UserError("config.init.text is a text tower, and a network with classes has none")
    model = load(source)
    theirs = model.config.model
    if not hasattr(theirs, "image"):
        raise UserError(f"config.init.image: {source} has no image tower")
    form = {
        "image": theirs.image,
        "embed_dim": getattr(theirs, "embed_dim", None),
        "layout": getattr(theirs, "layout", "openai"),
        "prefix": getattr(theirs, "prefix", "visual."),
    }
    return _adopted(config, form, model.data_config.image, model.notes)


#: Entries of `config.model` that the weights decide.
_FORM = ("image", "embed_dim", "layout", "prefix")


def _adopted(
    config: ExperimentConfig, form: dict[str, Any], image: ImageConfig, said: tuple[str, ...]
) -> tuple[dict[str, Any], ImageConfig, tuple[str, ...]]:
    """The form and preprocessing of weights, with what the config says otherwise."""
    asked, theirs = config.model.image, form["image"]
    own = {
        field.name: getattr(asked, field.name)
        for field in dataclasses.fields(asked)
        if field.name in FREE and getattr(asked, field.name) != field.default
    }
    known = {field.name for field in dataclasses.fields(theirs)}
    lost = sorted(own.keys() - known)
    if lost:
        said = (*said, f"a {theirs.kind} tower has no {', '.join(lost)}: without effect")
    changed = _changed(config.data.image)
    if "size" in changed and "image_size" in known:
        own["image_size"] = changed["size"]
    try:
        tower = dataclasses.replace(
            theirs, **{name: value for name, value in own.items() if name in known}
        )
    except ValueError as error:
        raise UserError(f"config.model.image does not fit the weights: {error}") from error
    image = dataclasses.replace(image, **changed)
    return form | {"image": tower}, _sized(image, tower), said


def _changed(image: ImageConfig) -> dict[str, Any]:
    """Entries of the preprocessing that the config sets: those unlike the defaults."""
    return {
        field.name: getattr(image, field.name)
        for field in dataclasses.fields(image)
        if getattr(image, field.name) != field.default
    }


def _sized(image: ImageConfig, tower: Any) -> ImageConfig:
    """The preprocessing with images as large as the tower takes them."""
    return dataclasses.replace(image, size=getattr(tower, "image_size", image.size))


def _with_head(config: ExperimentConfig) -> Any:
    """Low-rank updates beside which the head is trained as a whole."""
    lora = config.lora
    if lora is None or any(pattern.startswith(_HEAD) for pattern in lora.trained):
        return lora
    return dataclasses.replace(lora, trained=(*lora.trained, _HEAD))


def fit(workdir: PathLike, validation: RecordSource) -> None:
    """Fits the decisions of a finished run's best network, and writes them into its workdir.

    Called on every process, of which the first one does it.

    Args:
      workdir: of the run.
      validation: its validation split.

    Raises:
      UserError: see `decision_fitting.fit_decisions`, or they cannot be written.
    """
    if jax.process_index() == 0:
        decisions = fit_decisions(load(workdir), validation, progress=False)
        write_decisions(workdir, decisions)
        say(f"decisions for new photographs, fitted on validation: {as_path(workdir) / FILE}")
    distributed.barrier("decisions", timeout=3600)


def tell(sentences: Sequence[str]) -> None:
    """Prints what was found, on process 0.

    Args:
      sentences: see `Prepared.said`.
    """
    if jax.process_index() == 0 and sentences:
        say(*sentences)
