"""Small releases of sets with masks, each laid out as it is found, with its faults."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: Height and width of all photographs.
SHAPE = (24, 32)
FORMATS = {
    "jpg": "JPEG", "png": "PNG", "tif": "TIFF", "gif": "GIF", "bmp": "BMP", "ppm": "PPM"
}  # fmt: skip


def drawn(seed: int) -> np.ndarray:
    """A mask of a few pixels, of which some are always there and some never."""
    mask = (np.random.default_rng(seed).random(SHAPE) < 0.2).astype(np.uint8)
    mask[0, 0], mask[0, 1] = 1, 0
    return mask


def encoded(picture: Image.Image, path: str) -> bytes:
    """A picture in the format that its path names."""
    buffer = io.BytesIO()
    picture.save(buffer, FORMATS[path.rpartition(".")[2].lower()])
    return buffer.getvalue()


def photograph(seed: int, path: str) -> bytes:
    """Noise in a lit disc."""
    rng = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    lit = (x - 15.5) ** 2 + (y - 11.5) ** 2 < 144
    pixels = rng.integers(90, 255, (*SHAPE, 3)) * lit[..., None]
    return encoded(Image.fromarray(pixels.astype(np.uint8)), path)


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask file: `seed` of what is drawn; `how` its values are written."""

    seed: int
    how: str = "gray"

    def write(self, path: str) -> bytes:
        """The file's bytes."""
        mask = drawn(self.seed)
        if self.how == "bit":
            return encoded(Image.fromarray(mask * 255).convert("1"), path)
        if self.how == "field":  # most of the photograph
            return encoded(Image.fromarray((1 - mask) * np.uint8(255)), path)
        if self.how == "red":
            return encoded(Image.fromarray(np.dstack([mask * 76, mask * 0, mask * 0])), path)
        if self.how == "palette":
            picture = Image.fromarray(mask).convert("P")
            picture.putdata(mask.ravel().tolist())
            picture.putpalette([0, 0, 0, 255, 255, 255])
            return encoded(picture, path)
        if self.how == "cup":  # 0 in the cup, 128 in the rim, 255 around
            codes = np.where(mask == 1, 0, np.where(disc(self.seed) == 1, 128, 255))
            return encoded(Image.fromarray(codes.astype(np.uint8)), path)
        if self.how == "soft":  # what all of four drew, what some did, what nobody did
            codes = np.where(mask == 1, 255, np.where(disc(self.seed) == 1, 64, 0))
            return encoded(Image.fromarray(codes.astype(np.uint8)), path)
        return encoded(Image.fromarray(mask * np.uint8(255)), path)


def disc(seed: int) -> np.ndarray:
    """What holds the drawn mask, and more."""
    return np.maximum(drawn(seed), drawn(seed + 500))


@dataclasses.dataclass(frozen=True)
class MaskCase:
    """A release in one layout, and what is to be read out of it.

    Attributes:
      name, layout: of the set.
      shows: path of a photograph -> its split ("" where nobody says it), and structure -> path of
        its mask, "" where it is absent; no entry where it is unknown.
      files: path of a mask -> what is in it.
      fields: path of a photograph -> path of its field of view.
      patients: path of a photograph -> patient, where the release says it.
      beside: other files.
      faults: kinds of the faults of its masks.
      task: on its masks.
    """

    name: str
    layout: str
    shows: Mapping[str, tuple[str, Mapping[str, str]]]
    files: Mapping[str, Mask]
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    patients: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: Sequence[str] = ()
    faults: tuple[str, ...] = ()
    task: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.layout}"

    def write(self, folder: Path) -> None:
        """Writes the release into a folder."""
        everything = {
            **{path: photograph(seed, path) for seed, path in enumerate(self.shows)},
            **{path: mask.write(path) for path, mask in self.files.items()},
            **{path: b"\xd0\xcf" for path in self.beside},
        }
        for path, data in everything.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)

    def truth(self, structure: str, path: str) -> np.ndarray:
        """What a mask of a structure is to be read as."""
        mask = self.files[path]
        if mask.how == "cup":
            return disc(mask.seed) if structure == "optic_disc" else drawn(mask.seed)
        if mask.how == "soft" and structure.endswith("_any"):
            return disc(mask.seed)
        return drawn(mask.seed)


