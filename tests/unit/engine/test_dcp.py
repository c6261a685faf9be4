"""DCP checkpoints of one process, in the folders of the tools that write them; and descriptions that lie."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from ladle_engine import CheckpointError, average, combine_checkpoints, discover, rebuild
from ladle_engine.checkpoints.dcp.metadata import read_metadata
from ladle_engine.progress import ProgressEvent, Warned
from ladle_engine.storage.input_file import COUNTS, InputFile
from tests.unit.engine.toy import ToyTask

pytestmark = pytest.mark.filterwarnings("ignore")

LEFT_OUT = "left out, because they are not weights: "


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def weights(seed: int) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in net(seed).state_dict().items()}


def moments(seed: int) -> dict[str, Any]:
    model = net(seed)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def save(state: Mapping[str, Any], folder: Path, **options: Any) -> None:
    dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(folder, sync_files=False, **options), no_dist=True)


def mean(name: str, seeds: tuple[int, ...] = (1, 2)) -> Tensor:
    return (sum(weights(seed)[name].double() for seed in seeds) / len(seeds)).float()


def assert_mean(folder: Path, output: Path, notes: list[str]) -> None:
    said: list[ProgressEvent] = []
    combine_checkpoints(folder, output=output, progress=said.append)
    written = load_file(output / "model.safetensors")
    assert {name: tensor.shape for name, tensor in written.items()} == {
        name: tensor.shape for name, tensor in weights(1).items()
    }
    assert all(torch.equal(tensor, mean(name)) for name, tensor in written.items())
    warned = [event.message for event in said if isinstance(event, Warned)]
    assert [message for message in warned if LEFT_OUT in message] == notes


def torchtitan(folder: Path, seed: int) -> None:
    state = {**weights(seed), "optimizer": moments(seed), "lr_scheduler": {"step": seed}, "train_state": {"step": seed}}
    save(state, folder / f"step-{seed}")


def olmo_core(folder: Path, seed: int) -> None:
    save({"model": weights(seed), "optim": moments(seed)}, folder / f"step{seed}" / "model_and_optim")
    (folder / f"step{seed}" / "train").mkdir()
    torch.save({"step": seed}, folder / f"step{seed}" / "train" / "rank0.pt")


def accelerate(folder: Path, seed: int) -> None:
    save({"model": weights(seed)}, folder / f"checkpoint-{seed}" / "pytorch_model_fsdp_0")
    save({"optimizer": moments(seed)}, folder / f"checkpoint-{seed}" / "optimizer_0")
    torch.save({"step": seed}, folder / f"checkpoint-{seed}" / "scheduler.bin")


def megatron(folder: Path, seed: int) -> None:
    """Its planner does not flatten, so there are no keys but dotted names."""
    state: dict[str, Any] = dict(weights(seed))
    state |= {f"optimizer.state.exp_avg.{name}": torch.zeros_like(tensor) for name, tensor in weights(seed).items()}
    state |= {"0._extra_state": b"of a layer", "rng_state": b"random", "args": {"lr": 1.0}}
    place = folder / f"iter_{seed:07}"
    writer = dcp.FileSystemWriter(place, thread_count=2, sync_files=False)
    dcp.save(state, storage_writer=writer, planner=dcp.DefaultSavePlanner(flatten_state_dict=False), no_dist=True)
    torch.save({"iteration": seed}, place / "common.pt")
    (place / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (folder / "latest_checkpointed_iteration.txt").write_text(str(seed))


TOOLS: dict[str, tuple[Callable[[Path, int], None], list[str]]] = {
    "torchtitan": (torchtitan, ["`optimizer`, `lr_scheduler`, `train_state`"]),
    "OLMo-core": (olmo_core, ["`optim`"]),
    "accelerate": (accelerate, []),
    "Megatron": (megatron, ["`optimizer`, `_extra_state`, `rng_state`, `args`"]),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_folders_of_each_tool_average_to_their_mean(tool: str, tmp_path: Path) -> None:
    write, left_out = TOOLS[tool]
    for seed in (1, 2):
        write(tmp_path / "run", seed)
    found = discover(tmp_path / "run")
    assert [checkpoint.format for checkpoint in found.checkpoints] == ["dcp", "dcp"]
    told = [f"`{found.names[0]}` and 1 more: {LEFT_OUT}{names}." for names in left_out]
    assert_mean(tmp_path / "run", tmp_path / "out", told)


@pytest.mark.parametrize("tool", ["torchtitan", "OLMo-core", "accelerate"])
def test_a_result_as_dcp_is_where_the_tool_looks_for_it(tool: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        TOOLS[tool][0](tmp_path / "run", seed)
    combine_checkpoints(tmp_path / "run", output=tmp_path / "out", output_format="dcp")
    inner = {"OLMo-core": "model_and_optim", "accelerate": "pytorch_model_fsdp_0"}.get(tool, "")
    state = {name: torch.zeros_like(tensor) for name, tensor in weights(1).items()}
    whole = state if tool == "torchtitan" else {"model": state}
    dcp.load(whole, checkpoint_id=tmp_path / "out" / inner, no_dist=True)
    assert all(torch.equal(tensor, mean(name)) for name, tensor in state.items())


def test_a_result_for_megatron_has_what_it_does_not_load_without(tmp_path: Path) -> None:
    for seed in (1, 2):
        megatron(tmp_path / "run", seed)
    combine_checkpoints(tmp_path / "run", output=tmp_path / "out", output_format="dcp")
    last = tmp_path / "run" / "iter_0000002"
    for name in ("common.pt", "metadata.json"):
        assert (tmp_path / "out" / name).read_bytes() == (last / name).read_bytes()


def test_what_would_run_a_program_is_not_handed_on_to_megatron(tmp_path: Path) -> None:
    for seed in (1, 2):
        megatron(tmp_path / "run", seed)
    (tmp_path / "run" / "iter_0000002" / "common.pt").write_bytes(b"cos\nsystem\n(Vtrue\ntR.")
    said: list[ProgressEvent] = []
    combine_checkpoints(tmp_path / "run", output=tmp_path / "out", output_format="dcp", progress=said.append)
    assert not (tmp_path / "out" / "common.pt").exists()
    assert any("The result has no `common.pt`" in event.message for event in said if isinstance(event, Warned))


def test_weights_that_a_master_copy_would_replace_come_without_it(tmp_path: Path) -> None:
    for seed in (1, 2):
        masters = {f"optimizer.state.fp32_param.{name}": tensor for name, tensor in weights(seed).items()}
        save({**weights(seed), **masters}, tmp_path / "run" / f"iter_{seed}")
    said: list[ProgressEvent] = []
    combine_checkpoints(tmp_path / "run", output=tmp_path / "out", output_format="dcp", progress=said.append)
    assert any("which would replace those of the result" in str(event) for event in said)
    described = dcp.FileSystemReader(tmp_path / "out").read_metadata()
    assert described.state_dict_metadata.keys() == weights(1).keys()


def test_safetensors_are_written_as_dcp_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "run").mkdir()
    for seed in (1, 2):
        save_file(weights(seed), tmp_path / "run" / f"step-{seed}.safetensors")
    combine_checkpoints(tmp_path / "run", output=tmp_path / "out", output_format="dcp")
    state = {name: torch.zeros_like(tensor) for name, tensor in weights(1).items()}
    dcp.load(state, checkpoint_id=tmp_path / "out", no_dist=True)
    assert all(torch.equal(tensor, mean(name)) for name, tensor in state.items())


def test_trained_averages_read_and_write_dcp_and_are_rebuilt(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        torchtitan(tmp_path / "run", seed)
    task = ToyTask(lambda: net(0))
    average(tmp_path / "run", tmp_path / "run", output=tmp_path / "out", task=task, method="twa", output_format="dcp")
    rebuild(tmp_path / "out", tmp_path / "run", output=tmp_path / "again", output_format="dcp")
    rebuild(tmp_path / "out", tmp_path / "run", output=tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    for folder in ("out", "again"):
        state = {name: torch.zeros_like(tensor) for name, tensor in plain.items()}
        dcp.load(state, checkpoint_id=tmp_path / folder, no_dist=True)
        assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    assert "dcp.load" in (tmp_path / "out" / "README.md").read_text()


def test_the_optimisers_state_is_not_read(tmp_path: Path) -> None:
    large = {"optimizer": {"moments": torch.zeros(2_000_000)}}
    for seed in (1, 2):
        save({**weights(seed), **large}, tmp_path / "run" / f"step-{seed}")
    COUNTS.clear()
    combine_checkpoints(tmp_path / "run", output=tmp_path / "out")
    assert 0 < sum(COUNTS.bytes.values()) < 500_000


def test_an_unknown_output_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`output_format` must be one of safetensors, dcp, but is 'zip'"):
        combine_checkpoints(tmp_path, output=tmp_path / "out", output_format="zip")


def test_a_description_of_many_ranks_is_read(tmp_path: Path) -> None:
    """150 tensors of 256 ranks, as `dcp.save` describes them. One of 185,000 chunks takes some ten seconds."""
    ranks, names = 256, [f"layers.{number}.weight" for number in range(150)]
    properties = TensorProperties(dtype=torch.bfloat16)
    boxes = [(torch.Size([rank * 32, 0]), torch.Size([32, 512])) for rank in range(ranks)]
    chunks = [ChunkStorageMetadata(*box) for box in boxes]
    entries = {name: TensorStorageMetadata(properties, torch.Size([ranks * 32, 512]), chunks) for name in names}
    places = {
        MetadataIndex(name, box[0], rank): _StorageInfo(f"__{rank}_0.distcp", number * 40_000, 34_000)
        for number, name in enumerate(names)
        for rank, box in enumerate(boxes)
    }
    path = tmp_path / ".metadata"
    path.write_bytes(pickle.dumps(Metadata(entries, {name: (name,) for name in names}, places)))
    with InputFile(path) as file:
        read = read_metadata([file])
    assert sum(len(tensor.chunks) for tensor in read.tensors.values()) == 38_400
    last = read.tensors[names[-1]].chunks[-1]
    assert last.box == ((255 * 32, 256 * 32), (0, 512))
    assert (last.stored.file, last.stored.range) == ("__255_0.distcp", (149 * 40_000, 149 * 40_000 + 34_000))


# Descriptions that lie.

Change = Callable[[Metadata], Metadata]


def changed_entry(metadata: Metadata, **changes: Any) -> Metadata:
    entry = metadata.state_dict_metadata["0.weight"]
    metadata.state_dict_metadata["0.weight"] = dataclasses.replace(entry, **changes)
    return metadata


def chunks(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> Change:
    """The tensor's chunks, all stored where the first one is, and as many bytes on."""

    def change(metadata: Metadata) -> Metadata:
        stored = metadata.storage_data
        first = next(info for index, info in stored.items() if index.fqn == "0.weight")
        described = [ChunkStorageMetadata(torch.Size(start), torch.Size(size)) for start, size in boxes]
        for number, (start, _) in enumerate(boxes):
            stored[MetadataIndex("0.weight", start)] = dataclasses.replace(first, offset=first.offset + number * 5000)
        return changed_entry(metadata, chunks=described)

    return change


