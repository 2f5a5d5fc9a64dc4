"""Small releases of public sets, each laid out as it is found, with the faults of its release."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openpyxl
from PIL import Image

DR = ("no_diabetic_retinopathy", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")


@dataclasses.dataclass(frozen=True)
class Case:
    """A release in one layout, and what is to be read out of it.

    Attributes:
      name, layout: of the set.
      label: the label that `shows` speaks of.
      shows: path of a photograph -> its split ("" where nobody says it) and what it shows: one
        class, a tuple of findings, or None where nobody knows.
      tables: path -> rows of an XLSX file, or the text of any other.
      patients: path -> patient, of those that a column names.
      absent: photographs of `shows` that are in no file: the tables name them.
      beside: other files.
      task: on the label.
      said: what a reader is told.
    """

    name: str
    layout: str
    label: str
    shows: Mapping[str, tuple[str, str | tuple[str, ...] | None]]
    tables: Mapping[str, str | Sequence[Sequence[object]]] = dataclasses.field(default_factory=dict)
    patients: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: Sequence[str] = ()
    task: str = ""
    said: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.layout}"

    def write(self, folder: Path) -> None:
        """Writes the release into a folder."""
        for seed, path in enumerate((*self.shows, *self.beside)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(photograph(seed) if "Thumbs" not in path else b"\xd0\xcf")
        for path, content in self.tables.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                (folder / path).write_bytes(content.encode())
            else:
                book = openpyxl.Workbook()
                for row in content:
                    book.active.append(list(row))
                book.save(folder / path)


def photograph(seed: int) -> bytes:
    """A noisy picture of 32 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folders(
    name: str,
    codes: Mapping[str, str],
    task: str,
    splits: Sequence[str] = ("train", "val", "test"),
    label: str = "dr",
    layout: str = "retfound",
) -> Case:
    """A release of class folders, with or without splits."""
    names = {"val": "validation"}
    shows = {
        f"{split}/{code}/{split}{number}.png".lstrip("/"): (names.get(split, split), condition)
        for split in splits
        for number, (code, condition) in enumerate(codes.items())
    }
    return Case(name, layout, label, shows, task=task)


APTOS = {code: DR[n] for n, code in enumerate(
    ("anodr", "bmilddr", "cmoderatedr", "dseveredr", "eproliferativedr")
)}  # fmt: skip
RFMID_COLUMNS = (
    "DR,ARMD,MH,DN,MYA,BRVO,TSLN,ERM,LS,MS,CSR,ODC,CRVO,TV,AH,ODP,ODE,ST,AION,PT,RT,RS,CRS,EDN,"
    "RPEC,MHL,RP,CWS,CB,ODPM,PRH,MNF,HR,CRAO,TD,CME,PTCR,CF,VH,MCA,VS,BRAO,PLQ,HPED,CL"
)


def rfmid(*rows: tuple[int, str]) -> str:
    """A table of RFMiD: number of the image, and abbreviations of what it shows."""
    names = RFMID_COLUMNS.split(",")
    lines = [f"ID,Disease_Risk,{RFMID_COLUMNS}"]
    for number, shown in rows:
        said = shown.split()
        hot = ",".join("1" if name in said else "0" for name in names)
        lines.append(f"{number},{int(bool(said))},{hot}")
    return "\r\n".join(lines) + "\r\n"


def rfmid_case(layout: str, tables: Sequence[str], images: Sequence[str]) -> Case:
    """RFMiD's three splits, whose numbers begin anew."""
    shows = {}
    for split, folder in zip(("train", "validation", "test"), images, strict=True):
        shows[f"{folder}/1.png"] = (split, ("normal",))
        shows[f"{folder}/2.png"] = (split, ("diabetic_retinopathy", "hazy_media", "macular_hole"))
    text = rfmid((1, ""), (2, "DR MH MHL"))
    return Case("rfmid", layout, "findings", shows, dict.fromkeys(tables, text), task="RFMiD")


