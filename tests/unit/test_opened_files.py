"""Only the boundary opens what a job names: nothing else in the engine or the worker looks at paths, but at its own."""

from __future__ import annotations

import ast
from pathlib import Path

WORKER = Path(__file__).parents[2] / "worker"

METHODS = frozenset(
    {
        *("open", "open_code", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "touch"),
        *("iterdir", "glob", "rglob", "iglob", "walk", "fwalk", "listdir", "scandir"),
        *("exists", "lexists", "is_file", "is_dir", "isfile", "isdir", "is_symlink", "islink", "is_fifo", "is_mount"),
        *("stat", "lstat", "statvfs", "getsize", "getmtime", "access", "samefile", "resolve", "realpath", "readlink"),
        *("mkdir", "makedirs", "unlink", "rename", "rmdir", "symlink_to", "hardlink_to", "chmod", "utime"),
        *("FileIO", "fromfile", "loadtxt", "genfromtxt", "memmap", "mmap", "from_file", "is_zipfile", "ZipFile"),
        *("is_tarfile", "safe_open", "load_file", "save_file", "load_model", "from_pretrained", "load_from_disk"),
        *("load_dataset", "ImageFolder", "read_csv", "read_parquet", "read_table"),
        *("ParquetFile", "TarFile", "open_file", "open_stream", "memory_map"),
    }
)
"""What takes a path, or is a path's own method, whatever it is called on."""
FUNCTIONS = frozenset({"torch.load", "np.load", "numpy.load", "pickle.load", "torch.jit.load"})
"""The same, where the last word alone says little."""

