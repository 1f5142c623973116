"""The runner's torch engine: an exported program with an open batch, run, profiled and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdk.runner.engines import open_engine
from sdk.runner.errors import BadRequest, EngineRefused


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """(path of a .pt2 with an open batch, the module)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)).eval()
    exported = torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    path = tmp_path_factory.mktemp("torch") / "net.pt2"
    torch.export.save(exported, path)
    return str(path), net


def test_it_computes_what_the_module_does_at_any_batch(program):
    path, net = program
    engine = open_engine("torch", path, 1)
    assert [shape for _, shape, _ in engine.inputs] == [(-1, 1, 8, 8)] and engine.inputs[0][2] == "float32"
    assert [shape for _, shape, _ in engine.outputs] == [(-1, 3)]
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 1, 8, 8)).astype(np.float32)
        np.testing.assert_allclose(engine.run([x])[0], net(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_it_tells_what_each_kind_of_operation_takes(program):
    rows = open_engine("torch", program[0], 1).profile([np.zeros((1, 1, 8, 8), np.float32)], 2)
    assert rows is not None and any("conv" in row["op"] for row in rows) and all(row["ms"] > 0 for row in rows)


def test_what_is_no_program_is_refused_in_one_sentence(tmp_path, program):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EngineRefused, match=r"torch 2\.\d+\.\d+ does not open .*net\.pt2"):
        open_engine("torch", str(path), 1)
    with pytest.raises(BadRequest, match="has no option 'method'"):
        open_engine("torch", program[0], 1, {"method": "forward"})
