"""Addresses on the Hugging Face Hub: what they mean, what is fetched, and what can go wrong."""

import pytest
from hub_cache import COMMIT, cached, hub_cache
from huggingface_hub import HfApi, constants, errors

from retfm_jax import hub
from retfm_jax.errors import UserError
from retfm_jax.interop.sources import choose

ADDRESS = hub.Address("owner/name")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return hub_cache(tmp_path, monkeypatch)


def test_an_address_is_read_and_written():
    for text, want in (
        ("hf:jusiro2/FLAIR", ("jusiro2/FLAIR", None, None)),
        ("hf:a/b-c.d_e@v1.0", ("a/b-c.d_e", "v1.0", None)),
        ("hf:a/b:w/x.pth", ("a/b", None, "w/x.pth")),
        ("hf:a/b@refs/pr/1:x.pth", ("a/b", "refs/pr/1", "x.pth")),
    ):
        found = hub.address(text)
        assert tuple(found) == want
        assert str(found) == text


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:name", "hf:a/b/c", "hf:a/..", "hf:../b", "hf:a/b@", "hf:a/b:", "hf:a/b@../../x",
     "hf:a/b:/etc/passwd", "hf:a/b:x/../../y", "hf:a/b\n", "hf:a/b@x@y", "hf:é/b"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UserError, match="is no address on the Hub: give hf:owner/name"):
        hub.address(text)


def test_the_cache_answers_without_a_network(cache):
    folder = cached(cache, "owner/name", {"model.safetensors": b"x", "config.json": b"{}"})
    for revision in (None, "main", COMMIT):
        found = hub.fetch(ADDRESS._replace(revision=revision), lambda names: names)
        assert found == (folder, ("config.json", "model.safetensors"), COMMIT)
    for revision in ("v2", "f" * 40):
        with pytest.raises(UserError, match=r"not in the cache .*unset HF_HUB_OFFLINE"):
            hub.fetch(ADDRESS._replace(revision=revision), lambda names: names)


def answer(error, status):
    response = errors.Response(status, request=_request())
    return error("the server's words\nand more", response=response)


def _request():
    import inspect

    module = inspect.getmodule(errors.Response)
    assert module is not None
    package = __import__(module.__name__.split(".")[0])
    return package.Request("GET", "https://huggingface.co/api/models/owner/name")


def unreachable(name):
    module = __import__(errors.HTTPError.__module__.split(".")[0])
    return getattr(module, name)("[Errno -2] Name or service not known")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answer(errors.GatedRepoError, 403),
         r"is gated: accept its license on https://huggingface.co/owner/name, .*HF_TOKEN"),
        (answer(errors.RepositoryNotFoundError, 404), "there is no repository hf:owner/name, or"),
        (answer(errors.RevisionNotFoundError, 404), "has no revision 'v9': .* lists its branches"),
        (answer(errors.HfHubHTTPError, 403), "the Hub answers 403; the token may not read there"),
        (answer(errors.HfHubHTTPError, 500), "the Hub answers 500; try again later"),
        (unreachable("ConnectError"), "not in the cache .*the Hub cannot be reached: connect"),
        (unreachable("ReadTimeout"), "not in the cache .*the Hub cannot be reached: connect"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)  # fmt: skip
def test_each_failure_is_one_sentence_with_a_remedy(error, said, cache, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(HfApi, "model_info", fail)
    with pytest.raises(UserError, match=said) as found:
        hub.fetch(ADDRESS._replace(revision="v9"), lambda names: names)
    assert "\n" not in str(found.value)


def test_an_unreachable_hub_leaves_what_is_there(cache, monkeypatch, caplog):
    cached(cache, "owner/name", {"model.safetensors": b"x"})

    def fail(*_, **__):
        raise unreachable("ConnectError")

    monkeypatch.setattr(HfApi, "model_info", fail)
    assert hub.fetch(ADDRESS, lambda names: names).commit == COMMIT
    assert "the Hub cannot be reached, what was downloaded of commit 0123456789ab" in caplog.text


def test_only_what_is_chosen_is_downloaded_and_of_one_commit(cache, monkeypatch):
    """A server that answers from memory."""
    import huggingface_hub

    folder = cached(cache, "owner/name", {"model.safetensors": b"x", "config.json": b"{}"})
    fetched, sha = [], [COMMIT]
    names = ["config.json", "modeling_evil.py", "model.safetensors", "pytorch_model.bin"]

    def info(self, repo, revision=None):
        siblings = [{"rfilename": name} for name in names]
        return huggingface_hub.ModelInfo(id=repo, sha=sha[0], siblings=siblings, tags=[])

    def download(repo, name, revision=None):
        fetched.append((name, revision))
        return str(folder / name)

    monkeypatch.setattr(HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = hub.fetch(ADDRESS, lambda names: choose(ADDRESS, names))
    assert found == (folder, ("model.safetensors", "config.json"), COMMIT)
    assert fetched == [("model.safetensors", None), ("config.json", None)]
    sha[0] = "f" * 40
    with pytest.raises(UserError, match="was changed while it was downloaded: try again"):
        hub.fetch(ADDRESS, lambda names: choose(ADDRESS, names))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "x.py"], ["model.safetensors"]),
        (["pytorch_model.bin", "vocab.txt", "config.json"],
         ["pytorch_model.bin", "vocab.txt", "config.json"]),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model.md",
          "model-00002-of-00002.safetensors", "tokenizer.json"],
         ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
          "model-00002-of-00002.safetensors", "tokenizer.json"]),
        (["RETFound_mae_natureCFP.pth", "README.md"], ["RETFound_mae_natureCFP.pth"]),
        (["open_clip_model.safetensors", "open_clip_config.json"],
         ["open_clip_model.safetensors", "open_clip_config.json"]),
    ],
)  # fmt: skip
def test_weights_are_chosen_in_the_order_of_folders(names, chosen):
    assert choose(ADDRESS, names) == chosen


