"""The vocabulary: what it must hold, and what it refuses."""

import re

import pytest

from retfm_jax.data_builders.synthetic_fundus.population import LABELS
from retfm_jax.errors import UserError
from retfm_jax.knowledge.normalize import SPELLINGS, fold, normalize
from retfm_jax.knowledge.vocabulary import LANGUAGES, load_vocabulary

ENTRY = """
- id: {id}
  name: {{en: {en}, zh: {zh}}}
  kind: finding
"""


def write(folder, text):
    path = folder / "conditions.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def entry(condition_id, en="a name", zh="名称", **keys):
    lines = "".join(f"  {key}: {value}\n" for key, value in keys.items())
    return ENTRY.format(id=condition_id, en=en, zh=zh).lstrip("\n") + lines


def test_bundled_vocabulary_is_large_and_complete():
    vocabulary = load_vocabulary()
    assert len(vocabulary) >= 90
    for condition in vocabulary:
        assert re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", condition.id)
        for language in LANGUAGES:
            assert condition.name[language]
            assert condition.signs[language] or condition.oct_signs[language], condition.id
        assert condition.name["en"].isascii()
        assert not condition.name["zh"].isascii()
        signs = (*condition.signs["zh"], *condition.oct_signs["zh"])
        assert all(not sign.isascii() for sign in signs)
        assert len(condition.oct_signs["en"]) == 0 or condition.oct_signs["zh"], condition.id


def test_labels_of_the_synthetic_dataset_and_of_public_tasks_are_conditions():
    ids = set(load_vocabulary().ids)
    assert set(LABELS) <= ids
    assert {
        "no_diabetic_retinopathy", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr",
        "no_macular_oedema_risk", "low_macular_oedema_risk", "high_macular_oedema_risk",
        "glaucoma", "no_glaucoma", "amd", "no_amd", "cataract", "pathologic_myopia",
        "hypertensive_retinopathy",
    } <= ids  # fmt: skip


def test_hierarchy():
    vocabulary = load_vocabulary()
    assert vocabulary.ancestors("moderate_npdr") == ("npdr", "diabetic_retinopathy")
    assert vocabulary.ancestors("normal") == ()
    assert set(vocabulary.children("npdr")) == {"mild_npdr", "moderate_npdr", "severe_npdr"}
    assert "venous_beading" in vocabulary.findings_of("severe_npdr")
    for condition in vocabulary:
        assert condition.id not in vocabulary.ancestors(condition.id)


def test_find_knows_every_spelling():
    vocabulary = load_vocabulary()
    for name in ("hard_exudates", "Hard Exudates", "硬性渗出", "HE", "hard-exudates"):
        assert vocabulary.find(name).id == "hard_exudates"
    assert vocabulary.find("optic disk edema").id == "optic_disc_oedema"
    assert vocabulary.find("a thing of no name") is None


def test_every_regional_spelling_folds_into_another_one():
    for variant, spelling in SPELLINGS:
        assert variant != spelling
        assert fold(f"x{variant}") == fold(f"x{spelling}"), variant


def test_a_condition_is_found_in_american_and_in_british_spelling():
    vocabulary = load_vocabulary()
    for american, british in (
        ("center involving diabetic macular edema", "centre involving diabetic macular oedema"),
        ("retinal hemorrhage", "retinal haemorrhage"),
    ):
        assert vocabulary.find(american) is vocabulary.find(british) is not None


def test_normalizing_keeps_every_position():
    text = "左眼：Ｃ／Ｄ　０．７，\n视網膜—Hemorrhage “DR”\tİ"
    assert len(normalize(text)) == len(text)
    assert fold("Retinal  Hemorrhage") == fold("retinal-haemorrhage")


def test_replacing_and_extending(tmp_path):
    own = write(tmp_path, entry("chorioretinal_thing", "chorioretinal thing", "脉络膜东西"))
    assert load_vocabulary(own).ids == ("chorioretinal_thing",)
    extended = load_vocabulary(extend=own)
    assert extended.ids == (*load_vocabulary().ids, "chorioretinal_thing")


