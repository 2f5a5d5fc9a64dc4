"""A plan says what a step needs before there is a device for it."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from retfm_jax import cli
from retfm_jax.cli import plan as plan_verb
from retfm_jax.config import MeshConfig, from_dict
from retfm_jax.errors import UserError
from retfm_jax.files import read_json
from retfm_jax.planning import plan as planning
from retfm_jax.planning import topologies
from retfm_jax.planning.hlo import HloModule
from retfm_jax.planning.topologies import open_topology
from retfm_jax.runtime.mesh import batch_sharding, make_mesh

ROWS, WIDTH, LAYERS, DIM = 24, 64, 3, 40


def _config(method="retclip", **sections):
    tower = {"width": WIDTH, "layers": LAYERS, "heads": 2, "remat": "full"}
    values = {
        "method": method,
        "model": {
            "image": {"image_size": 16, "patch_size": 8, **tower},
            "text": {
                "vocab_size": 80, "mlp_width": 2 * WIDTH, "positions": 12, "dropout": 0.0, **tower
            },
            "embed_dim": DIM,
        },
        "data": {
            "image": {"size": 16},
            "text": {"context_length": 8},
            "augment": {
                "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
                "erasing_probability": 0.0,
            },
        },
        "train": {"batch_size": ROWS},
    }  # fmt: skip
    for section, entries in sections.items():
        values[section] = values.get(section, {}) | entries
    return from_dict(values)


@pytest.fixture(scope="module")
def divided():
    """Plans by the size of the fsdp axis."""
    topology = open_topology("gpu:h100x8")
    return {n: planning.plan(_config(mesh={"fsdp": n}), topology) for n in (1, 2)}


def _parameters(plan):
    """Divided parameters by shape, whole and as one layer of a stack, in whatever layout."""
    return {
        tuple(sorted(_long(shape)))
        for rule in plan.rules
        if rule.spec != "whole"
        for shape in (rule.shape, rule.shape[1:])
    }


def _long(shape):
    return tuple(size for size in shape if size > 1)


def _gathered(plan):
    return [
        (collective.times, array)
        for collective in plan.work.collectives
        if collective.kind == "all-gather"
        for array in collective.arrays
    ]


def test_whole_parameters_are_never_gathered(divided):
    """What a step gathers are embeddings: every row of the batch, once for each level and side."""
    shapes = [array.shape for _, array in _gathered(divided[1])]
    assert {tuple(sorted(shape)) for shape in shapes} <= {(ROWS, DIM), (ROWS,)}
    assert sum(len(shape) > 1 for shape in shapes) == 6
    assert {rule.spec for rule in divided[1].rules} == {"whole"}


def test_divided_parameters_are_gathered_once_a_use(divided):
    """A layer's when it runs, forward and backward, the others once; activations stay in place."""
    plan = divided[2]
    assert {c.kind for c in plan.work.collectives} <= {"all-gather", "all-reduce", "reduce-scatter"}
    embeddings = {(ROWS, DIM), (ROWS,)}
    gathered = [
        (times, array.shape)
        for times, array in _gathered(plan)
        if tuple(sorted(array.shape)) not in embeddings
    ]
    known = _parameters(plan)
    for times, shape in gathered:
        assert tuple(sorted(_long(shape))) in known, shape
        assert times in (1, LAYERS)
    size = sum(times * math.prod(shape) for times, shape in gathered)
    rules = [rule for rule in plan.rules if rule.spec != "whole"]
    assert size == sum(
        math.prod(rule.shape) * (2 if "/blocks/" in rule.path else 1) for rule in rules
    )


def test_of_several_stages_the_costliest_is_planned(capsys):
    stages = [{"until": 1}, {"until": 2, "mae": 10}, {"reconstruction": True, "mae": 10}]
    decoder = {"width": 16, "layers": 1, "heads": 2}
    config = _config(method="retclip_plus", model={"decoder": decoder, "stages": stages})
    plan = planning.plan(config, open_topology("gpu:h100x8"))
    assert plan.stage.startswith("stage 3 of 3")
    assert plan.to_json()["stage"] == plan.stage
    plan_verb.show(plan)
    assert plan.stage in capsys.readouterr().out
    assert plan.memory["batch"] == ROWS // 8 * (4 * 16 * 16 * 3 + 8 * 4 + 2)