def idrid(layout: str, base: str) -> MaskCase:
    folders = ("1. Microaneurysms", "2. Haemorrhages", "3. Hard Exudates", "4. Soft Exudates")
    names = ("microaneurysms", "hemorrhages", "hard_exudates", "soft_exudates", "optic_disc")
    codes = ("MA", "HE", "EX", "SE", "OD")
    shows, files = {}, {}
    for split, part, number in (
        ("train", "a. Training Set", 1),
        ("train", "a. Training Set", 2),
        ("test", "b. Testing Set", 55),
    ):
        masks = {}
        for column, (folder, name, code) in enumerate(
            zip((*folders, "5. Optic Disc"), names, codes, strict=True)
        ):
            below = f"2. All Segmentation Groundtruths/{part}/{folder}"
            path = f"{base}{below}/IDRiD_{number:02d}_{code}.tif"
            # The second photograph has no soft exudates; one mask is red, as some readers have it.
            masks[name] = "" if (number, code) == (2, "SE") else path
            if masks[name]:
                files[path] = Mask(10 * number + column, "red" if code == "EX" else "bit")
        shows[f"{base}1. Original Images/{part}/IDRiD_{number:02d}.jpg"] = (split, masks)
    return MaskCase(
        "idrid_lesions", layout, shows, files,
        beside=[f"{base}LICENSE.txt"],
        task="IDRiD_lesions",
    )  # fmt: skip


def ddr() -> MaskCase:
    names = {
        "MA": "microaneurysms",
        "HE": "hemorrhages",
        "EX": "hard_exudates",
        "SE": "soft_exudates",
    }
    shows, files = {}, {}
    for number, (split, part, folder) in enumerate(
        (
            ("train", "train", "label"),
            ("validation", "valid", "segmentation label"),
            ("test", "test", "label"),
        )
    ):
        base, masks = f"lesion_segmentation/{part}", {}
        for column, (code, name) in enumerate(names.items()):
            masks[name] = "" if code == "SE" else f"{base}/{folder}/{code}/007-{number}.tif"
            if masks[name]:
                files[masks[name]] = Mask(10 * number + column)
        shows[f"{base}/image/007-{number}.jpg"] = (split, masks)
    return MaskCase("ddr_lesions", "folders", shows, files, task="DDR_lesions")


def drive() -> MaskCase:
    shows, files, fields = {}, {}, {}
    for split, part, number in (
        ("train", "training", 21),
        ("train", "training", 22),
        ("test", "test", 1),
        ("test", "test", 2),
    ):
        image = f"{part}/images/{number:02d}_{part}.tif"
        mask = f"{part}/1st_manual/{number:02d}_manual1.gif"
        fields[image] = f"{part}/mask/{number:02d}_{part}_mask.gif"
        files |= {mask: Mask(number, "palette"), fields[image]: Mask(100 + number, "field")}
        shows[image] = (split, {"vessels": mask})
    # The second photograph of the test set has no vessels, as in the release of the challenge.
    image, mask = "test/images/02_test.tif", "test/1st_manual/02_manual1.gif"
    shows[image] = ("test", {})
    del files[mask]
    files |= {
        "test/2nd_manual/01_manual2.gif": Mask(7),
        "training/1st_manual/99_manual1.gif": Mask(8),
    }
    return MaskCase(
        "drive", "folders", shows, files, fields,
        faults=("mask_without_image", "missing_mask"),
        task="DRIVE",
    )  # fmt: skip


def stare() -> MaskCase:
    shows = {
        f"stare-images/{name}.ppm": (split, {"vessels": f"labels-ah/{name}.ah.ppm"})
        for name, split in (("im0001", "train"), ("im0139", "train"), ("im0162", "test"))
    }
    files = {masks["vessels"]: Mask(n) for n, (_, masks) in enumerate(shows.values())}
    files["labels-vk/im0001.vk.ppm"] = Mask(9)
    return MaskCase("stare", "folders", shows, files, task="STARE")


def chase() -> MaskCase:
    names = {"Image_01L": "train", "Image_01R": "train", "Image_14L": "test", "Image_14R": "test"}
    shows = {f"{n}.jpg": (split, {"vessels": f"{n}_1stHO.png"}) for n, split in names.items()}
    files = {
        f"{name}_{which}HO.png": Mask(n) for n, name in enumerate(names) for which in ("1st", "2nd")
    }
    return MaskCase(
        "chase_db1", "files", shows, files,
        patients={f"{name}.jpg": name[6:8] for name in names},
        task="CHASE_DB1",
    )  # fmt: skip