def stored(**changes: Any) -> Change:
    def change(metadata: Metadata) -> Metadata:
        for index, info in metadata.storage_data.items():
            if index.fqn == "0.weight":
                metadata.storage_data[index] = dataclasses.replace(info, **changes)
        return metadata

    return change


def of_another_type(metadata: Metadata) -> Metadata:
    properties = metadata.state_dict_metadata["0.weight"].properties
    return changed_entry(metadata, properties=dataclasses.replace(properties, dtype=torch.int32))


def without_places(metadata: Metadata) -> Metadata:
    return dataclasses.replace(metadata, storage_data={})


def many_times(metadata: Metadata) -> Metadata:
    """One chunk, which the pickle refers to a million times."""
    return changed_entry(metadata, chunks=metadata.state_dict_metadata["0.weight"].chunks * 1_000_000)


def with_the_bytes_of_another(metadata: Metadata) -> Metadata:
    bias = next(info for index, info in metadata.storage_data.items() if index.fqn == "0.bias")
    return stored(offset=bias.offset + 3)(metadata)


LIES: dict[str, tuple[Change, str]] = {
    "overlapping chunks": (chunks(((0, 0), (3, 6)), ((2, 0), (3, 6))), "its chunks overlap"),
    "a gap": (chunks(((0, 0), (2, 6)), ((3, 0), (2, 6))), "its chunks leave a gap"),
    "a gap and an overlap": (chunks(((0, 0), (3, 6)), ((0, 0), (2, 6))), "its chunks"),
    "a chunk beyond the shape": (chunks(((0, 0), (9, 6))), "reaches beyond its shape"),
    "another number of dimensions": (chunks(((0,), (5,))), "describes something else"),
    "bytes beyond the file": (stored(offset=1 << 40), "ends at byte"),
    "negative bytes": (stored(offset=-8), "describes something else"),
    "too few bytes": (stored(length=10), "gives a chunk of `0.weight` 10 bytes"),
    "a file outside": (stored(relative_path="../secret.distcp"), "must name files of its own folder"),
    "an absolute file": (stored(relative_path="/etc/passwd"), "must name files of its own folder"),
    "a file that is not there": (stored(relative_path="__7_0.distcp"), "which is not beside it"),
    "transformed chunks": (stored(transform_descriptors=["zstd"]), "was transformed by zstd"),
    "another type": (of_another_type, "there is float32 of shape [5, 6], and `.metadata` says int32"),
    "another chunk's bytes": (with_the_bytes_of_another, "chunks that overlap"),
    "a million chunks": (many_times, "chunks, but describes more"),
    "no places": (without_places, "must say where each chunk is"),
    "another shape": (lambda each: changed_entry(each, size=torch.Size([50, 6])), "its chunks leave a gap"),
    "an endless shape": (lambda each: changed_entry(each, size=torch.Size([1 << 62, 6])), "describes something else"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_description_that_lies_is_refused(lie: str, tmp_path: Path) -> None:
    change, message = LIES[lie]
    for seed in (1, 2):
        save(weights(seed), tmp_path / "run" / f"step-{seed}")
        path = tmp_path / "run" / f"step-{seed}" / ".metadata"
        path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))  # written just now
    with pytest.raises(CheckpointError) as refused:
        combine_checkpoints(tmp_path / "run", output=tmp_path / "out")
    assert message in refused.value.message
    assert refused.value.code in ("corrupt-checkpoint", "unsupported-tensors")
    assert str(tmp_path / "run" / "step-") in refused.value.message