def test_similarities_stay_divided(divided):
    for plan in divided.values():
        for collective in plan.work.collectives:
            assert all(array.shape != (ROWS, ROWS) for array in collective.arrays)


def test_memory_by_kind_is_exact(divided):
    parameters = sum(math.prod(rule.shape) for rule in divided[1].rules)
    memory = divided[1].memory
    assert memory["parameters"] == 4 * parameters
    assert 8 * parameters <= memory["optimizer state"] <= 8 * parameters + 64
    assert memory["batch"] == ROWS // 8 * (2 * 16 * 16 * 3 + 8 * 4 + 2)
    assert divided[1].needed == sum(memory.values())
    assert memory["parameters"] / 2 < divided[2].memory["parameters"] < memory["parameters"] * 0.7
    rules = {rule.path: rule for rule in divided[2].rules}
    kernel = rules["bert/blocks/fc/kernel"]
    assert kernel.shape == (LAYERS, WIDTH, 2 * WIDTH)
    assert kernel.spec == "None, None, fsdp"
    assert kernel.bytes_per_device == 4 * math.prod(kernel.shape) // 2


def test_the_program_has_more_flops_than_the_model_where_it_computes_again(divided):
    plan = divided[1]
    assert 1.1 < plan.program_flops / plan.model_flops < 4 / 3
    assert plan.seconds.step >= plan.seconds.compute > 0
    assert 0 < plan.share_of_peak < 1


def test_the_tables_and_the_file_say_the_same(divided, capsys):
    plan_verb.show(divided[2])
    shown = capsys.readouterr().out
    assert "fits" in shown
    assert "an estimate" in shown
    assert "None, None, fsdp" in shown
    document = divided[2].to_json()
    assert document["fits"] is True
    assert document["seconds"]["limit"] in shown
    assert document["sharding"][0]["path"]


def test_a_plan_without_flops_says_the_rest(divided, capsys):
    whole = divided[2]
    seconds = dataclasses.replace(whole.seconds, compute=None)
    plan = dataclasses.replace(whole, model_flops=None, program_flops=None, seconds=seconds)
    plan_verb.show(plan)
    assert "fits" in capsys.readouterr().out
    assert plan.to_json()["flops"] == {"model": None, "program": None}
    assert plan.to_json()["share_of_peak"] is None
    assert plan.seconds.step > 0
    assert plan.seconds.limit in ("memory", "network")


def test_the_tpu_compiler_answers_without_a_tpu():
    topology = open_topology("v5e:2x2")
    mesh = make_mesh(MeshConfig(), topology.devices)
    rows = batch_sharding(mesh)
    shape = jax.ShapeDtypeStruct((512, 128), jnp.float32, sharding=rows)
    compiled = jax.jit(lambda x: x @ x.T, out_shardings=rows).lower(shape).compile()
    work = HloModule(compiled.as_text(), mesh.size).work()
    assert {c.kind for c in work.collectives} <= {"all-gather", "collective-permute"}
    assert sum(c.times * c.bytes for c in work.collectives) > 0
    assert work.cycles > 0


def test_the_tpu_compiler_refuses_what_is_too_large():
    topology = open_topology("v5e:2x2")
    mesh = make_mesh(MeshConfig(), topology.devices)
    shape = jax.ShapeDtypeStruct((400_000, 40_000), jnp.float32, sharding=batch_sharding(mesh))
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as refusal:
        jax.jit(lambda x: x + 1).lower(shape).compile()
    needed, there = planning._refusal(str(refusal.value))
    assert needed > there > 15 * 2**30