def hrf() -> MaskCase:
    names = {"01_h": "train", "05_dr": "train", "06_g": "test", "15_h": "test"}
    endings = {"05_dr": "JPG"}
    shows = {
        f"images/{name}.{endings.get(name, 'jpg')}": (split, {"vessels": f"manual1/{name}.tif"})
        for name, split in names.items()
    }
    fields = {
        image: masks["vessels"].replace("manual1", "mask").replace(".tif", "_mask.tif")
        for image, (_, masks) in shows.items()
    }
    files = {masks["vessels"]: Mask(n) for n, (_, masks) in enumerate(shows.values())}
    files |= {path: Mask(50 + n, "field") for n, path in enumerate(fields.values())}
    return MaskCase("hrf", "folders", shows, files, fields, task="HRF")


def fives() -> MaskCase:
    names = {"train/1_A": "train", "train/2_N": "train", "test/1_D": "test", "test/2_G": "test"}
    shows = {}
    for name, split in names.items():
        folder, file = name.split("/")
        shows[f"{folder}/Original/{file}.png"] = (
            split,
            {"vessels": f"{folder}/Ground truth/{file}.png"},
        )
    files = {masks["vessels"]: Mask(n) for n, (_, masks) in enumerate(shows.values())}
    return MaskCase(
        "fives", "folders", shows, files, beside=["train/Original/Thumbs.db"], task="FIVES_vessels"
    )


def refuge() -> MaskCase:
    of_training = "Annotation-Training400/Disc_Cup_Masks"
    places = {
        "Training400/Glaucoma/g0001": ("train", f"{of_training}/Glaucoma/g0001"),
        "Training400/Non-Glaucoma/n0001": ("train", f"{of_training}/Non-Glaucoma/n0001"),
        "REFUGE-Validation400/V0001": ("validation", "REFUGE-Validation400-GT/V0001"),
        "REFUGE-Test400/T0001": ("test", "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001"),
    }
    shows, files = {}, {}
    for number, (image, (split, mask)) in enumerate(places.items()):
        path = f"{mask}.bmp"
        shows[f"{image}.jpg"] = (split, {"optic_disc": path, "optic_cup": path})
        files[path] = Mask(number, "cup")
    return MaskCase("refuge_disc_cup", "challenge", shows, files, task="REFUGE_disc_cup")


def drishti() -> MaskCase:
    shows, files = {}, {}
    for number, (split, part, truth) in enumerate(
        (
            ("train", "Training/Images/GLAUCOMA", "Training/GT"),
            ("train", "Training/Images/NORMAL", "Training/GT"),
            ("test", "Test/Images", "Test/Test_GT"),
        ),
        start=1,
    ):
        name = f"drishtiGS_{number:03d}"
        paths = {
            "optic_disc": f"{truth}/{name}/SoftMap/{name}_ODsegSoftmap.png",
            "optic_cup": f"{truth}/{name}/SoftMap/{name}_cupsegSoftmap.png",
        }
        files |= {path: Mask(10 * number + n, "soft") for n, path in enumerate(paths.values())}
        masks = {**paths, **{f"{each}_any": path for each, path in paths.items()}}
        shows[f"{part}/{name}.png"] = (split, masks)
    return MaskCase("drishti_gs1", "folders", shows, files, task="DrishtiGS_disc_cup")


def eophtha(layout: str, parts: Sequence[str], base: Mapping[str, str]) -> MaskCase:
    shows, files, patients = {}, {}, {}
    for number, part in enumerate(parts):
        structure = {"EX": "hard_exudates", "MA": "microaneurysms"}[part]
        ending = "_EX" if part == "EX" else ""
        for eye in range(2):
            name = f"{part}/E000{number}/C{number}{eye}"
            mask = f"{base[part]}Annotation_{name}{ending}.png"
            shows[f"{base[part]}{name}.jpg"] = ("", {structure: mask})
            files[mask] = Mask(10 * number + eye)
            patients[f"{base[part]}{name}.jpg"] = f"E000{number}"
        healthy = f"{base[part]}healthy/E009{number}/H{number}.jpg"
        shows[healthy] = ("", {structure: ""})
        patients[healthy] = f"E009{number}"
    task = "eophtha_microaneurysms" if list(parts) == ["MA"] else "eophtha_exudates"
    return MaskCase("e_ophtha", layout, shows, files, patients=patients, task=task)


MASK_CASES = [
    idrid("segmentation", "A. Segmentation/"),
    idrid("inside", ""),
    ddr(),
    drive(),
    stare(),
    chase(),
    hrf(),
    fives(),
    refuge(),
    drishti(),
    eophtha("both", ("EX", "MA"), {"EX": "e_optha_EX/", "MA": "e_optha_MA/"}),
    eophtha("exudates", ("EX",), {"EX": ""}),
    eophtha("microaneurysms", ("MA",), {"MA": ""}),
]
