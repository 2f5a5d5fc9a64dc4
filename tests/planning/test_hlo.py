"""The text of a compiled program says what it does, loops included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from retfm_jax.config import MeshConfig
from retfm_jax.planning.hlo import HloModule
from retfm_jax.runtime import chips
from retfm_jax.runtime.mesh import make_mesh

ROWS, WIDTH, LAYERS = 64, 32, 5


WHOLE = PartitionSpec()


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(4, 2))


def _work(function, mesh, *arguments, out=WHOLE):
    """The work of a function of arrays of (shape, how they are divided)."""
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in arguments
    ]
    compiled = jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*shapes).compile()
    return HloModule(compiled.as_text(), mesh.size).work()


def test_a_collective_in_a_loop_counts_as_often_as_it_runs(mesh):
    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    rows = PartitionSpec(("data", "fsdp"))
    work = _work(
        layers,
        mesh,
        ((ROWS, WIDTH), rows),
        ((LAYERS, WIDTH, WIDTH), PartitionSpec(None, None, "fsdp")),
        out=rows,
    )
    assert work.open_loops == 0
    gathered = [c for c in work.collectives if c.kind == "all-gather"]
    # Each layer's kernel, or all of them before the loop: the same bytes.
    assert sum(c.times * c.bytes for c in gathered) == 4 * LAYERS * WIDTH * WIDTH
    assert {c.group for c in gathered} == {2}


def test_sums_over_all_devices(mesh):
    rows = PartitionSpec(("data", "fsdp"))
    work = _work(lambda x: x.sum(0), mesh, ((ROWS, WIDTH), rows))
    (reduced,) = work.collectives
    assert (reduced.kind, reduced.group, reduced.times) == ("all-reduce", 8, 1)
    assert reduced.bytes == 4 * WIDTH
    # A ring sends 7/8 of the array round twice.
    assert reduced.seconds(1e9) == pytest.approx(2 * 7 / 8 * 4 * WIDTH / 1e9)


def test_a_loop_that_data_ends_is_said_to_be_open(mesh):
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    assert _work(halve, mesh, ((ROWS,), WHOLE)).open_loops == 1


def test_traffic_is_what_is_read_and_written(mesh):
    work = _work(lambda x: jnp.sin(x) + 1, mesh, ((ROWS, WIDTH), WHOLE))
    assert work.traffic == 2 * 4 * ROWS * WIDTH

    def cut(x, start):
        row = start[0].astype(jnp.int32)
        return jnp.sin(jax.lax.dynamic_slice(x, (row, 0), (1, WIDTH)))

    sliced = _work(cut, mesh, ((ROWS, WIDTH), WHOLE), ((1,), WHOLE))
    assert sliced.traffic < 4 * ROWS * WIDTH / 2


#: As libtpu writes it: tiled layouts, VMEM as S(1), one all-gather divided over two fusions.
_TPU_TEXT = """\
HloModule jit_step, is_scheduled=true

%fused_computation.1 (param_0.1: f32[8,128]) -> f32[64,128] {
  %param_0.1 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.1 = f32[64,128]{1,0:T(8,128)} all-gather(%param_0.1), channel_id=7, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, \
metadata={op_name="jit(step)/jvp()/dot_general"}
}

%fused_computation.2 (param_0.2: f32[8,128]) -> f32[64,128] {
  %param_0.2 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.2 = f32[64,128]{1,0:T(8,128)} all-gather(%param_0.2), channel_id=7, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}
}

%body (param.1: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %param.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %get-tuple-element.1 = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%param.1), index=1
  %fusion.1 = f32[64,128]{1,0:T(8,128)} fusion(%get-tuple-element.1), kind=kOutput, \
calls=%fused_computation.1, backend_config={"window_config":{"estimated_cycles":"100"},\
"convolution_algorithm_config":{"emitter":"EmitAllBatchInSublanes"}}
  %fusion.2 = f32[64,128]{1,0:T(8,128)} fusion(%get-tuple-element.1), kind=kLoop, \
