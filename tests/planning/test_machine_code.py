"""Machine code says how often each of its bundles runs, and so what a step takes at least."""

import os
import signal
import subprocess
import sys

import pytest

from retfm_jax.errors import UserError
from retfm_jax.planning import machine_code
from retfm_jax.planning.hlo import HloModule
from retfm_jax.planning.machine_code import Code, Count, Part, read_code
from retfm_jax.planning.topologies import open_topology
from retfm_jax.runtime import chips

#: As libtpu writes it: a pipelined loop over 4 blocks, whose counter runs to 6; a branch around its
#: work, and one inside of that work around the first round of a contraction.
_PIPELINE = """\
= control target key start
LH: loop header
= control target key end

     0   :  { %s1_s6 = smov 0 /* copy for cssa */ } /* Start region 0 */
   0x1 LB: > { %s79_s7 = sadd.s32 4294967295, %s08_s6 /* iteration index, stage = 1 */  ;;  \
%p83_p0 = scmp.ge.s32.totalorder %s08_s6, 1  ;;  %s08_s6 = sphi %s1_s6, %s11_s6 } \
/* Start region 54 :: Start region 21 */
   0x2   : > { %p89_p1 = scmp.lt.s32.totalorder %s08_s6, 5 }
   0x3   : > { %p90_p2 = pnand %p83_p0, %p89_p1 } /* End region 21 */
   0x4   : > { %93 = sbr.rel (%p90_p2) target = $region24 }
   0x5   : > {}
   0x6   : > {}
   0x7   : > {}
   0x8   : > {}
   0x9   : > { %95 = sbr.rel (%p91_p2) target = $region31 }
   0xa   : > {}
   0xb   : > {}
   0xc   : > {}
   0xd   : > {}
   0xe   : > { %v1_v1 = vmatmul.bf16.gmra.mxu0 %v1_v0  ;;  \
%v1_v2 = vmatmul.lmr.bf16.gmra.13.mxu1 %v1_v0 }
   0xf   : > { %v2_v1 = vmatmul.msk.f32.gmra.mxu2 %v1_v0 }
  0x10   : > {}
  0x11   : > {}
  0x12   : > { %v3_v1 = vld [vmem:[%s1_s6]]   /* comment over
two lines */ } /* Start/End empty region 31 */
  0x13 PF: > { %s11_s6 = sadd.s32 1, %s08_s6 /* copy for cssa */ } /* Start/End empty region 24 */
  0x14   : > { %p8_p4 = scmp.ge.s32.totalorder %s11_s6, 6 /* loop exit test */ }
  0x15   :  { %10 = sbr.rel (!%p8_p4) target = $region54 }
  0x16   :  {} /* End region 0 */
"""


def test_a_pipelined_loop_runs_as_often_as_it_has_blocks():
    code = read_code(_PIPELINE)
    straight, loop = code.parts
    assert straight == Part(Count(2, 0), Count(0, 0))
    assert (loop.rounds, loop.limit) == (4, 6)
    # What stands between the inner branch's delay and its target, of 21 bundles.
    assert loop.inner == Count(4, 16 + 8 + 8)
    assert loop.always == Count(17, 0)
    assert code.count() == Count(2 + 4 * 21, 4 * 32)
    assert code.open_loops == 0


def test_blocks_that_the_compiler_tells_decide():
    code = read_code(_PIPELINE)
    # 5 blocks and a stage ahead of them; numbers that cannot be those of this loop are left alone.
    assert code.count((5, 1)) == Count(2 + 5 * 21, 5 * 32)
    assert code.count((9,)) == code.count((1, 7)) == code.count()
    # Of a contraction in 2 rounds one runs what stands behind the inner branch.
    assert code.count((2, 2), contracts=True) == Count(2 + 4 * 17 + 2 * 4, 2 * 32)


