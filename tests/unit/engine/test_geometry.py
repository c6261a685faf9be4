from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ladle_engine.checkpoints import discover
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import GROUPINGS
from ladle_engine.progress import ignore
from ladle_engine.subspace.first_reading import measure
from tests.unit.engine.toy import ToyTask, model_weights_for, norm_net, plain_net, write_checkpoints


def flat_weights(folder: Path) -> torch.Tensor:
    """float64 K x D, in order of step."""
    files = sorted(folder.glob("*.safetensors"))
    return torch.stack([torch.cat([t.double().reshape(-1) for t in load_file(file).values()]) for file in files])


def test_distances_lengths_and_cosines_equal_a_direct_computation(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    binding = bind(plain_net(), checkpoints)
    geometry = measure(checkpoints, binding, ignore)
    weights_KD = flat_weights(tmp_path)
    directions_KD = weights_KD - weights_KD.mean(dim=0)
    lengths_KG = geometry.lengths_KG(GROUPINGS["model"](binding))
    torch.testing.assert_close(lengths_KG[:, 0], directions_KD.norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(geometry.distances_KK(), torch.cdist(weights_KD, weights_KD), rtol=1e-7, atol=1e-6)
    unit_KD = directions_KD / directions_KD.norm(dim=1, keepdim=True)
    torch.testing.assert_close(geometry.cosines_KK(), unit_KD @ unit_KD.T, rtol=1e-10, atol=1e-12)


def test_lengths_by_layer_add_up_to_the_whole_models(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    binding = bind(plain_net(), checkpoints)
    geometry = measure(checkpoints, binding, ignore)
    by_layer_KG = geometry.lengths_KG(GROUPINGS["layers"](binding))
    whole_KG = geometry.lengths_KG(GROUPINGS["model"](binding))
    assert by_layer_KG.shape == (5, 2)
    torch.testing.assert_close(by_layer_KG.square().sum(dim=1), whole_KG[:, 0].square())


def test_a_frozen_layer_and_a_duplicate_at_the_centre_are_dropped(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, plain_net, count=3)
    files = sorted(tmp_path.glob("*.safetensors"))
    loaded = [load_file(file) for file in files]
    for state in loaded:
        state["0.weight"], state["0.bias"] = loaded[0]["0.weight"], loaded[0]["0.bias"]
    # The third is the mean of the first two, up to float32 rounding: a direction of rounding noise.
    for name in ("2.weight", "2.bias"):
        loaded[2][name] = ((loaded[0][name].double() + loaded[1][name].double()) / 2).float()
    for file, state in zip(files, loaded, strict=True):
        save_file(state, file)
    checkpoints = discover(tmp_path)
    binding = bind(plain_net(), checkpoints)
    live_KG = measure(checkpoints, binding, ignore).live_KG(GROUPINGS["layers"](binding))
    assert live_KG.tolist() == [[False, True], [False, True], [False, False]]


def test_placing_a_one_hot_alpha_gives_that_checkpoint(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    task = ToyTask(plain_net)
    for precision in ("float32", "streamed"):
        binding = bind(task.build_model(checkpoints), checkpoints)
        groups = GROUPINGS["model"](binding)
        alpha_KG = torch.zeros(5, 1, dtype=torch.float64)
        alpha_KG[3] = 1.0
        weights = model_weights_for(checkpoints, binding, precision=precision)
        weights.placement(groups).load_weights(alpha_KG, groups)
        placed = torch.cat([parameter.detach().reshape(-1).double() for parameter in binding.parameters.values()])
        expected = torch.cat(
            [load_file(tmp_path / "step-3.safetensors")[name].double().reshape(-1) for name in binding.parameters]
        )
        torch.testing.assert_close(placed, expected, rtol=0, atol=1e-6)
        weights.close()


def test_statistics_go_with_their_layer(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, norm_net)
    binding = bind(norm_net(), checkpoints)
    layers = GROUPINGS["layers"](binding)
    assert layers.names == ("0", "1", "3")
    assert layers.of["1.running_mean"] == layers.of["1.weight"]
    tensors = GROUPINGS["tensors"](binding)
    assert len(tensors) == 6
    assert tensors.of["1.running_var"] == tensors.of["1.weight"]