DEEPDRID = "regular_fundus_images"
BRSET = (
    "image_id,patient_id,exam_eye,optic_disc,vessels,macula,DR_ICDR,macular_edema,scar,nevus,amd,"
    "vascular_occlusion,hypertensive_retinopathy,drusens,hemorrhage,retinal_detachment,"
    "myopic_fundus,increased_cup_disc,other,{},quality\n"
    "img00001,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,1,Adequate\n"
    "img00002,1,2,bv,1,2,3,1,0,0,0,0,0,1,0,0,0,1,0,2,Inadequate\n"
)

CASES = [
    Case(
        "aptos2019", "kaggle", "dr",
        {f"train_images/{n:012x}.png": ("", DR[n]) for n in range(5)},
        {
            "train.csv": "id_code,diagnosis\n" + "".join(f"{n:012x},{n}\n" for n in range(5)),
            "test.csv": "id_code\n0005cfc8afb6\n",
        },
        beside=["test_images/0005cfc8afb6.png"], task="APTOS2019",
        said="3662 images are published, 5 are here",
    ),
    Case(
        "aptos2019", "repack", "dr",
        {
            "train_images/train_images/a1.png": ("train", DR[0]),
            "train_images/train_images/a2.png": ("train", DR[4]),
            "val_images/val_images/b1.png": ("validation", DR[1]),
            "test_images/test_images/c1.png": ("test", DR[2]),
        },
        {
            "train_1.csv": "id_code,diagnosis\na1,0\na2,4\n",
            "valid.csv": "id_code,diagnosis\nb1,1\n",
            "test.csv": "id_code,diagnosis\nc1,2\n",
        },
        task="APTOS2019_repack", said="2930 images of train are published, 2 are here",
    ),
    folders("aptos2019", APTOS, "RETFound_APTOS2019"),
    Case(
        "messidor2", "grades", "dr",
        {
            "IMAGES/20051020_43808_0100_PP.png": ("", DR[0]),
            "IMAGES/20051020_43832_0100_PP.png": ("", DR[2]),
            "IMAGES/IM000001.JPG": ("", DR[4]),
            "IMAGES/IM000002.JPG": ("", None),
        },
        {
            "messidor_data.csv": "image_id,adjudicated_dr_grade,adjudicated_dme,"
            "adjudicated_gradable\n20051020_43808_0100_PP.png,0,0,1\n"
            "20051020_43832_0100_PP.png,2.0,1,1\nIM000001.jpg,4,1,1\nIM000002.jpg,,,0\n",
            "messidor-2.csv": "left;right\n20051020_43808_0100_PP.png;20051020_43832_0100_PP.png\n"
            "IM000001.jpg;IM000002.jpg\n",
        },
        task="MESSIDOR", said="1744 images are published, 4 are here",
    ),
    folders("messidor2", APTOS, "RETFound_MESSIDOR2"),
    *(
        Case(
            "idrid", layout, "dr",
            {
                f"{prefix}1. Original Images/a. Training Set/IDRiD_001.jpg": ("train", DR[3]),
                f"{prefix}1. Original Images/b. Testing Set/IDRiD_001.jpg": ("test", DR[1]),
            },
            {
                f"{prefix}2. Groundtruths/{letter}. IDRiD_Disease Grading_{name} Labels.csv":
                f"Image name,Retinopathy grade,Risk of macular edema ,,\nIDRiD_001,{grade},2,,\n"
                for letter, name, grade in (("a", "Training", 3), ("b", "Testing", 1))
            },
            task="IDRiD", said="413 images of train are published, 1 are here",
        )
        for layout, prefix in (("grading", "B. Disease Grading/"), ("inside", ""))
    ),
    folders("idrid", dict(zip(
        ("anoDR", "bmildDR", "cmoderateDR", "dsevereDR", "eproDR"), DR, strict=True
    )), "RETFound_IDRiD"),
    Case(
        "eyepacs", "kaggle", "dr",
        {
            "train/10_left.jpeg": ("train", DR[0]), "train/10_right.jpeg": ("train", DR[0]),
            "train/13_left.jpeg": ("train", DR[2]),
        },
        {"trainLabels.csv": "image,level\n10_left,0\n10_right,0\n13_left,2\n"},
        {"train/10_left.jpeg": "10", "train/10_right.jpeg": "10", "train/13_left.jpeg": "13"},
        task="EyePACS", said="retinopathy_solution.csv is not there",
    ),
    Case(
        "eyepacs", "kaggle", "dr",
        {
            "train/train/10_left.jpeg": ("train", DR[0]), "test/1_left.jpeg": ("test", DR[4]),
            "test/1_right.jpeg": ("test", DR[0]),
        },
        {
            "trainLabels.csv/trainLabels.csv": "image,level\n10_left,0\n",
            "retinopathy_solution.csv": "image,level,Usage\n1_left,4,Private\n1_right,0,Public\n",
        },
        {"test/1_left.jpeg": "1", "test/1_right.jpeg": "1", "train/train/10_left.jpeg": "10"},
        task="EyePACS", said="53576 images of test are published, 2 are here",
    ),
    *(
        Case(
            "ddr", layout, "dr",
            {
                f"{prefix}train/007-0004-000.jpg": ("train", DR[0]),
                f"{prefix}train/007-0005-000.jpg": ("train", None),
                f"{prefix}valid/007-0006-000.jpg": ("validation", DR[4]),
                f"{prefix}test/007-0007-000.jpg": ("test", DR[1]),
            },
            {
                f"{prefix}train.txt": "007-0004-000.jpg 0\n007-0005-000.jpg 5\n",
                f"{prefix}valid.txt": "007-0006-000.jpg 4\n",
                f"{prefix}test.txt": "007-0007-000.jpg 1\n",
            },
            beside=["lesion_segmentation/train/label/EX/007-0004-000.tif"], task="DDR",
            said="2733 images of validation are published, 1 are here",
        )
        for layout, prefix in (("grading", "DR_grading/"), ("inside", ""))
    ),
    Case(
        "ddr", "kaggle", "dr",
        {"DR_grading/DR_grading/007-1.jpg": ("", DR[0]),
         "DR_grading/DR_grading/007-2.jpg": ("", DR[3])},
        {"DR_grading.csv": "id_code,diagnosis\n007-1.jpg,0\n007-2.jpg,3\n"},
    ),
    rfmid_case(
        "dataport",
        [f"2. Groundtruths/{letter}. RFMiD_{name}_Labels.csv"
         for letter, name in (("a", "Training"), ("b", "Validation"), ("c", "Testing"))],
        [f"1. Original Images/{letter}. {name} Set"
         for letter, name in (("a", "Training"), ("b", "Validation"), ("c", "Testing"))],
    ),
    rfmid_case(
        "riadd",
        ["train_set/RFMiD_Training_Labels.csv", "val_set/RFMiD_Validation_Label.csv",
         "test_set/RFMiD_Testing_Labels.csv"],
        ["train_set/Training", "val_set/Validation", "test_set/Test"],
    ),
    rfmid_case(
        "kaggle",
        [f"{folder}_Set/{folder}_Set/RFMiD_{name}_Labels.csv" for folder, name in
         (("Training", "Training"), ("Evaluation", "Validation"), ("Test", "Testing"))],
        [f"{folder}_Set/{folder}_Set/{name}" for folder, name in
         (("Training", "Training"), ("Evaluation", "Validation"), ("Test", "Test"))],
    ),
    Case(
        "rfmid2", "zenodo", "findings",
        {
            "Training_set/1.jpg": ("train", ("normal",)),
            "Validation_set/1.jpg": ("validation", ("hazy_media",)),
            "Test_set/1.png": ("test", ("diabetic_retinopathy", "drusen")),
        },
        {
            f"{folder}/RFMiD_2_{name}_labels.csv":
            f"ID,WNL,DR,ARMD,MH,DN,MYA,BRVO,TSLN,CSR,CRVO,XYZ\n1,{cells}\n"
            for folder, name, cells in (
                ("Training_set", "Training", "1,0,0,0,0,0,0,0,0,0,0"),
                ("Validation_set", "Validation", "0,0,0,1,0,0,0,0,0,0,1"),
                ("Test_set", "Testing", "0,1,0,0,1,0,0,0,0,0,0"),
            )
        },
        task="RFMiD2",
    ),
    Case(
        "papila", "clinical", "glaucoma",
        {
            "FundusImages/RET002OD.jpg": ("", "normal"),
            "FundusImages/RET002OS.jpg": ("", "glaucoma"),
            "FundusImages/RET004OD.jpg": ("", "glaucoma_suspect"),
            "FundusImages/RET004OS.jpg": ("", "normal"),
        },
        {
            f"ClinicalData/patient_data_{eye}.xlsx": [
                [None, "Age", "Gender", "Diagnosis", "Refractive_Defect", None],
                [None, None, None, None, "dioptre_1", "dioptre_2"],
                ["ID", None, None, None, None, None],
                ["#002", 47, 0, first, 0.75, -1.75],
                ["#004", 58, 1, second, 1.5, None],
            ]
            for eye, first, second in (("od", 0, 2), ("os", 1, 0))
        },
        {f"FundusImages/RET{n}{eye}.jpg": n for n in ("002", "004") for eye in ("OD", "OS")},
        beside=["ExpertsSegmentations/Contours/RET002OD_cup_exp1.txt"], task="PAPILA",
        said="488 images are published, 4 are here",
    ),
    dataclasses.replace(
        folders("papila", {"anormal": "normal", "bsuspectglaucoma": "glaucoma_suspect",
                           "cglaucoma": "glaucoma"}, "RETFound_PAPILA", label="glaucoma"),
    ),
    folders("jsiec", {
        "0.0.Normal": "normal", "3.RAO": "retinal_artery_occlusion", "8.MH": "macular_hole",
        "10.0.Possible glaucoma": "glaucoma_suspect", "15.0.Retinitis pigmentosa":
        "retinitis_pigmentosa", "29.1.Blur fundus with suspected PDR": "blurred_with_suspected_pdr",
    }, "JSIEC", ("",), "disease", "folders"),
    folders("jsiec", {"0.0.Normal": "normal", "8.MH": "macular_hole"}, "RETFound_JSIEC",
            label="disease"),
    Case(
        "refuge", "official", "glaucoma",
        {
            "Training400/Glaucoma/g0001.jpg": ("train", "glaucoma"),
            "Training400/Non-Glaucoma/n0001.jpg": ("train", "no_glaucoma"),
            "REFUGE-Validation400/V0001.jpg": ("validation", "no_glaucoma"),
            "Test400/T0001.jpg": ("test", "glaucoma"),
        },
        {
            "REFUGE-Validation400-GT/Fovea_locations.xlsx": [
                ["ID", "ImgName", "Fovea_X", "Fovea_Y", "Glaucoma Label"],
                [1, "V0001.jpg", 1057.3, 1101.4, 0]],
            "REFUGE-Test-GT/Glaucoma_label_and_Fovea_location.xlsx": [
                ["ID", "ImgName", "Label(Glaucoma=1)", "Fovea_X", "Fovea_Y"],
                [1, "T0001.jpg", 1, 1057.3, 1101.4]],
        },
        beside=["REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp",
                "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp"],
        task="REFUGE_official", said="400 images of test are published, 1 are here",
    ),
    Case(
        "refuge2", "zip", "glaucoma",
        {
            "Train/REFUGE1-train/Training400/Glaucoma/g0001.jpg": ("train", "glaucoma"),
            "Train/REFUGE1-train/Training400/Non-Glaucoma/n0001.jpg": ("train", "no_glaucoma"),
            "Train/REFUGE1-val/REFUGE-Validation400/V0001.jpg": ("train", "no_glaucoma"),
            "Train/REFUGE1-test/Test400/T0001.jpg": ("train", "glaucoma"),
            "Validation/Images/V0001.jpg": ("validation", "glaucoma"),
            "Test/refuge2-test/T0001.jpg": ("test", "no_glaucoma"),
        },
        {
            "Train/REFUGE1-val/Fovea_locations.xlsx": [
                ["ID", "ImgName", "Fovea_X", "Fovea_Y", "Glaucoma Label"],
                [1, "V0001.jpg", 1057.3, 1101.4, 0]],
            "Train/REFUGE1-test/Glaucoma_label_and_Fovea_location.xlsx": [
                ["ID", "ImgName", "Label(Glaucoma=1)", "Fovea_X", "Fovea_Y"],
                [1, "T0001.jpg", 1, 1057.3, 1101.4]],
            "Validation/glaucoma.csv": "FileName,Glaucoma Risk\nV0001.jpg,1\n",
            "Test/task1.csv": "T0001.jpg,0\n",
        },
        beside=["Train/REFUGE1-train/Disc_Cup_Masks/Glaucoma/g0001.bmp"],
        task="REFUGE2", said="1200 images of train are published, 4 are here",
    ),
    Case(
        "refuge", "folders", "glaucoma",
        {"Training400/Glaucoma/g0001.jpg": ("", "glaucoma"),
         "Training400/Non-Glaucoma/n0001.jpg": ("", "no_glaucoma"),
         "Training400/Non-Glaucoma/n0002.jpg": ("", "no_glaucoma")},
        beside=["Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp"], task="REFUGE",
        said="400 images are published, 3 are here",
    ),
    Case(
        "refuge", "letters", "glaucoma",
        {"REFUGE-Training400/g0001.jpg": ("", "glaucoma"),
         "REFUGE-Training400/n0001.jpg": ("", "no_glaucoma")}, task="REFUGE",
    ),
    Case(
        "adam", "folders", "amd",
        {"Training400/AMD/A0001.jpg": ("", "amd"), "Training400/Non-AMD/N0001.jpg": ("", "no_amd")},
        task="AMD",
    ),
    Case(
        "adam", "letters", "amd",
        {"AMD-Training400/A0001.jpg": ("", "amd"), "AMD-Training400/N0001.jpg": ("", "no_amd")},
        task="AMD",
    ),
    Case(
        "palm", "challenge", "myopia",
        {
            "PALM-Training400/PALM-Training400/H0001.jpg": ("train", "no_pathologic_myopia"),
            "PALM-Training400/PALM-Training400/N0001.jpg": ("train", "no_pathologic_myopia"),
            "PALM-Training400/PALM-Training400/P0001.jpg": ("train", "pathologic_myopia"),
            "PALM-Validation400/V0001.jpg": ("validation", "pathologic_myopia"),
        },
        {"PALM-Validation-GT/PM_Label_and_Fovea_Location.xlsx": [
            ["ID", "imgName", "Label", "Fovea_X"], [1, "V0001.jpg", 1, 1057.3]]},
        task="PALM", said="400 images of validation are published, 1 are here",
    ),
    Case(
        "fives", "folders", "disease",
        {
            "train/Original/1_A.png": ("train", "amd"),
            "train/Original/2_N.png": ("train", "normal"),
            "test/Original/1_G.png": ("test", "glaucoma"),
            "test/Original/2_D.png": ("test", "diabetic_retinopathy"),
        },
        beside=["train/Original/Thumbs.db"], task="FIVES",  # its masks: `mask_releases`
        said="600 images of train are published, 2 are here",
    ),
    *(
        Case(
            "brset", "physionet", "findings",
            {"fundus_photos/img00001.jpg": ("", ()),
             "fundus_photos/img00002.jpg": ("", ("macular_oedema", "drusen", "large_cup"))},
            {table: BRSET.format(light)},
            {"fundus_photos/img00001.jpg": "1", "fundus_photos/img00002.jpg": "1"},
            task="BRSET_findings", said="16266 images are published, 2 are here",
        )
        for table, light in (("labels_brset.csv", "iluminaton"), ("labels.csv", "Illuminaton"))
    ),
    Case(
        "mbrset", "physionet", "dr",
        {"images/1.1.jpg": ("", DR[0]), "images/1.2.jpg": ("", None),
         "images/2.1.jpg": ("", DR[4])},
        {"labels_mbrset.csv": "patient,file,laterality,final_icdr,final_edema,final_quality\n"
         "1,1.1.jpg,left,0.0,no,yes\n1,1.2.jpg,left,,,no\n2,2.1.jpg,right,4.0,yes,yes\n"
         "985,985.1.jpg,left,0.0,no,yes\n"},
        {"images/1.1.jpg": "1", "images/1.2.jpg": "1", "images/2.1.jpg": "2"},
        task="mBRSET_DR", said="known to lack them: images/985.1.jpg",
    ),
    Case(
        "airogs", "zenodo", "glaucoma",
        {"0/TRAIN000000.jpg": ("", "no_glaucoma"), "5/TRAIN101441.jpg": ("", "glaucoma")},
        {"train_labels.csv": "challenge_id,class\nTRAIN000000,NRG\nTRAIN101441,RG\n"},
        task="AIROGS",
    ),
    Case(
        "deepdrid", "github", "dr",
        {
            f"{DEEPDRID}/regular-fundus-training/Images/1/1_l1.jpg": ("train", DR[0]),
            f"{DEEPDRID}/regular-fundus-training/Images/56/56_r3.jpg": ("train", DR[2]),
            f"{DEEPDRID}/regular-fundus-training/Images/57/57_r1.jpg": ("train", None),
            f"{DEEPDRID}/regular-fundus-validation/Images/265/265_l1.jpg": ("validation", DR[1]),
            f"{DEEPDRID}/Online-Challenge1&2-Evaluation/Images/347/347_l1.jpg": ("test", DR[4]),
        },
        {
            f"{DEEPDRID}/regular-fundus-{part}/regular-fundus-{part}.csv":
            "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,"
            f"patient_DR_Level,Clarity,Field definition,Artifact\n{rows}"
            for part, rows in (
                ("training",
                 "1,1_l1,\\regular-fundus-training\\1\\1_l1.jpg,1,0,,0,8,8,0\n"
                 "56,56_r3,\\regular-fundus-training\\56\\56_r3.jpg,1,2,,2,8,8,0\n"
                 "57,57_r1,\\regular-fundus-training\\57\\57_r1.jpg,0,,5,5,1,1,8\n"),
                ("validation",
                 "265,265_l1,\\regular-fundus-validation\\265\\265_l1.jpg,1,1.0,,1,8,8,0\n"),
            )
        }
        | {f"{DEEPDRID}/Online-Challenge1&2-Evaluation/Challenge1_labels.csv":
           "image_id,DR_Levels\n347_l1,4\n"},
        {
            f"{DEEPDRID}/regular-fundus-training/Images/1/1_l1.jpg": "1",
            f"{DEEPDRID}/regular-fundus-training/Images/56/56_r3.jpg": "56",
            f"{DEEPDRID}/regular-fundus-training/Images/57/57_r1.jpg": "57",
            f"{DEEPDRID}/regular-fundus-validation/Images/265/265_l1.jpg": "265",
            f"{DEEPDRID}/Online-Challenge1&2-Evaluation/Images/347/347_l1.jpg": "347",
        },
        task="DeepDRiD", said="1200 images of train are published, 3 are here",
    ),
    Case(
        "oct2017", "folders", "disease",
        {"train/CNV/CNV-1016042-1.jpeg": ("train", "choroidal_neovascularisation"),
         "train/NORMAL/NORMAL-12494-1.jpeg": ("train", "normal"),
         "train/DRUSEN/DRUSEN-95633-1.jpeg": ("train", "drusen"),
         "test/DME/DME-9583225-2.jpeg": ("test", "diabetic_macular_oedema")},
        patients={"train/CNV/CNV-1016042-1.jpeg": "1016042",
                  "train/NORMAL/NORMAL-12494-1.jpeg": "12494",
                  "train/DRUSEN/DRUSEN-95633-1.jpeg": "95633",
                  "test/DME/DME-9583225-2.jpeg": "9583225"},
        task="OCT2017",
    ),
    Case(
        "octdl", "mendeley", "disease",
        {"AMD/amd_1047099_1.jpg": ("", "amd"), "AMD/amd_1047099_2.jpg": ("", "amd"),
         "NO/normal_1.jpg": ("", "normal"),
         "VID/vid_7.jpg": ("", "vitreomacular_interface_disease")},
        {"OCTDL_labels.csv": "file_name,disease,subcategory,condition,patient_id,eye\n"
         "amd_1047099_1,AMD,dry,drusen,12,OD\namd_1047099_2,AMD,dry,drusen,12,OD\n"
         "normal_1,NO,,,13,OS\nvid_7,VID,ERM,,14,OS\n"},
        {"AMD/amd_1047099_1.jpg": "12", "AMD/amd_1047099_2.jpg": "12", "NO/normal_1.jpg": "13",
         "VID/vid_7.jpg": "14"},
        task="OCTDL",
    ),
    folders("octid", {"NORMAL": "normal", "AMRD": "amd", "CSR": "central_serous_chorioretinopathy",
                      "DR": "diabetic_retinopathy", "MH": "macular_hole"},
            "OCTID", ("",), "disease", "folders"),
    folders("octid", {"ANormal": "normal", "ARMD": "amd", "Macular_Hole": "macular_hole"},
            "RETFound_OCTID", label="disease"),
    folders("glaucoma_fundus", {"normal_control": "normal", "early_glaucoma": "early_glaucoma",
                                "advanced_glaucoma": "advanced_glaucoma"},
            "Glaucoma_fundus_Harvard", ("",), "glaucoma", "folders"),
    folders("glaucoma_fundus", {"anormal_control": "normal", "bearly_glaucoma": "early_glaucoma",
                                "cadvanced_glaucoma": "advanced_glaucoma"},
            "RETFound_Glaucoma_fundus", label="glaucoma"),
    folders("retina_cataract", {"1_normal": "normal", "2_cataract": "cataract", "2_glaucoma":
                                "glaucoma", "3_retina_disease": "other_retinal_disease"},
            "Retina", ("",), "disease", "folders"),
    folders("retina_cataract", {"anormal": "normal", "ddretina_disease": "other_retinal_disease"},
            "RETFound_Retina", label="disease"),
    Case(
        "acrima", "names", "glaucoma",
        {"Database/Images/Im001_ACRIMA.jpg": ("", "no_glaucoma"),
         "Database/Images/Im400_g_ACRIMA.jpg": ("", "glaucoma")}, task="ACRIMA",
    ),
    folders("acrima", {"G": "glaucoma", "noG": "no_glaucoma"}, "ACRIMA", ("",), "glaucoma",
            "folders"),
    Case(
        "origa", "list", "glaucoma",
        {"Images/001.jpg": ("", "no_glaucoma"), "Images/002.jpg": ("", "glaucoma")},
        {"OrigaList.csv":
         "Eye,Filename,ExpCDR,Set,Glaucoma\nOD,001.jpg,0.7,A,0\nOS,002.jpg,0.6,B,1\n"},
        task="ORIGA",
    ),
    Case(
        "g1020", "list", "glaucoma",
        {"Images/image_0.jpg": ("", "no_glaucoma"), "Images/image_1.jpg": ("", "glaucoma")},
        {"G1020.csv": "imageID,binaryLabels\nimage_0.jpg,0\nimage_1.jpg,1\n"}, task="G1020",
    ),
    *(
        Case(
            "rimone_dl", layout, "glaucoma",
            {f"RIM-ONE_DL_images/partitioned_{layout}/{folder}/{code}/r1_Im001.png":
             (split, condition)
             for folder, split in (("training_set", "train"), ("test_set", "test"))
             for code, condition in (("normal", "no_glaucoma"), ("glaucoma", "glaucoma"))},
            task=task,
        )
        for layout, task in (("randomly", "RIM_ONE_DL"), ("by_hospital", "RIM_ONE_DL_by_hospital"))
    ),
    folders("taop", {"normal": "normal", "amd": "amd", "glaucoma": "glaucoma"}, "TAOP", ("",),
            "disease", "folders"),
]  # fmt: skip