# DeepSpeed.


def deepspeed(folder: Path, seed: int, names: list[str]) -> None:
    """As `DeepSpeedEngine.save_checkpoint` of 0.19.8 lays it out; the real tool is in `tests/formats`."""
    place = folder / f"checkpoint-{seed}" / f"global_step{seed}"
    place.mkdir(parents=True)
    (place.parent / "latest").write_text(place.name)
    (place.parent / "zero_to_fp32.py").write_text("")
    state = {"module": weights(seed), "optimizer": None, "buffer_names": [], "param_shapes": [], "ds_version": "0.19.8"}
    for name in names:
        torch.save(state if "model" in name else {"optimizer_state_dict": {}}, place / name)


def test_the_whole_model_of_deepspeed_is_used_and_the_float32_weights_are_told(tmp_path: Path) -> None:
    for seed in (1, 2):
        deepspeed(
            tmp_path / "run", seed, ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"]
        )
    assert_mean(tmp_path / "run", tmp_path / "out", [])
    assert any("zero_to_fp32.py" in warning for warning in discover(tmp_path / "run").warnings)


def test_zero_3_is_named_with_what_converts_it(tmp_path: Path) -> None:
    for seed in (1, 2):
        deepspeed(tmp_path / "run", seed, [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(2)])
    in_this = r"in DeepSpeed format: convert it with its zero_to_fp32\.py \(`python zero_to_fp32\.py \. whole`, in this"
    with pytest.raises(CheckpointError, match=in_this):
        discover(tmp_path / "run")


def test_of_several_folders_of_states_beside_one_script_each_is_named_with_its_tag(tmp_path: Path) -> None:
    for step in (5, 10):
        (tmp_path / f"global_step{step}").mkdir(parents=True)
        for rank in range(2):
            name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
            torch.save({"module": weights(step)}, tmp_path / f"global_step{step}" / name)
    (tmp_path / "zero_to_fp32.py").write_text("")
    with pytest.raises(CheckpointError, match=r"zero_to_fp32\.py \. whole --tag global_step10`, in the folder above"):
        discover(tmp_path)


def test_of_model_parallel_states_no_command_is_told_that_would_not_convert_them(tmp_path: Path) -> None:
    for seed in (1, 2):
        deepspeed(tmp_path / "run", seed, [f"mp_rank_{rank:02}_model_states.pt" for rank in range(2)])
    with pytest.raises(CheckpointError, match="shared over model-parallel ranks") as caught:
        discover(tmp_path / "run")
    assert "zero_to_fp32" not in caught.value.message