calls=%fused_computation.2, backend_config={"window_config":{"estimated_cycles":"20"}}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) tuple(%fusion.1)
}

%condition (param.2: (s32[], f32[8,128])) -> pred[] {
  %param.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %constant.1 = s32[]{:T(128)} constant(12)
  %get-tuple-element.2 = s32[]{:T(128)} get-tuple-element(%param.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.2, %constant.1), direction=LT
}

ENTRY %main.1 (param.3: f32[8,128]) -> (s32[], f32[8,128]) {
  %param.3 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %tuple.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%param.3)
  ROOT %while.1 = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)S(1)}) while(%tuple.2), \
condition=%condition, body=%body
}
"""


def test_the_text_of_a_tpu_program():
    work = HloModule(_TPU_TEXT, devices=8).work()
    (gathered,) = work.collectives
    assert (gathered.kind, gathered.group, gathered.times) == ("all-gather", 8, 12)
    assert gathered.bytes == 4 * 64 * 128
    assert work.cycles == 12 * 120
    assert work.product_cycles == 12 * 100
    # What lies in VMEM is no traffic.
    assert work.traffic == 12 * 2 * 4 * 64 * 128
    assert np.isclose(gathered.seconds(1e9), 12 * 7 / 8 * 4 * 64 * 128 / 1e9)


def _instructions(*lines, computations=""):
    """The work of a program whose entry has these lines, which libtpu would write."""
    body = "\n".join(f"  {line}" for line in lines)
    return HloModule(f"HloModule m\n\n{computations}\nENTRY %main {{\n{body}\n}}\n", 1).work()


def test_an_array_takes_the_tiles_of_its_layout():
    work = _instructions(
        "%p.1 = f32[12,1,197,197]{3,2,1,0:T(8,128)} parameter(0)",
        "ROOT %copy.1 = f32[12,1,197,197]{3,2,1,0:T(8,128)} copy(%p.1)",
    )
    assert work.traffic == 2 * 4 * 12 * 200 * 256
    # The fastest axis comes first in a layout: here the one of 3 is padded to 128, 300 to 304.
    work = _instructions(
        "%p.1 = bf16[3,300]{0,1:T(8,128)(2,1)} parameter(0)",
        "%copy.1 = bf16[3,300]{0,1:T(8,128)(2,1)S(1)} copy(%p.1)",
        "ROOT %copy.2 = bf16[3,300]{0,1:T(8,128)(2,1)S(3)} copy(%copy.1)",
    )
    assert work.traffic == 2 * 304 * 128


def test_a_buffer_that_is_allocated_is_not_written():
    work = _instructions(
        '%buffer.1 = f32[64,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"'
    )
    assert work.traffic == 0


def test_an_asynchronous_slice_moves_its_slice():
    whole, part = "bf16[128,64]{1,0:T(8,128)(2,1)}", "bf16[16,64]{1,0:T(8,128)(2,1)S(1)}"
    work = _instructions(
        f"%p.1 = {whole} parameter(0)",
        f"%slice-start.1 = (({whole}), {part}, s32[]{{:S(2)}}) slice-start(%p.1), "
        "slice={[0:16], [0:64]}",
        f"ROOT %slice-done.1 = {part} slice-done(%slice-start.1)",
    )
    assert work.traffic == 2 * 16 * 128


#: A stack of 12 layers that a fusion hands to one inside of it, which takes one layer; the result
#: is written into another stack by a fusion inside of it.
_STACKED = """\
%cut (p.1: f32[12,8,128], p.2: s32[]) -> f32[1,8,128] {
  %p.1 = f32[12,8,128]{2,1,0:T(8,128)} parameter(0)
  %p.2 = s32[]{:T(128)} parameter(1)
  ROOT %dynamic-slice.1 = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p.1, %p.2)
}

