"""What tables cost, format by format: `python benchmarks/tables.py [--gb 20] [--folder /a/disk/with/room]`.

Each file is made of random texts of 1,000 characters, and opened in a process of its own: seconds until it is open,
rows per second in order and at random in batches of 32, and by how much the process grew meanwhile. The large parquet
file repeats row groups of 10,000 rows, which costs a reader the same as others would. Figures go to
`benchmarks/results/tables.*`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import multiprocessing
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from measuring import device_name, parser_of, save, table_lines
from torch import device

TEXT_CHARS = 1000
GROUP_ROWS = 10_000
BATCH_ROWS = 32
IMAGE_BYTES = 100_000
NAME = "tables"


def texts(rows: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [base64.b64encode(chance.randbytes(3 * TEXT_CHARS // 4)).decode() for _ in range(rows)]


def group(rows: int = GROUP_ROWS) -> pa.Table:
    return pa.table({"text": texts(rows), "label": [number % 5 for number in range(rows)]})


def parquet(path: Path, size: int, rows: int = GROUP_ROWS) -> None:
    """One row group again and again."""
    table = pa.concat_tables([group()] * (rows // GROUP_ROWS))
    with pq.ParquetWriter(path, table.schema, use_dictionary=["label"]) as writer:
        for _ in range(max(size // (rows * TEXT_CHARS), 1)):
            writer.write_table(table, row_group_size=rows)


def arrow(path: Path, size: int, compression: str | None = None) -> None:
    """A stream in batches of 1,000 rows, as datasets writes them."""
    table = group()
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(max(size // (GROUP_ROWS * TEXT_CHARS), 1)):
            writer.write_table(table, max_chunksize=1000)


def arrow_batch(path: Path, size: int) -> None:
    """A file of one batch, as polars writes what it has in one piece."""
    table = pa.concat_tables([group()] * max(size // (GROUP_ROWS * TEXT_CHARS), 1))
    large = table.schema.set(0, pa.field("text", pa.large_string()))
    with pa.ipc.new_file(path, large) as writer:
        writer.write_table(table.cast(large).combine_chunks())


def repeated(path: Path, size: int, head: str, lines: str) -> None:
    with path.open("w", newline="") as file:
        file.write(head)
        for _ in range(max(size // len(lines), 1)):
            file.write(lines)


def csv_lines(path: Path, size: int) -> None:
    lines = io.StringIO()
    csv.writer(lines).writerows([f"{text[:-3]},\n", number % 5] for number, text in enumerate(texts(GROUP_ROWS)))
    repeated(path, size, "text,label\r\n", lines.getvalue())


def json_lines(path: Path, size: int) -> None:
    rows = [json.dumps({"text": text, "label": number % 5}) for number, text in enumerate(texts(GROUP_ROWS))]
    repeated(path, size, "", "\n".join(rows) + "\n")


def plain_text(path: Path, size: int) -> None:
    repeated(path, size, "", "\n".join(texts(GROUP_ROWS)) + "\n")


def tar(path: Path, size: int) -> None:
    image = random.Random(0).randbytes(IMAGE_BYTES)
    with tarfile.open(path, "w") as archive:
        for number in range(size // IMAGE_BYTES):
            for suffix, content in (("jpg", image), ("cls", b"3")):
                info = tarfile.TarInfo(f"{number:08d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def kinds(gb: float, quick: bool) -> dict[str, tuple[str, float, Callable[[Path, int], None]]]:
    """What is measured: the file's name, its size in GB, and what makes it."""
    middle = 0.05 if quick else 2.0
    return {
        "parquet, row groups of 10,000 rows": ("x.parquet", 0.2 if quick else gb, parquet),
        "parquet, row groups of 100,000 rows": ("x.parquet", middle, lambda path, size: parquet(path, size, 100_000)),
        "parquet, row groups of 1,000,000 rows": (
            "x.parquet", middle, lambda path, size: parquet(path, size, 50_000 if quick else 1_000_000),
        ),
        "arrow stream, batches of 1,000 rows": ("x.arrow", middle, arrow),
        "arrow stream, packed by zstd": ("x.arrow", middle, lambda path, size: arrow(path, size, "zstd")),
        "arrow file, one batch": ("x.arrow", middle, arrow_batch),
        "csv": ("x.csv", middle, csv_lines),
        "JSON lines": ("x.jsonl", middle, json_lines),
        "plain text": ("x.txt", middle, plain_text),
        "WebDataset, images of 100 kB": ("x.tar", middle, tar),
    }  # fmt: skip


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