def test_the_command_writes_what_it_found(divided, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(planning, "plan", lambda config, topology, recorded: divided[1])
    out = tmp_path / "plan.json"
    arguments = ["plan", "--config", "quickstart", "--topology", "gpu:h100x8", "--out", str(out)]
    assert cli.main(arguments) == 0
    assert read_json(out)["bytes_per_device"]["parameters"] == divided[1].memory["parameters"]
    assert "fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "needed", "there"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (19.50G) exceeds available HBM (15.75G).",
            19.5,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 22.25G of 15.75G hbm. Exceeded hbm capacity by 6.50G.",
            22.25,
            15.75,
        ),
    ],
)
def test_a_refusal_says_how_much_is_missing(divided, message, needed, there):
    assert planning._refusal(message) == (needed * 2**30, there * 2**30)
    refused = dataclasses.replace(
        divided[1],
        fits=False,
        needed=int(needed * 2**30),
        capacity=int(there * 2**30),
        work=None,
        seconds=None,
    )
    said = plan_verb._verdict(refused)
    assert f"{needed - there:.2f} GiB too much" in said
    assert refused.to_json()["fits"] is False


@pytest.mark.parametrize("laid_over", [0, 3 * 10**7])
def test_the_largest_batch_is_found_in_few_compilations(divided, laid_over):
    """Where memory grows with the batch, though not quite straight, and kinds share room."""
    start = divided[1]
    compiled = []

    def pretended(config, topology):
        rows = config.train.batch_size
        compiled.append(rows)
        needed = start.memory["parameters"] * 3 + 10 * rows**1.1
        return dataclasses.replace(
            start,
            config=config,
            needed=int(needed),
            capacity=10**8,
            fits=needed <= 10**8 + laid_over,
            memory=start.memory | {"temporaries": int(10 * rows**1.1)},
        )

    first = pretended(start.config, start.topology)
    found = planning.largest_batch(first, pretended)
    assert found in compiled
    best = ((10**8 + laid_over - 3 * start.memory["parameters"]) / 10) ** (1 / 1.1)
    assert best * 7 / 8 - 8 < found <= best
    assert len(compiled) < 12


@pytest.mark.parametrize("name", ["v5e16x16", "v7:2x2", "v5e:", "gpu:h1000", "gpu:h100x0", "h100"])
def test_a_misspelled_topology_lists_the_known_forms(name):
    with pytest.raises(UserError, match=r"known forms: v4:4x4x8, v5e:16x16, .*gpu:NAMEx8.*; here"):
        open_topology(name)


def test_a_slice_that_does_not_exist():
    with pytest.raises(UserError, match="the TPU's compiler knows no such slice"):
        open_topology("v5e:3x7")


def test_without_libtpu_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jax\[tpu\]"):
        open_topology("v5e:16x16")


def test_links_of_a_slice():
    whole = open_topology("v5e:16x16")
    assert len(whole.devices) == 256
    assert whole.bandwidth(256) == 4 * 45e9  # two closed axes, both directions
    assert whole.bandwidth(16) == 2 * 45e9
    assert open_topology("v5e:2x4").bandwidth(8) == 2 * 45e9  # open ends: one link
    assert open_topology("gpu:a100x2").bandwidth(2) == 300e9


def test_here_is_what_jax_sees():
    topology = open_topology("here")
    assert topology.devices == jax.devices()
    assert topology.chip is None


def test_a_plan_for_gpus_knows_their_fused_attention():
    """Temporaries and traffic without logits; FLOPs as before."""
    image = {"image_size": 96, "patch_size": 8, "width": 32, "layers": 1, "heads": 2}
    config = _config(
        model={"dtype": "bfloat16", "image": image},
        data={"image": {"size": 96}},
        train={"batch_size": 8},
    )
    found = [planning.plan(config, open_topology("gpu:h100"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning.target, "assumed", lambda _: contextlib.nullcontext())
        found.append(planning.plan(config, open_topology("gpu:h100")))
    fused, plain = found
    tokens, heads = 12 * 12 + 1, 2
    logits = 4 * 16 * heads * tokens**2
    assert plain.memory["temporaries"] - fused.memory["temporaries"] > logits
    assert plain.work.traffic - fused.work.traffic > 5 * logits
    assert fused.program_flops == plain.program_flops
