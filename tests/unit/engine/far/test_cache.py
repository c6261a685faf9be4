"""The local mirror: several processes, crashes, damage, and a limit."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ladle_engine import EngineError
from ladle_engine.far_urls import FarUrl, parse_url
from ladle_engine.storage.far.cache import BLOCK_BYTES, Cache, Mirrored
from ladle_engine.storage.far.stores import FarFile

FOLDER = parse_url("s3://bucket/run")


def far(name: str, size: int = 3 * BLOCK_BYTES, tag: str = "1", folder: FarUrl = FOLDER) -> FarFile:
    return FarFile(name=name, url=folder.below(name), size=size, tag=tag, modified_s=1e9)


def fill(cache: Cache, file: Mirrored, byte: bytes = b"x") -> None:
    cache.keep(file, 0, byte * file.far.size)


def test_a_mirror_has_the_names_sizes_and_times_of_the_far_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (file,) = cache.lay_out(FOLDER, [far("a/b.bin")])
    assert file.path == tmp_path / "mirror/s3/bucket/run/a/b.bin"
    assert (file.path.stat().st_size, file.path.stat().st_mtime) == (3 * BLOCK_BYTES, 1e9)
    assert file.path.stat().st_blocks == 0
    assert cache.missing(file, None) == [0, 1, 2]
    assert cache.missing(file, [(BLOCK_BYTES, BLOCK_BYTES + 1)]) == [1]


def test_what_goes_far_away_goes_here_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    gone, kept = cache.lay_out(FOLDER, [far("old/a"), far("b")])
    cache.lay_out(FOLDER, [far("b")])
    assert kept.path.exists()
    assert not gone.path.parent.exists()


def test_another_version_is_another_file_and_a_reader_of_the_first_keeps_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (first,) = cache.lay_out(FOLDER, [far("a")])
    fill(cache, first)
    with first.path.open("rb") as opened:
        (second,) = cache.lay_out(FOLDER, [far("a", tag="2")])
        assert cache.missing(second, None) == [0, 1, 2]
        # A process that still fetches the first one says nothing about the second.
        cache.keep(first, 0, b"y" * BLOCK_BYTES)
        assert cache.missing(second, None) == [0, 1, 2]
        assert opened.read(1) == b"x"


def test_a_file_that_a_store_gives_no_version_of_is_never_reused(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (first,) = cache.lay_out(FOLDER, [far("a", tag="")])
    fill(cache, first)
    (again,) = cache.lay_out(FOLDER, [far("a", tag="")])
    assert cache.missing(again, None) == [0, 1, 2]


def test_another_process_believes_only_what_it_has_hashed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (file,) = cache.lay_out(FOLDER, [far("a")])
    fill(cache, file)
    with file.path.open("r+b") as damaged:
        damaged.seek(BLOCK_BYTES + 7)
        damaged.write(b"!")
    (again,) = Cache(tmp_path).lay_out(FOLDER, [far("a")])
    assert Cache(tmp_path).missing(again, None) == [1]


def test_the_least_recently_used_goes_first_and_what_is_held_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=7 * BLOCK_BYTES)
    folders = [parse_url(f"s3://bucket/run-{number}") for number in range(3)]
    files = [cache.lay_out(folder, [far("a", folder=folder)])[0] for folder in folders]
    fill(cache, files[0])
    fill(cache, files[1])
    cache.missing(files[0], None)
    cache.make_room(3 * BLOCK_BYTES)
    assert files[0].path.exists()
    assert not files[1].path.exists()
    with Cache(tmp_path).held([folders[0]]), pytest.raises(EngineError, match="LADLE_FAR_CACHE_BYTES") as caught:
        cache.make_room(5 * BLOCK_BYTES)
    assert caught.value.code == "disk-full"
    assert files[0].path.exists()
    cache.make_room(5 * BLOCK_BYTES)
    assert not files[0].path.exists()


def test_more_than_the_disk_has_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=1 << 62)
    with pytest.raises(EngineError, match=r"has .* bytes to give") as caught:
        cache.make_room(1 << 60)
    assert caught.value.code == "disk-full"


def hold_and_die(folder: Path) -> None:
    held = Cache(folder).held([FOLDER])
    held.__enter__()
    import os

    os._exit(1)


def test_what_a_process_that_died_held_is_free_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=3 * BLOCK_BYTES)
    (file,) = cache.lay_out(FOLDER, [far("a")])
    fill(cache, file)
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert len(list((tmp_path / "leases").iterdir())) == 1
    cache.make_room(BLOCK_BYTES)
    assert not file.path.exists()


def write_half(folder: Path, start: int) -> None:
    cache = Cache(folder)
    (file,) = cache.lay_out(FOLDER, [far("a", size=64 * BLOCK_BYTES)])
    for number in range(start, 64, 2):
        cache.keep(file, number, bytes([number]) * BLOCK_BYTES)


def test_several_processes_fill_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_half, args=(tmp_path, start)) for start in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache = Cache(tmp_path)
    (file,) = cache.lay_out(FOLDER, [far("a", size=64 * BLOCK_BYTES)])
    assert cache.missing(file, None) == []
    assert file.path.read_bytes()[::BLOCK_BYTES] == bytes(range(64))


def test_a_file_in_the_place_of_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.lay_out(FOLDER, [far("a/b")])
    (file,) = cache.lay_out(FOLDER, [far("a")])
    assert file.path.is_file()
    (below,) = cache.lay_out(FOLDER, [far("a/b")])
    assert below.path.is_file()
    with pytest.raises(EngineError, match="cannot be kept in the local cache"):
        cache.lay_out(FOLDER, [far("a"), far("a/b")])
    with pytest.raises(EngineError, match="cannot be kept"):
        cache.lay_out(FOLDER, [far("n" * 256)])
