"""Abbreviations and metrics in plain words: one meaning for all pages."""

from collections.abc import Mapping

#: What stands in tables -> what it is. Pages show it on hover, and in a list at their end.
TERMS: Mapping[str, str] = {
    "ACA": "average class accuracy: the mean over classes of the share that is recognized; 1 is "
    "best",
    "AMD": "age-related macular degeneration",
    "AP": "average precision: area under the precision-recall curve, by steps; 1 is best, chance "
    "is the share of the class",
    "AUPR": "area under the precision-recall curve, by steps (average precision); 1 is best, "
    "chance is the share of the class. Of masks it is that of all pixels within the field of view",
    "AUROC": "area under the receiver operating characteristic curve: how often an image with the "
    "class is scored above one without it; 1 is best, 0.5 is chance",
    "average precision": "area under the precision-recall curve, by steps; 1 is best, chance is "
    "the share of the class",
    "BLEU": "share of the sequences of 1 to n generated words that the reference has as well, with "
    "a penalty on reports that are too short; 0 to 1, of all reports together",
    "BRAO": "branch retinal artery occlusion",
    "Brier": "Brier score: mean squared error of the probabilities, summed over classes where one "
    "of them holds; 0 is best",
    "BRVO": "branch retinal vein occlusion",
    "calibration error": "expected calibration error: how far probabilities are from frequencies, "
    "on average; 0 is best",
    "CIDEr-D": "likeness of the sequences of 1 to 4 words, where rare ones weigh more; 0 to 10",
    "CNV": "choroidal neovascularization",
    "CRAO": "central retinal artery occlusion",
    "CRVO": "central retinal vein occlusion",
    "Dice": "of a mask that is found and one that is drawn, twice the pixels that they share over "
    "the sum of the pixels of each; 1 is best, and where neither has any. It is the mean over "
    "photographs; pooled: of all pixels together",
    "ECE": "expected calibration error: how far probabilities are from frequencies, on average; 0 "
    "is best",
    "F1": "harmonic mean of precision and recall; 1 is best",
    "FLOPs": "floating-point operations; G stands for 10⁹, T for 10¹²",
    "IoU": "intersection over union of a mask that is found and one that is drawn; 1 is best",
    "IRMA": "intraretinal microvascular abnormalities",
    "kappa": "Cohen's kappa: agreement beyond chance; 1 is best, 0 is chance. Quadratic: of "
    "grades, where a miss by two counts four times one by one",
    "macro": "unweighted mean over classes, or over structures",
    "MCC": "Matthews correlation coefficient of pixels; 1 is best, 0 is chance",
    "METEOR": "harmonic mean of precision and recall of words, stems, synonyms and paraphrases, by "
    "its own program; 0 to 1",
    "NPDR": "non-proliferative diabetic retinopathy",
    "OD": "oculus dexter, the right eye",
    "OS": "oculus sinister, the left eye",
    "OU": "oculus uterque, both eyes",
    "PDR": "proliferative diabetic retinopathy",
    "precision": "share of what is called positive that is; 1 is best",
    "recall at 1": "share of queries whose own report or image is the first answer; 1 is best",
    "recall at 5": "share of queries whose own report or image is among the first 5 answers",
    "recall at 10": "share of queries whose own report or image is among the first 10 answers",
    "RNFL": "retinal nerve fiber layer",
    "ROUGE-L": "F of the longest sequence of words that both have in this order; 0 to 1",
    "RPE": "retinal pigment epithelium",
    "sensitivity": "share of the positives that are found (recall); 1 is best",
    "specificity": "share of the negatives that are called negative; 1 is best",
    "VKH": "Vogt-Koyanagi-Harada disease",
}

_ACRONYMS = frozenset(
    "aca amd auroc bleu brao brvo cnv crao crvo f1 irma npdr pdr rnfl rpe vkh".split()  # noqa: SIM905
)


def readable(name: str) -> str:
    """Writes the id of a condition or of a metric as words.

    Args:
      name: parts joined by underscores, such as "macro_f1".
    """
    return " ".join(part.upper() if part in _ACRONYMS else part for part in name.split("_"))