def test_a_file_is_named_where_there_is_a_choice():
    with pytest.raises(UserError, match=r"2 weight files, name one .*: a\.pth, b\.pth"):
        choose(ADDRESS, ["a.pth", "b.pth"])
    with pytest.raises(UserError, match=r"no weight file: look at its page https://hugg"):
        choose(ADDRESS, ["README.md", "model.onnx"])
    with pytest.raises(UserError, match=r"has no file c\.pth; did you mean 'b\.pth'"):
        choose(ADDRESS._replace(file="c.pth"), ["x/a.pth", "b.pth"])
    ours = ["README.md", "classes.json", "config.json", "model.safetensors"]
    assert choose(ADDRESS, ours) == ["model.safetensors", "classes.json", "config.json"]
    chosen = choose(ADDRESS._replace(file="x/a.pth"), ["x/a.pth", "config.json", "x/config.json"])
    assert chosen == ["x/a.pth", "x/config.json"]


def test_a_tokenizer_of_the_hub_is_that_of_transformers(cache):
    """Which lower-cases where the repository does not say, whatever its vocabulary is."""
    from transformers import AutoTokenizer

    from retfm_jax.config import TextConfig
    from retfm_jax.data.text import Tokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "The", "the", "drusen"]
    files = {"vocab.txt": "\n".join(words).encode(), "config.json": b'{"model_type": "bert"}'}
    folder = cached(cache, "owner/clinical", files)
    made = Tokenizer(TextConfig("hf:owner/clinical", context_length=6))
    assert made(["The drusen"]).tolist() == [[2, 5, 6, 3, 0, 0]]
    assert AutoTokenizer.from_pretrained(folder)("The drusen")["input_ids"] == [2, 5, 6, 3]
    # A file of one's own is read as its entries look.
    own = Tokenizer(TextConfig(str(folder / "vocab.txt"), context_length=6))
    assert own(["The drusen"]).tolist() == [[2, 4, 6, 3, 0, 0]]
    _, pinned = hub.tokenizer_folder("hf:owner/clinical")
    assert pinned == f"hf:owner/clinical@{COMMIT}"
    cached(cache, "owner/none", {"model.safetensors": b""})
    with pytest.raises(UserError, match=r"^tokenizer: hf:owner/none has neither vocab\.txt"):
        Tokenizer(TextConfig("hf:owner/none"))
    with pytest.raises(UserError, match=r"^tokenizer: hf:owner/absent is not in the cache"):
        Tokenizer(TextConfig("hf:owner/absent"))


def test_an_upload_needs_a_name_and_a_token(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="is no name of a repository: give owner/name"):
        hub.check_upload("name")
    with pytest.raises(UserError, match="needs a token that may write: `hf auth login`"):
        hub.check_upload("owner/name")


def test_an_upload_is_one_commit_of_that_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    calls = []
    for name in ("create_repo", "create_branch", "upload_folder"):
        monkeypatch.setattr(
            HfApi, name, lambda self, *args, _name=name, **more: calls.append((_name, args, more))
        )
    page = hub.upload(tmp_path, "owner/name", private=True, revision="v1")
    assert page == "https://huggingface.co/owner/name"
    assert [name for name, _, _ in calls] == ["create_repo", "create_branch", "upload_folder"]
    assert calls[0][2] == {"private": True, "exist_ok": True}
    assert calls[2][2]["folder_path"] == tmp_path
    assert calls[2][2]["revision"] == "v1"

    def refuse(*_, **__):
        raise answer(errors.HfHubHTTPError, 403)

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match="the token may not write there"):
        hub.upload(tmp_path, "owner/name", private=True, revision=None)
