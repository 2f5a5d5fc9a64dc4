"""Classification by the network's own head: probabilities, statements, prediction sets."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from retfm_jax.decisions import Decisions
from retfm_jax.errors import UserError
from retfm_jax.evaluation.class_predictions import ClassPredictions, class_columns, predict_classes
from retfm_jax.evaluation.metrics import intervals
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.calibration import calibration, set_coverage
from retfm_jax.evaluation.metrics.grades import Order
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.results import Section, Shown
from retfm_jax.evaluation.study import Study, undecodable
from retfm_jax.heatmaps import read_targets

#: Below it intervals are wide, and those of sets are told to be so.
_FEW_PATIENTS = 50


class Classify(Protocol):
    """The classes that a network was trained for, with the decisions that it keeps."""

    name = "classify"

    def check(self, study: Study) -> None:
        classes = study.model.classes
        if not classes:
            raise UserError(
                f"classify asks a network for classes of its own, and a {study.model.method.name} "
                "network has none: ask for zero_shot or linear_probe, or fine-tune it first"
            )
        source = study.source
        class_columns(source.label_names, classes, f"{source.name}, split {source.split}")

    def run(self, study: Study) -> Mapping[str, Any]:
        model, options = study.model, study.options
        found = predict_classes(model, study.source, on_error=options.on_error)
        _say_left_out(study, found)
        decisions: Decisions = model.decisions
        findings = decisions.outcome == "findings"
        probabilities = decisions.probabilities(found.logits)
        predictions = Predictions(
            names=decisions.classes,
            labels=found.labels,
            scores=probabilities.astype(np.float64),
            patients=found.patients,
            samples=tuple((row, None) for row in found.rows),
            exclusive=not findings,
        )
        measured = predictions.measured(options.draws, options.seed, _order(decisions))
        numbers: dict[str, Any] = measured.to_json()
        shown = [_calibration(decisions, found, numbers, study)]
        if findings:
            shown.append(_statements(decisions, found, probabilities, numbers))
        if decisions.conformal is not None:
            shown.append(_sets(decisions, found, probabilities, numbers, study))
        if decisions.fitted_on:
            numbers["decisions"] = decisions.to_json()
        else:
            study.note(
                "no decisions were fitted for the network: probabilities are as trained, and there "
                "are no prediction sets"
            )
        targets = functools.partial(read_targets, model)
        section = Section("classes", measured, found.source, shown=tuple(shown), targets=targets)
        study.results.sections.append(section)
        return numbers


def _order(decisions: Decisions) -> Order | None:
    if decisions.outcome != "grades" or len(decisions.classes) < 3:
        return None
    positions = {name: at for at, name in enumerate(decisions.classes)}
    return Order(positions, "the network", guessed=False)


def _say_left_out(study: Study, found: ClassPredictions) -> None:
    for sentence in undecodable(found.unusable):
        study.note(sentence)
    if found.left_out:
        study.note(
            f"{found.left_out} images are left out: they have no label, or not exactly one of the "
            "network's classes"
        )


def _calibration(
    decisions: Decisions, found: ClassPredictions, numbers: dict[str, Any], study: Study
) -> Shown:
    """Calibration as trained and with the temperature."""
    options, findings = study.options, decisions.outcome == "findings"
    plain = Decisions(decisions.classes, decisions.outcome, 1.0, decisions.thresholds)
    measured = {
        name: calibration(
            each.probabilities(found.logits),
            found.labels,
            findings,
            found.patients,
            options.draws,
            options.seed,
        )
        for name, each in (("as_trained", plain), ("calibrated", decisions))
    }
    numbers["calibration"] = {"temperature": decisions.temperature} | {
        name: _json(row) for name, row in measured.items()
    }
    titles = {
        "as_trained": "as trained",
        "calibrated": f"with the temperature {decisions.temperature:.3f}",
    }
    header = ("probabilities", "calibration error", "negative log-likelihood", "Brier score")
    rows = [(titles[name], *row.values()) for name, row in measured.items()]
    return Shown("Calibration", header, rows)


def _statements(
    decisions: Decisions,
    found: ClassPredictions,
    probabilities: np.ndarray,
    numbers: dict[str, Any],
) -> Shown:
    """Sensitivity and specificity of what is said of each finding."""
    said, patients = decisions.predicted(probabilities), np.asarray(found.patients)
    rows, document = [], {}
    for column, (name, threshold) in enumerate(
        zip(decisions.classes, decisions.thresholds, strict=True)
    ):
        of_class, labels = said[:, column], found.labels[:, column]
        row: dict[str, Estimate] = {
            "sensitivity": intervals.proportion(of_class[labels == 1], patients[labels == 1]),
            "specificity": intervals.proportion(~of_class[labels == 0], patients[labels == 0]),
        }
        document[name] = {"threshold": threshold} | _json(row)
        rows.append((name, f"{threshold:.3f}", *row.values()))
    numbers["statements"] = document
    header = ("finding", "threshold", "sensitivity", "specificity")
    return Shown("What is said to be present", header, rows)


def _sets(
    decisions: Decisions,
    found: ClassPredictions,
    probabilities: np.ndarray,
    numbers: dict[str, Any],
    study: Study,
) -> Shown:
    """Coverage and size of the prediction sets."""
    options, conformal = study.options, decisions.conformal
    sets = decisions.sets(probabilities)
    assert conformal is not None, "the caller looked"
    assert sets is not None, "the caller looked"
    overall, by_class = set_coverage(
        sets,
        found.labels,
        decisions.outcome == "findings",
        found.patients,
        decisions.classes,
        options.draws,
        options.seed,
    )
    fitted_on = decisions.fitted_on
    numbers["conformal"] = {
        "target": conformal.coverage,
        "overall": _json(overall),
        "coverage_of_classes": _json(by_class),
    }
    nothing = ("", "", "")
    rows: list[tuple[Any, ...]] = [("all", *overall.values())]
    rows += [(name, covered, *nothing) for name, covered in by_class.items()]
    header = ("photographs of", "coverage", "classes in a set", "empty sets", "sets of one class")
    note = (
        f"Target: {conformal.coverage:g}. One vote a patient; the sets were fitted on "
        f"{fitted_on.get('images', 'an unknown number of')} images of "
        f"{fitted_on.get('patients', 'an unknown number of')} patients "
        f"({fitted_on.get('dataset', 'unknown')}, {fitted_on.get('split', 'unknown')})."
    )
    if not fitted_on.get("patients_known", True):
        note += " Their patients are not known: each image was taken for one."
    if len(set(found.patients)) < _FEW_PATIENTS:
        note += f" Here are {len(set(found.patients))} patients: few to judge a coverage by."
    return Shown("Prediction sets", header, rows, note)


def _json(row: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: each.to_json() for name, each in row.items()}