OWN = "the job's working folder and its result, which are ours"
SYSTEM = "/proc, /sys, and folders that the operator configured"
CACHE = "the cache of far files, which is ours"
NAMESAKE = "a function of ours of this name"
BYTES = "gets a file object or a descriptor that the boundary opened"
ALL = "*"
ALLOWED = {
    "ladle_engine/storage/boundary.py": ("the boundary itself", "open stat"),
    "ladle_engine/storage/input_paths.py": (
        "what is built on it",
        "fdopen is_dir is_file is_symlink lexists realpath scandir stat",
    ),
    "ladle_engine/storage/input_file.py": (OWN, "open"),
    "ladle_worker/boundary.py": ("the roots' boundary", "open"),
    "ladle_engine/checkpoints/pickles/tar_member.py": (BYTES, "TarFile"),
    "ladle_engine/checkpoints/pickles/torch_archive.py": (BYTES, "ZipFile"),
    "ladle_engine/storage/zip_members.py": (BYTES, "ZipFile open"),
    "ladle_engine/tasks/images/arrays.py": (BYTES, "FileIO ZipFile open"),
    "ladle_engine/tasks/images/files.py": (BYTES, "open"),
    "ladle_engine/tasks/text/language/token_files.py": (BYTES, "ZipFile open"),
    "ladle_engine/tasks/images/data_sets.py": (NAMESAKE, "open"),
    "ladle_engine/tasks/tables/arrow_file.py": (BYTES, "open_file open_stream"),
    "ladle_engine/tasks/tables/arrow_large.py": ("memory without a file", "mmap"),
    "ladle_engine/tasks/tables/parquet_file.py": (BYTES, "ParquetFile"),
    "ladle_engine/tasks/tables/spilled.py": (BYTES, "open_stream"),
    "ladle_engine/tasks/tables/tar_shard.py": (BYTES, "TarFile"),
    "ladle_engine/evaluation/heats.py": ("bytes that other ranks sent", "torch.load"),
    "ladle_engine/evaluation/kept_outputs.py": (OWN, "torch.load"),
    "ladle_engine/pipeline/along/draw.py": (NAMESAKE, "walk"),
    "ladle_engine/tasks/images/processor_file.py": (
        "a folder of its own, for checked values",
        "from_pretrained write_text",
    ),
    "ladle_engine/tasks/text/tokenizer.py": ("a folder of its own, for checked files", "from_pretrained iterdir"),
    "ladle_engine/tasks/text/tokenizer_files.py": ("the same folder", "mkdir write_bytes"),
    "ladle_engine/tasks/transformers_names.py": ("gets a state dict and no path", "from_pretrained"),
    "ladle_engine/tasks/faults.py": ("source code of an installed task", "is_file"),
    "ladle_engine/tasks/identity.py": ("source code of an installed task", "read_text"),
    "ladle_engine/checkpoints/left_out.py": ("a glob on names of tensors", "glob"),
    "ladle_engine/output/adapter_result.py": (OWN, "write_bytes"),
    "ladle_engine/output/dcp_model.py": (OWN, "mkdir write_bytes"),
    "ladle_engine/output/dcp_writer.py": (OWN, "open write_bytes"),
    "ladle_engine/output/digests.py": (OWN, "open stat"),
    "ladle_engine/output/model_writer.py": (OWN, "mkdir write_bytes"),
    "ladle_engine/output/safetensors_writer.py": (OWN, "open"),
    "ladle_engine/convert.py": (OWN, "mkdir"),
    "ladle_engine/pipeline/card_pictures.py": (OWN, "write_bytes"),
    "ladle_engine/pipeline/along/earlier.py": (OWN, "write_bytes"),
    "ladle_engine/subspace/forecast.py": ("a file of the package", "read_text"),
    "ladle_engine/pipeline/report.py": (OWN, ALL),
    "ladle_engine/rebuild.py": ("a result of its caller's, who runs no jobs of others", "is_dir read_bytes"),
    "ladle_engine/resume_state.py": (OWN, ALL),
    "ladle_engine/storage/atomic_folder.py": (OWN, ALL),
    "ladle_engine/storage/sealed_file.py": (OWN, ALL),
    "ladle_engine/storage/far/cache.py": (CACHE, ALL),
    "ladle_engine/storage/far/checksums.py": (OWN, "open stat"),
    "ladle_engine/storage/far/fetch.py": (CACHE, "open unlink"),
    "ladle_engine/storage/far/stores.py": (CACHE, "stat"),
    "ladle_engine/storage/far/upload.py": (OWN, ALL),
    "ladle_worker/far.py": (OWN, "read_text"),
    "ladle_worker/far_helper.py": (OWN, ALL),
    "ladle_worker/far_look.py": (OWN, "read_text"),
    "ladle_worker/far_commit.py": (OWN, "open"),
    "ladle_worker/far_output.py": (OWN, "open write_text"),
    "ladle_worker/far_questions.py": ("the pipe to the process that fetches", "fdopen"),
    "ladle_worker/far_results.py": (OWN, "fdopen read_text"),
    "ladle_engine/storage/control_group.py": (SYSTEM, ALL),
    "ladle_engine/placements/memory_probe.py": (SYSTEM, "read_text write_text"),
    "ladle_worker/cores.py": (SYSTEM, ALL),
    "ladle_engine/testing.py": ("folders that it makes", "save_file write_text"),
    "ladle_worker/__main__.py": (OWN, "mkdir"),
    "ladle_worker/commit.py": (OWN, ALL),
    "ladle_worker/job_folder.py": (OWN, ALL),
    "ladle_worker/launch/children.py": (OWN, "open"),
    "ladle_worker/launch/torchrun.py": (SYSTEM, ALL),
    "ladle_worker/launch/hand_over.py": (OWN, ALL),
    "ladle_worker/launch/machine.py": (OWN, "glob read_text"),
    "ladle_worker/launch/meeting.py": (OWN, "listdir read_text"),
    "ladle_worker/launch/on_node.py": (OWN, "exists listdir stat"),
    "ladle_worker/launch/orphans.py": ("a key of Redis", "exists"),
    "ladle_worker/launch/slurm/launcher.py": (OWN, "exists glob iterdir read_text stat"),
    "ladle_worker/launch/slurm/start.py": ("a script of the operator's", "is_file"),
    "ladle_worker/gathering.py": (OWN, "open"),
    "ladle_worker/asked_once.py": (OWN, "open write_text"),
    "ladle_worker/vetted.py": (OWN, "read_text"),
    "ladle_worker/vetting.py": ("the roots' boundary", "open"),
    "ladle_worker/launch/standby.py": ("the folders of installed packages", "stat"),
    "ladle_worker/preload.py": (SYSTEM, "iterdir readlink"),
    "ladle_worker/process_words.py": (SYSTEM, "read_text"),
    "ladle_worker/launch/kubernetes/launcher.py": ("the operator's pod template", "read_text"),
    "ladle_worker/launch/kubernetes/settings.py": (SYSTEM, "read_text"),
    "ladle_worker/launch/kubernetes/start.py": ("the operator's pod template", "read_text"),
    "ladle_worker/rank.py": (OWN, "exists read_text"),
    "ladle_worker/told.py": (OWN, "open utime"),
    "ladle_worker/flight_recorder.py": (OWN, "write_bytes"),
    "ladle_worker/inputs_look.py": (OWN, "read_text"),
    "ladle_worker/inputs_seen.py": (
        "names by a glob, and the roots' boundary for what they lead to",
        "glob listdir open",
    ),
    "ladle_worker/state_copy.py": (OWN, ALL),
    "ladle_worker/inspections.py": ("a temporary folder of its own", ALL),
    "ladle_worker/relay.py": (OWN, ALL),
    "ladle_worker/tracking.py": ("a temporary folder of its own", "open read_text write_bytes"),
    "ladle_worker/stall.py": (OWN, ALL),
    "ladle_worker/confinement/apply.py": (SYSTEM, ALL),
    "ladle_worker/confinement/landlock.py": (SYSTEM, ALL),
    "ladle_worker/confinement/limits.py": (SYSTEM, ALL),
    "ladle_worker/confinement/namespaces.py": (SYSTEM, ALL),
    "ladle_worker/confinement/plan.py": (SYSTEM, ALL),
    "ladle_worker/confinement/probe.py": (SYSTEM, ALL),
    "ladle_worker/memory_kills.py": (SYSTEM, ALL),
    "ladle_worker/standard_streams.py": (SYSTEM, ALL),
    "ladle_worker/tree.py": (SYSTEM, ALL),
    "ladle_worker/precheck.py": ("runs as the user whose files they are", "resolve"),
}
"""File -> why it may look at paths, and by which functions. What is new here must not be a job's path."""

