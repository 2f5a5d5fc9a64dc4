"""What a network was trained on is held against a task: by name, by relations, by copies."""

import json

import pytest

from retfm_jax.config import load_config, to_dict
from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark.contamination import (
    VERDICTS,
    contamination_of,
    read_audit,
    trained_on,
)
from retfm_jax.interop.zoo import UNKNOWN, zoo


@pytest.mark.parametrize(
    ("seen", "task", "verdict", "said"),
    [
        # The network of a run that learned the task's own training split.
        (["IDRiD, train"], "IDRiD", "trained on its training split", "on IDRiD (train)"),
        (["IDRiD_DME, train"], "IDRiD", "trained on its training split", "IDRiD_DME (train)"),
        (["/data/eyes, train[:90%]"], "eyes", "trained on its training split", "eyes (train)"),
        (["IDRiD (train)"], "IDRiD", "trained on its training split", "on IDRiD (train)"),
        (["IDRiD, train+test"], "IDRiD", "holds its test", "holds the test of IDRiD"),
        # Another division of the same set, or one that nobody names.
        (["RETFound_APTOS2019, train"], "APTOS2019", "same set", "may be another"),
        (["aptos2019, train"], "APTOS2019", "same set", "may be another"),
        (["APTOS-2019"], "RETFound_APTOS2019", "same set", "nobody says on which split"),
        (["datasets/odir5k/1.0.0, train"], "ODIR200x3", "same set", "the set of ODIR200x3"),
        # Relations, in both directions and through others.
        (["Messidor-1"], "RETFound_MESSIDOR2", "holds its test", "messidor2 contains messidor1"),
        (["smdg19, train"], "PAPILA", "holds its test", "smdg19 pools papila"),
        (["mm_retinal_reason"], "REFUGE", "holds its test", "refuge2 contains refuge (all 1200)"),
        (["AIROGS"], "smdg19", "holds its test", "smdg19 pools airogs"),
        (["IDRiD"], "IDRiD_lesions", "holds its test", "idrid_lesions is a subset of idrid"),
        (["maples_dr"], "MESSIDOR", "shares a source", "messidor2 contains messidor1"),
        (["mm_retinal/ffa"], "IDRiD", "none known", "no relation to IDRiD is known of mm_retinal"),
        # What is not established is said, and hides nothing.
        ([UNKNOWN], "IDRiD", "unknown", "what it was trained on is not established"),
        (["EyePACS", UNKNOWN], "IDRiD", "unknown", "what else it was trained on is not"),
        (["idrid", UNKNOWN], "IDRiD", "same set", "what else it was trained on is not"),
        (zoo()["flair"].trained_on, "FIVES", "none known", "no relation to FIVES is known of EyeP"),
        (zoo()["keepfit"].trained_on, "RETFound_Retina", "same set", "the set of RETFound_Retina"),
        ([], "IDRiD", "none known", "it was trained on nothing"),
        (["somewhere"], "elsewhere", "none known", "no relation to elsewhere is known of somew"),
    ],
)
def test_the_worst_that_is_known_is_said_with_its_reason(seen, task, verdict, said):
    found = contamination_of(seen, task)
    assert found.verdict == verdict
    assert said.casefold() in " ".join(found.sentences).casefold()
    for sentence in found.sentences:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
    assert found.copies is None
    assert contamination_of([*seen, *seen], task) == found


def test_one_more_set_never_makes_a_verdict_better():
    sets = ["IDRiD, train", "IDRiD, test", "RETFound_IDRiD", "reta", "dme_vqa", "ddr", UNKNOWN]
    for first in sets:
        alone = VERDICTS.index(contamination_of([first], "IDRiD").verdict)
        for second in sets:
            both = VERDICTS.index(contamination_of([first, second], "IDRiD").verdict)
            assert both == min(alone, VERDICTS.index(contamination_of([second], "IDRiD").verdict))


def audit_file(folder, splits, *pairs):
    """An audit.json of these splits, and pairs of (set, split, photograph) with a verdict."""

    def end(said):
        name, split, photograph = said.split(":")
        return {"set": name, "split": split, "photograph": photograph}

    path = folder / "audit.json"
    content = {
        "splits": {
            each: dict(zip(("set", "split"), each.split(", "), strict=True)) for each in splits
        },
        "pairs": [
            {"first": end(first), "second": end(second), "verdict": verdict}
            for first, second, verdict in pairs
        ],
    }
    path.write_text(json.dumps(content))
    return path