def test_an_extension_adds_to_a_known_condition(tmp_path):
    path = write(tmp_path, "- id: drusen\n  synonyms: {en: [yellow spots]}\n  parent: amd\n")
    before, after = load_vocabulary()["drusen"], load_vocabulary(extend=path)["drusen"]
    assert after.synonyms["en"] == (*before.synonyms["en"], "yellow spots")
    assert after.synonyms["zh"] == before.synonyms["zh"]
    assert after.parent == "amd"
    assert after.kind == before.kind


def test_one_language_is_enough(tmp_path):
    path = write(tmp_path, "- id: thing\n  name: {en: some thing}\n")
    assert load_vocabulary(path)["thing"].name == {"en": "some thing", "zh": "some thing"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry("one") + entry("one"), "'one' occurs twice"),
        (entry("one", "same", "一") + entry("two", "Same", "二"), "'two'.*'Same'.*'one'"),
        (entry("one", "haemorrhagic", "一") + entry("two", "hemorrhagic", "二"), "'hemorrhagic'"),
        (
            entry("one", "a", "一", synonyms="{zh: [同]}") + entry("two", "b", "同"),
            "'two'.*'同'.*'one'",
        ),
        (entry("one", "a", "一", abbreviations="[XY]") + entry("two", "xy", "二"), "'xy'|'XY'"),
        *(
            (entry("one", f'"{term}"', "一"), "'one': the term .* has no letter")
            for term in ("-", "?", "...", "12", "（－）", "+", "±", "/", "★", "☑ ", "\\u200b1")
        ),
        (entry("one", synonyms='{en: ["a b", "#"]}'), "'one': the term '#' has no letter"),
        (entry("one", "x" * 201, "一"), "'one': the term 'x+'... has 201 characters"),
        *(
            (entry("one", f'"{word}"', "一"), f"'one': the term '{word}' is a word by which")
            for word in ("no", "NOT", "Left", "OD", "and", "无", "左眼", "疑似")
        ),
        (entry("one", sings="{}"), "'one': unknown key 'sings'"),
        (entry("one", parent="nobody"), "'one': 'parent' names 'nobody'"),
        (entry("one", sign_of="[nobody]"), "'one': 'sign_of' names 'nobody'"),
        (entry("one", parent="one"), "'one'.*itself"),
        (
            entry("one", "a", "一", parent="two") + entry("two", "b", "二", parent="one"),
            "cycle: one -> two -> one",
        ),
        (entry("Not Snake"), "'Not Snake' is not in snake_case"),
        ("- name: {en: a}\n", "entry 1 has no 'id'"),
        ("- id: one\n", "'one': 'name' is missing"),
        ("- id: one\n  name: {fr: un}\n", "unknown language 'fr'"),
        ("- id: one\n  name: {en: ~}\n", "'one': 'name': None is not text"),
        ("- id: one\n  name: {en: [no]}\n", r"'one': 'name': \['no'\] is not text"),
        ("- id: one\n  name: {en: a}\n  id: one\n", "the key 'id' occurs twice"),
        (entry("one", synonyms="{en: a b}"), "expected a list of texts"),
        (entry("one", grade="worse", parent="one"), "'grade' must be one of"),
        (entry("one", grade="mild"), "'grade' needs a 'parent'"),
        ("- one\n", "entry 1 is no mapping"),
        ("id: one\n", "expected a list of conditions"),
        ("- id: [\n", "not valid YAML"),
        ("- !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as raised:
        load_vocabulary(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*absent\.yaml"):
        load_vocabulary(tmp_path / "absent.yaml")


def test_an_extension_s_fault_is_not_laid_on_another_file(tmp_path):
    path = write(tmp_path, entry("blot", "-", "斑"))
    with pytest.raises(UserError) as refusal:
        load_vocabulary(extend=path)
    assert str(refusal.value).startswith(f"{path}: entry 'blot'")
    assert str(refusal.value).count(".yaml") == 1
