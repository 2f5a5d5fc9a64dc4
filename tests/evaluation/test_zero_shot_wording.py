"""Zero-shot in the words of training reports: those that never name the classes serve as well.

The network here is the smallest that learns words: images are the findings that are drawn, with
noise, and the embedding of a text is the ridge regression of images on its words. A word that no
report had says nothing to it.
"""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from retfm_jax.data_builders.synthetic_fundus.diagnoses import (
    DIAGNOSES,
    patient_diagnoses,
    write_diagnoses,
)
from retfm_jax.data_builders.synthetic_fundus.population import LABELS, POPULATIONS, draw_patient
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.prompts import weighted_prompts
from retfm_jax.knowledge.wording import learn_wording
from retfm_jax.zero_shot import finding_directions

TRAINING, TEST = 400, 300


def words(text):
    return re.findall(r"[a-z]+|[\u4e00-\u9fff]", text.lower())


def image(patient, rng):
    seen = [np.isin(LABELS, list(eye.findings)) for eye in patient.eyes]
    return np.mean(seen, axis=0) + rng.normal(0, 0.35, len(LABELS))


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


class Trained:
    """A population's reports, learned."""

    def __init__(self, name, language):
        self.language = language
        population = POPULATIONS[name]
        train = [draw_patient(population, 3, "train", i) for i in range(TRAINING)]
        self.reports = [write_diagnoses(patient, name)[0] for patient in train]
        self.wording = learn_wording(self.reports, shared_labeler())
        rng = np.random.default_rng(0)
        self.known = sorted({w for r in self.reports for w in words(r[language])})
        texts = self.bag([report[language] for report in self.reports])
        images = np.stack([image(patient, rng) for patient in train])
        self.mean = images.mean(0)
        gram = texts.T @ texts + 3 * np.eye(texts.shape[1])
        self.weights = np.linalg.solve(gram, texts.T @ (images - self.mean))
        test = [draw_patient(population, 3, "test", i) for i in range(TEST)]
        self.images = unit(np.stack([image(patient, rng) for patient in test]) - self.mean)
        self.truth = np.array([np.isin(DIAGNOSES, patient_diagnoses(p)) for p in test])

    def bag(self, texts):
        columns = {word: column for column, word in enumerate(self.known)}
        rows = np.zeros((len(texts), len(self.known)))
        for row, text in zip(rows, texts, strict=True):
            for word in words(text):
                if word in columns:
                    row[columns[word]] = 1
        return rows

    def macro_auroc(self, wording):
        classes = []
        for name in DIAGNOSES:
            prompts = weighted_prompts(name, self.language, wording=wording)
            rows = unit(self.bag([prompt.text for prompt in prompts]) @ self.weights)
            classes.append(np.array([prompt.weight for prompt in prompts]) @ rows)
        scores = self.images @ finding_directions(unit(np.stack(classes)), 0).T
        return np.mean(
            [roc_auc_score(self.truth[:, k], scores[:, k]) for k in range(len(DIAGNOSES))]
        )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_reports_that_name_grades_and_signs_only_serve_as_well(language):
    named, graded = Trained("classes", language), Trained("grades", language)
    assert (named.truth == graded.truth).all()
    by_name = named.macro_auroc(named.wording)
    in_their_words = graded.macro_auroc(graded.wording)
    assert by_name > 0.8
    assert in_their_words > by_name - 0.03
    # The names of the classes are words that this network has never seen.
    assert graded.macro_auroc(None) < in_their_words - 0.1


def test_reports_of_grades_name_no_class():
    labeler = shared_labeler()
    for number in range(100):
        patient = draw_patient(POPULATIONS["grades"], 3, "train", number)
        whole, of_eyes = write_diagnoses(patient, "grades")
        for language, text in whole.items():
            said = {item.condition for item in labeler.label(text).evidence}
            assert not said & set(DIAGNOSES) - {"normal"}, text
            assert set(patient_diagnoses(patient)) != {"normal"} or said == {"normal"}
            for eye in patient.eyes:
                assert of_eyes[eye.side][language] in text