def test_a_plain_loop_and_an_open_one():
    text = """\
     0   :  {} /* Start region 1 */
   0x1 LB: > {} /* Start region 2 */
   0x2   : > { %p1_p0 = scmp.ge.s32.totalorder %s1_s0, LIMIT /* loop exit test */ }
   0x3   : > { %1 = sbr.rel (!%p1_p0) target = $region2 }
   0x4   :  {}
"""
    assert read_code(text.replace("LIMIT", "7")).count() == Count(2 + 7 * 3, 0)
    open_loop = read_code(text.replace("LIMIT", "%s2_s0"))
    assert (open_loop.count(), open_loop.open_loops) == (Count(5, 0), 1)
    assert read_code("").count() == Count(0, 0)


_PROGRAM = """\
HloModule m

ENTRY %main {
  %p.1 = f32[2048,1024]{1,0:T(8,128)} parameter(0)
  %copy.1 = f32[2048,1024]{1,0:T(8,128)} copy(%p.1), \
backend_config={"window_config":{"estimated_cycles":"900","iteration_bounds":["4","1"]}}
  %exp.1 = f32[8,128]{1,0:T(8,128)} exponential(%p.1), \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %copy.2 = f32[2048,1024]{1,0:T(8,128)} copy(%copy.1)
}
"""


def test_of_each_instruction_the_longest_counts():
    chip = chips.named("v5e")
    moved = 2 * 4 * 2048 * 1024 / chip.bandwidth
    issued = 4 * 21 * 1000 / chip.clock
    code = Code((Part(Count(21_000, 0), Count(), 4, 6),))
    found = machine_code.bound(HloModule(_PROGRAM, 1), {"copy.1": code}, chip)
    # The second copy is equal to the first one, and runs its code.
    assert found.issue == pytest.approx(2 * issued)
    assert found.memory == pytest.approx(2 * moved + 4 * (2048 * 1024 + 8 * 128) / chip.bandwidth)
    assert found.seconds == pytest.approx(2 * max(moved, issued) + found.memory - 2 * moved)
    assert found.unread == pytest.approx(0.1)
    busy = Code((Part(Count(1, 10**9), Count()),))
    found = machine_code.bound(HloModule(_PROGRAM, 1), {"exp.1": busy}, chip)
    assert found.products == pytest.approx(10**9 / 4 / chip.clock)


def test_gpus_have_no_machine_code_that_is_read():
    with pytest.raises(UserError, match="gpu:h100: machine code is read of TPUs' programs alone"):
        machine_code.check_topology(open_topology("gpu:h100"))


_RECORDING = """
import os, tempfile
import jax.numpy as jnp
from retfm_jax.planning import calibration, machine_code
from retfm_jax.planning.topologies import open_topology

calibration.PROGRAMS = (
    calibration._product("product", 2048, 2048, 2048),
    calibration._one("sum", jnp.sum, 1 << 14, 1 << 12, dtype="float32"),
)
with machine_code.recording() as recorded:
    product, total = calibration.times(open_topology("v5e:2x2"), recorded)
    assert recorded.take() == {}
assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("retfm-plan-")]
assert product.limit == "FLOPs" and 0.99 < product.machine_code / product.known < 1.5, product
assert total.limit == "bytes" and 0.99 < total.machine_code / total.known < 1.1, total
assert total.estimate > 2 * total.machine_code, total
try:
    with machine_code.recording():
        pass
except RuntimeError as error:
    print(error)
"""


_KILLED = """
import os, signal, tempfile
from retfm_jax.planning import machine_code

with machine_code.recording():
    print(os.listdir(tempfile.gettempdir()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_libtpu_writes_goes_with_a_process_that_is_killed(tmp_path):
    """The one that removes it keeps the output open, so that `run` waits for it."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    assert "retfm-plan-" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_code_of_plain_programs_takes_what_they_need(tmp_path):
    """In a process of its own, for libtpu looks at its options once."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _RECORDING], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "libtpu is in use" in done.stdout
    assert not list(tmp_path.iterdir())
