"""Tables 5, 6 and 10: averages of 8, 18 and 36 fine-tunes of a pretrained network under a random search.

    python examples/papers/finetunes.py            or one of them:  python examples/papers/finetunes.py cells

`cells`: EfficientNet-lite0 on photographs of solar cells. `sections`: MiniLM on descriptions of Debian packages. Test
accuracy and loss; what Ladle's `auto` returns is the row that says `winner`.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparing import Clock, TestSet, compare, quick_options
from pool_cells import CellsPool
from pool_sections import SectionsPool
from pools import Pool, nested, others, train_pool
from results import Results, arguments, cache_folder

from ladle_engine.methods import AUTO_METHODS

POOLS = {pool.name: pool for pool in (CellsPool, SectionsPool)}
METHODS = (*AUTO_METHODS, "second-best")


def main() -> None:
    asked = arguments(__doc__, *POOLS)
    for name in asked.rows:
        pool = POOLS[name](quick=asked.quick)
        checkpoints = train_pool(pool, cache_folder(f"pool-{name}", quick=asked.quick))
        settings = {"search": asdict(pool.search), "sizes": asdict(pool.sizes), "batch": pool.batch}
        results = Results(f"finetunes-{name}", {**settings, "task_options": pool.task_options}, quick=asked.quick)
        for seed in [] if asked.train_only else asked.seeds:
            compare_all(pool, checkpoints, results, seed, asked)


def compare_all(pool: Pool, checkpoints: Path, results: Results, seed: int, asked: Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        val, test_path = pool.write_parts(Path(temporary), seed)
        test = TestSet(checkpoints, test_path, pool.task, pool.task_options)
        for models, numbers in nested(pool.sizes.pool, pool.sizes.nested, seed).items():
            if asked.again or not results.has(seed=seed, models=models):
                clock = Clock()
                rows = compare(
                    checkpoints,
                    val,
                    test,
                    METHODS,
                    options=quick_options(METHODS) if asked.quick else None,
                    task=pool.task,
                    task_options=pool.task_options,
                    exclude=others(pool.sizes.pool, numbers),
                    seed=seed,
                )
                results.add(_run(seed, models, numbers, test, rows, clock))
                print(results.path, seed, models, flush=True)


def _run(
    seed: int, models: int, numbers: list[int], test: TestSet, rows: list[dict[str, Any]], clock: Clock
) -> dict[str, Any]:
    return {
        "seed": seed,
        "models": models,
        "fine_tunes": numbers,
        "test_examples": len(test),
        "rows": rows,
        "compare_cpu_s": clock.seconds(),
    }


if __name__ == "__main__":
    main()