%put (p.3: f32[12,8,128], p.4: f32[1,8,128], p.5: s32[]) -> f32[12,8,128] {
  %p.3 = f32[12,8,128]{2,1,0:T(8,128)} parameter(0)
  %p.4 = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %p.5 = s32[]{:T(128)} parameter(2)
  ROOT %dynamic-update-slice.1 = f32[12,8,128]{2,1,0:T(8,128)} \
dynamic-update-slice(%p.3, %p.4, %p.5)
}

%outer (p.6: f32[12,8,128], p.7: f32[12,8,128], p.8: s32[]) -> f32[12,8,128] {
  %p.6 = f32[12,8,128]{2,1,0:T(8,128)} parameter(0)
  %p.7 = f32[12,8,128]{2,1,0:T(8,128)} parameter(1)
  %p.8 = s32[]{:T(128)} parameter(2)
  %fusion.1 = f32[1,8,128]{2,1,0:T(8,128)} fusion(%p.6, %p.8), kind=kLoop, calls=%cut
  ROOT %fusion.2 = f32[12,8,128]{2,1,0:T(8,128)} fusion(%p.7, %fusion.1, %p.8), kind=kLoop, \
calls=%put
}
"""


def test_a_fusion_inside_of_another_cuts_and_writes_slices():
    work = _instructions(
        "%p.9 = f32[12,8,128]{2,1,0:T(8,128)} parameter(0)",
        "%p.10 = f32[12,8,128]{2,1,0:T(8,128)} parameter(1)",
        "%p.11 = s32[]{:T(128)S(1)} parameter(2)",
        "ROOT %fusion.3 = f32[12,8,128]{2,1,0:T(8,128)} fusion(%p.9, %p.10, %p.11), kind=kLoop, "
        "calls=%outer",
        computations=_STACKED,
    )
    assert work.traffic == 2 * 4 * 8 * 128


def test_a_kernel_costs_what_it_states():
    kernel = (
        'custom-call(%p.1), custom_call_target="tpu_custom_call", backend_config={'
        '"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"197000000000",'
        '"transcendentals":"7","bytes_accessed":"40960","remote_bytes_transferred":"0"}}}'
    )
    work = _instructions(
        "%p.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)",
        f"ROOT %call.1 = bf16[16,128]{{1,0:T(8,128)(2,1)}} {kernel}",
    )
    (found,) = work.kernels
    assert (found.flops, found.transcendentals, found.times) == (197 * 10**9, 7, 1)
    # What lies on the chip is no traffic; the longest of its costs is its time.
    assert work.traffic == found.traffic == 40960 - 2 * 8 * 128
    assert found.seconds(chips.named("v5e")) == pytest.approx(1e-3)
    work = _instructions(
        "%p.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)",
        "ROOT %call.1 = bf16[16,128]{1,0:T(8,128)(2,1)} "
        'custom-call(%p.1), custom_call_target="tpu_custom_call", backend_config={}',
    )
    assert work.traffic == 2 * 24 * 128
    assert work.kernels[0].flops == 0


def test_equal_instructions_share_a_signature():
    program = """\
%double.{n} (x.{n}: f32[8,128]) -> f32[8,128] {{
  %x.{n} = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %add.{n} = f32[8,128]{{1,0:T(8,128)}} {what}(%x.{n}, %x.{n}), \
metadata={{op_name="of {n}"}}
}}
"""
    parts = [program.format(n=n, what=what) for n, what in enumerate(("add", "add", "multiply"))]
    calls = "\n".join(
        f"  %fusion.{n} = f32[8,128]{{1,0:T(8,128)}} fusion(%p), kind=kLoop, calls=%double.{n}"
        for n in range(3)
    )
    module = HloModule(
        "HloModule m\n\n" + "\n".join(parts) + "\nENTRY %main {\n"
        "  %p = f32[8,128]{1,0:T(8,128)} parameter(0)\n" + calls + "\n}\n",
        1,
    )
    first, same, other = (
        module.signature(where, instruction)
        for where, instruction, _ in module.executed()
        if instruction.opcode == "fusion"
    )
    assert first == same != other