BOUNDARY = ("ladle_engine.storage.boundary", "ladle_engine.storage.input_paths")


def looks_in(source: str) -> set[str]:
    """Whatever looks at a path, called or only named; not what comes from the boundary."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name):
                text = ast.unparse(node)
                found |= {text} & FUNCTIONS or {name} & METHODS
            case ast.Name(id="open"):
                found.add("open")
            case ast.ImportFrom(module=module, names=names) if module not in BOUNDARY:
                found |= {alias.name for alias in names} & METHODS
    return found


def all_looks() -> dict[str, set[str]]:
    packages = (WORKER / "ladle_engine", WORKER / "ladle_worker")
    files = [file for package in packages for file in sorted(package.rglob("*.py"))]
    assert len(files) > 100
    return {str(file.relative_to(WORKER)): found for file in files if (found := looks_in(file.read_text()))}


def allowed_in(file: str, found: set[str]) -> set[str]:
    """The functions by which a file may look at paths."""
    looks = ALLOWED[file][1] if file in ALLOWED else ""
    return found if looks == ALL else set(looks.split())


def test_nothing_but_the_boundary_looks_at_a_path_of_a_job() -> None:
    """A new one goes through `storage.input_paths` or, where the path is ours, into the list with a reason."""
    new = {file: found - allowed_in(file, found) for file, found in all_looks().items()}
    assert not {file: looks for file, looks in new.items() if looks}


def test_the_list_of_what_may_look_holds_nothing_that_is_not_there() -> None:
    found = all_looks()
    assert not set(ALLOWED) - set(found)
    gone = {file: allowed_in(file, found[file]) - found[file] for file in ALLOWED}
    assert not {file: looks for file, looks in gone.items() if looks}


def test_the_walk_sees_calls_references_and_imports_anywhere() -> None:
    source = """
from safetensors.torch import load_file
from ladle_engine.storage.input_paths import is_file
def late(path):
    import torch
    with open(path) as file, Image.open(path) as image:
        torch.load(path)
    return [map(Path.exists, path.iterdir()), is_file(path), state.load("key"), os.path.realpath(path)]
"""
    assert looks_in(source) == {"load_file", "open", "torch.load", "exists", "iterdir", "realpath"}