def rate(table: Any, columns: list[str], batches: Iterator[list[int]], seconds: float) -> float:
    """Rows per second of CPU time, from as many batches as there is time for."""
    rows, start = 0, time.process_time()
    for indices in batches:
        rows += len(table.rows(indices, columns))
        if time.process_time() - start > seconds:
            break
    return rows / (time.process_time() - start)


def in_order(count: int) -> Iterator[list[int]]:
    for start in range(0, count, BATCH_ROWS):
        yield list(range(start, min(start + BATCH_ROWS, count)))


def at_random(count: int) -> Iterator[list[int]]:
    chance = random.Random(0)
    while True:
        yield [chance.randrange(count) for _ in range(BATCH_ROWS)]


def measure(path: Path, seconds: float, answers: Any) -> None:
    """In a process of its own."""
    import pyarrow.parquet

    from ladle_engine.tasks.tables import open_table

    Path("/proc/self/clear_refs").write_text("5")
    before, start, start_cpu = peak_bytes(), time.perf_counter(), time.process_time()
    table = open_table(path)
    opened, opened_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    columns = [name for name in table.columns if not name.startswith("__")]
    answers.put({
        "rows": len(table),
        "opening_s": round(opened, 3),
        "opening_cpu_s": round(opened_cpu, 3),
        "rows_per_s_in_order": round(rate(table, columns, in_order(len(table)), seconds)),
        "rows_per_s_at_random": round(rate(table, columns, at_random(len(table)), seconds)),
        "memory_mb": round((peak_bytes() - before) / 1e6),
    })  # fmt: skip
    del pyarrow.parquet


def measured(path: Path, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measure, args=(path, seconds, answers))
    process.start()
    found: dict[str, Any] = answers.get()
    process.join()
    return found


def report(results: dict[str, dict[str, Any]], command: str) -> str:
    header = ("format", "GB", "rows", "open, s", "open, CPU s", "rows/s in order", "rows/s at random", "memory, MB")
    rows = [
        (name, f"{found['gb']:.1f}", f"{found['rows']:,}", f"{found['opening_s']:.2f}", f"{found['opening_cpu_s']:.2f}",
         f"{found['rows_per_s_in_order']:,}", f"{found['rows_per_s_at_random']:,}", str(found["memory_mb"]))
        for name, found in results.items()
    ]  # fmt: skip
    lines = [
        "# What tables cost",
        "",
        f"`{command}` on {device_name(device('cpu'))}, one thread. Rows of {TEXT_CHARS} characters and a label, in "
        f"batches of {BATCH_ROWS}, per second of CPU time; memory is by how much the process grew from before the file "
        f"was opened to its peak. Other programs ran on the machine, and the files were in the page cache as writing "
        f"left them.",
        "",
        *table_lines(header, rows),
        "",
        "Text formats are read once when they are opened, and checked. A row of a parquet file is decoded with all "
        "that stand before it in its row group; a group too large to be kept is decoded once into a temporary file.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, quick="small files", cpu_only=True)
    parser.add_argument("--gb", type=float, default=20.0, help="size of the large parquet file")
    parser.add_argument("--folder", type=Path, help="where files are made, one at a time")
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name, (file, gb, make) in kinds(arguments.gb, arguments.quick).items():
            path = Path(folder) / file
            make(path, int(gb * 1e9))
            found = measured(path, 1.0 if arguments.quick else 4.0)
            results[name] = {"gb": round(path.stat().st_size / 1e9, 2), **found}
            print(name, results[name], flush=True)
            path.unlink()
    command = "python benchmarks/tables.py" + (" --quick" if arguments.quick else f" --gb {arguments.gb:g}")
    text = report(results, command)
    print(text)
    print(save(NAME, {"command": command, "cores": os.cpu_count(), "results": results}, text, quick=arguments.quick))


if __name__ == "__main__":
    main()
