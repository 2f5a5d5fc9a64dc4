"""The eight classes of ODIR-5K, told from what a report says.

ODIR-5K labels patients: a patient is normal only where both eyes are, and each other class holds
where one eye has it. Which condition belongs to which class follows from the names of the classes;
a condition that fits none of the seven named diseases is "other".
"""

from retfm_jax.knowledge.labeler import ReportLabels
from retfm_jax.knowledge.vocabulary import Vocabulary, load_vocabulary

#: In the order of ODIR-5K's label columns N, D, G, C, A, H, M, O.
CLASSES = (
    "normal",
    "diabetic_retinopathy",
    "glaucoma",
    "cataract",
    "amd",
    "hypertensive_retinopathy",
    "pathologic_myopia",
    "other",
)

#: Conditions that no class of ODIR-5K counts: what a surgeon or a photographer left.
NOT_COUNTED = frozenset({"pseudophakia"})


def odir_classes(labels: ReportLabels, vocabulary: Vocabulary | None = None) -> tuple[str, ...]:
    """Classes that hold for a patient, in the order of `CLASSES`.

    Args:
      labels: of the patient's report.
      vocabulary: the labeler's; the bundled one where None.
    """
    vocabulary = vocabulary or load_vocabulary()
    implied = {above for condition in labels.patient for above in vocabulary.ancestors(condition)}
    found = {
        odir_class(condition, vocabulary)
        for condition in labels.patient
        if condition not in implied
    }
    if len(found - {None}) > 1:
        found.discard("normal")
    return tuple(name for name in CLASSES if name in found)


def odir_class(condition_id: str, vocabulary: Vocabulary) -> str | None:
    """Class of a condition: the condition itself, what it suspects, or its nearest ancestor.

    Args:
      condition_id: an id of the vocabulary.
      vocabulary: tells its ancestors and what it suspects.

    Returns:
      one of `CLASSES`, "other" where none of them fits; None where no class counts the condition.
    """
    if condition_id in NOT_COUNTED:
        return None
    suspected = vocabulary[condition_id].suspicion_of
    for name in (condition_id, suspected, *vocabulary.ancestors(condition_id)):
        if name in CLASSES:
            return name
    return "other"
