"""Collectives are counted in the text of a program: loops, start/done pairs, tuples."""

import pytest

from jaxmodels.estimate.analysis import collectives

COUNTED = "compare(%i, %n), direction=LT"
PROGRAM = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%begun (p.1: bf16[4,8]) -> bf16[8,8] {
  %p.1 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.9 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), frontend_attributes={chain_id="0"}
}

%ended (p.2: bf16[4,8]) -> bf16[8,8] {
  %p.2 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.8 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.2), frontend_attributes={chain_id="0"}
}

%long (p.5: bf16[4,16]) -> bf16[8,16] {
  %p.5 = bf16[4,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.5 = bf16[8,16]{1,0} all-gather(%p.5), channel_id=9, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.3 (p.3: f32[8]) -> f32[4] {
  %p.3 = f32[8]{0} parameter(0)
  %all-reduce.3 = f32[8]{0} all-reduce(%p.3), channel_id=3, to_apply=%add
  ROOT %dynamic-slice.3 = f32[4]{0} dynamic-slice(%all-reduce.3, %id), dynamic_slice_sizes={4}
}

%until (t.2: (f32[8], s32[])) -> pred[] {
  %m = s32[]{:T(128)} constant(1), backend_config={"flag_configs":[]}
  %n = s32[]{:T(128)} constant(12), backend_config={"flag_configs":[]}
  %done = u32[] all-reduce(%bits), channel_id=4, to_apply=%or
  %less = pred[]{:T(512)} compare(%i, %n), direction=LT, metadata={op_name="lt"}
  ROOT %more = pred[]{:T(512)} CONDITION, metadata={op_name="more"}
}

%inner (t.1: (f32[8], s32[])) -> (f32[8], s32[]) {
  %x.1 = f32[8]{0} get-tuple-element(%t.1), index=0
  %all-reduce.1 = f32[8]{0} all-reduce(%x.1), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %all-reduce.4 = f32[8]{0} all-reduce(%x.1), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %fusion.4 = bf16[8,8]{1,0} fusion(%x.1), kind=kCustom, calls=%begun
  %fusion.5 = bf16[8,8]{1,0} fusion(%x.1), kind=kCustom, calls=%ended
  %fusion.6 = bf16[8,16]{1,0} fusion(%x.1), kind=kCustom, calls=%long
  ROOT %tuple.1 = (f32[8]{0}, s32[]) tuple(%all-reduce.1, %i)
}

%unused (q.1: f32[8]) -> f32[8] {
  ROOT %all-reduce.7 = f32[8]{0} all-reduce(%q.1), channel_id=7, to_apply=%add
}

ENTRY %main.1 (a.1: f32[8], b.1: pred[8]) -> f32[8] {
  %a.1 = f32[8]{0} parameter(0)
  %all-gather-start.1 = (f32[8]{0}, f32[16]{0}) all-gather-start(%a.1), channel_id=2, dimensions={0}
  %all-gather-done.1 = f32[16]{0} all-gather-done(%all-gather-start.1)
  %all-reduce.2 = (f32[2,3]{1,0:T(8,128)}, /*index=1*/pred[8]{0:T(1024)}) all-reduce(%a.1, %b.1), to_apply=%add
  %fusion.1 = bf16[8,8]{1,0} fusion(%a.1), kind=kCustom, calls=%begun
  %fusion.2 = bf16[8,8]{1,0} fusion(%a.1), kind=kCustom, calls=%ended
  %fusion.3 = f32[4]{0:T(128)} fusion(%a.1), kind=kCustom, calls=%all-reduce-scatter.3
  %fusion.7 = bf16[8,16]{1,0} fusion(%a.1), kind=kCustom, calls=%long
  %while.1 = (f32[8]{0}, s32[]) while(%t), condition=%until, body=%inner, metadata={op_name="while"}
  ROOT %r.1 = f32[8]{0} get-tuple-element(%while.1), index=0
}
"""


@pytest.mark.parametrize(("condition", "times"), [(COUNTED, 12), ("and(%less, %done)", 7)])
def test_every_run_of_a_collective_counts(condition, times):
    """A start/done pair counts once, and so does one chain in two fusions, or in one and in a loop after it.

    In a loop's body and condition every iteration counts. Two collectives on one channel count twice, as when two
    layers call one function.
    """
    found = collectives(PROGRAM.replace("CONDITION", condition), turns=7)
    assert found == {
        "all-gather": (3 + times, 64 + 256 + 128 * (1 + times)),
        "reduce-scatter": (1, 16),
        "all-reduce": (1 + 3 * times, 24 + 8 + 68 * times),
    }


def test_a_program_without_collectives():
    assert collectives("ENTRY %main (a: f32[8]) -> f32[8] {\n  ROOT %a = f32[8]{0} parameter(0)\n}\n") == {}