def test_copies_that_an_audit_found_are_counted(tmp_path):
    path = audit_file(
        tmp_path,
        ["IDRiD, train", "IDRiD, test", "eyepacs, train", "eyepacs, test", "DDR, train"],
        ("IDRiD:test:1", "eyepacs:train:a", "same"),
        # A copy of a copy: the audit joins those with equal bytes to the first one alone.
        ("IDRiD:test:2", "DDR:train:x", "same"),
        ("DDR:train:x", "eyepacs:train:b", "same"),
        ("IDRiD:test:3", "eyepacs:train:c", "doubtful"),
        ("IDRiD:test:4", "eyepacs:test:d", "same"),
        ("IDRiD:test:5", "IDRiD:test:6", "same"),
        ("IDRiD:train:7", "eyepacs:train:e", "same"),
    )
    audited = read_audit(path)
    found = contamination_of(["EyePACS"], "IDRiD", audited)
    assert (found.verdict, found.copies) == ("holds its test", 3)
    assert "with a copy in EyePACS, by the audit: 3" in found.sentences[0]
    found = contamination_of(["eyepacs, train"], "IDRiD", audited)
    assert (found.verdict, found.copies) == ("holds its test", 2)
    found = contamination_of(["eyepacs, train"], "IDRiD", audited, "train")
    assert found.copies == 1
    # Nothing is said of what the audit did not look at.
    found = contamination_of(["BRSET"], "IDRiD", audited)
    assert (found.verdict, found.copies) == ("none known", None)
    assert "The audit did not look at BRSET." in found.sentences
    found = contamination_of(["eyepacs"], "PAPILA", audited)
    assert (found.verdict, found.copies) == ("none known", None)
    assert "The audit did not look at PAPILA, test." in found.sentences
    # Copies within the test split are no contamination; its own training split was looked at.
    found = contamination_of(["IDRiD, train"], "IDRiD", audited)
    assert (found.verdict, found.copies) == ("trained on its training split", 0)
    assert any("found no copy" in sentence for sentence in found.sentences)


@pytest.mark.parametrize("content", ["[]", "{}", '{"splits": {"a": 1}, "pairs": []}'])
def test_a_file_that_is_no_audit_is_refused(tmp_path, content):
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(UserError, match="holds no audit; give the "):
        read_audit(tmp_path / "audit.json")


def run(folder, **changes):
    """A checkpoint as far as it is read here: its configuration, and no array."""
    import orbax.checkpoint as ocp

    config = to_dict(load_config("quickstart"))
    for entry, value in changes.items():
        part, _, name = entry.partition("__")
        config[part][name] = value
    checkpoint = folder / "checkpoints" / "3"
    (checkpoint / "network").mkdir(parents=True)
    (checkpoint / "_CHECKPOINT_METADATA").write_text("{}")
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
        writer.save(checkpoint / "meta", args=ocp.args.JsonSave({"config": config}))
    return str(folder)


def test_a_run_names_its_data_and_that_of_its_initial_weights(tmp_path):
    first = run(tmp_path / "a", data__dataset="ddr", init__image="retfound-green")
    second = run(tmp_path / "b", data__dataset="IDRiD", init__weights=first)
    assert trained_on(first) == ("ddr, train", "AIROGS", "DDR", "ODIR-5K")
    assert trained_on(second) == ("IDRiD, train", "ddr, train", "AIROGS", "DDR", "ODIR-5K")
    # Folds and shares of its own: which images it saw cannot be told by the split's name.
    own = run(tmp_path / "c", data__dataset="IDRiD", data__fold=[0, 5], init__weights=second)
    assert trained_on(own)[:2] == ("IDRiD", "IDRiD, train")
    # Text towers saw no photographs, files of others may have seen anything.
    (tmp_path / "tower.pth").write_bytes(b"")
    towers = {"init__image": str(tmp_path / "tower.pth"), "init__text": "/nowhere/bert"}
    assert trained_on(run(tmp_path / "d", **towers)) == ("synthetic_fundus, train", UNKNOWN)
    expert = {"data__expert": {"dataset": "mm_retinal", "split": "train"}}
    said = trained_on(run(tmp_path / "e", data__dataset="flair", **expert))
    assert said == ("flair, train", "mm_retinal, train")
    circle = tmp_path / "f"
    assert trained_on(run(circle, init__weights=str(circle))) == ("synthetic_fundus, train",)


def test_published_models_and_folders_of_the_hub_say_it_themselves(tmp_path):
    entry = zoo()["flair"]
    assert trained_on("flair") == entry.trained_on
    assert entry.address is not None
    assert trained_on(entry.address) == entry.trained_on
    assert trained_on("hf:nobody/nothing") == trained_on(str(tmp_path / "none")) == (UNKNOWN,)
    folder = tmp_path / "hub"
    folder.mkdir()
    config = {"method": "retclip", "data": {"dataset": "odir5k"}, "init": {"image": "run"}}
    content = {"format": 1, "config": config}
    (folder / "config.json").write_text(json.dumps({"retfm_jax": content}))
    # What a folder of others names is not followed, whatever lies here under that name.
    assert trained_on(str(folder)) == ("odir5k, train", UNKNOWN)
    origin = {"source": "x", "trained_on": ["RFMiD"]}
    (folder / "config.json").write_text(json.dumps({"retfm_jax": content | {"origin": origin}}))
    (folder / "model.safetensors").write_bytes(b"")
    assert trained_on(str(folder)) == trained_on(f"{folder}/model.safetensors") == ("RFMiD",)
