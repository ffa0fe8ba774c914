"""ONNX, where its operators suffice; docs/guide/scaling.md says where they do not."""

import pytest
import torch
from test_modules import CASES, build, tensors


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["equivariant.EqMotion", "graphs.STGCN"])
def test_onnx_programs_equal_eager_modules(name):
    pytest.importorskip("onnxscript")
    module = build(name)
    torch.manual_seed(1)
    inputs = tuple(CASES[name][1]())
    program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
    found = program.call_reference(*inputs)
    for a, b in zip(tensors(module(*inputs)), tensors(found), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
