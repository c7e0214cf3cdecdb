"""Write the tables of docs/results.md from the runs stored in docs/results/; `make results` runs it.

python docs/generate_results.py                              the tables, from docs/results/NAME.json
python docs/generate_results.py --store NAME FOLDER...       first store runs or sweeps as NAME.json
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from vdropkern._files import write_whole
from vdropkern.recipes.checkpoint import CheckpointError
from vdropkern.recipes.compare import Group, collect, group
from vdropkern.recipes.compare_tables import cells_table, published_table

HERE = Path(__file__).parent
PAGE, STORED = HERE / "results.md", HERE / "results"
MARKS = re.compile(r"(<!-- results: ([\w.-]+): begin -->\n)(.*?)(<!-- results: \2: end -->)", re.DOTALL)


def page(text: str, stored: Path = STORED) -> str:
    """The page with the tables between its marks written anew.

    Raises:
        ValueError: marks without stored runs, or stored runs without marks.
    """
    marked = [match[1] for match in MARKS.findall(text)]
    names = sorted(path.stem for path in stored.glob("*.json"))
    if sorted(marked) != names:
        raise ValueError(f"results.md must have marks, once each, of {names}; found {marked}")
    return MARKS.sub(lambda match: f"{match[1]}{tables(stored / f'{match[2]}.json')}{match[4]}", text)


def tables(path: Path) -> str:
    """All that is said of the runs in one file."""
    records, _ = collect([path])
    blocks = []
    for recipe, groups in group(records).items():
        # not the costs: speeds are measured on a machine at rest, by the benchmarks
        for table in (cells_table(groups), published_table(recipe, groups)):
            if table is not None:
                blocks += [table.markdown(), table.note]
        blocks.append(_made(groups))
    return "\n" + "\n\n".join(blocks) + "\n\n"


def _made(groups: list[Group]) -> str:
    first = groups[0].first.results
    machine, versions = first["machine"], first["versions"]
    kernel = machine["backends"].get("linear_lrt", "")
    return (
        f"{first['data']['name']}; vdropkern {versions['vdropkern']}, torch {versions['torch']}, "
        f"{machine['processor']}, linear_lrt: {kernel.partition(':')[0]}. "
        f"The first of them alone:\n\n```sh\n{first['command']}\n```"
    )


def store(name: str, folders: list[Path]) -> None:
    """Write docs/results/NAME.json: the runs' results without their histories, weights and paths."""
    records, missing = collect(folders)
    if missing:
        raise CheckpointError(f"not finished: {', '.join(missing)}")
    document = {"runs": [record.slim() for record in records]}
    STORED.mkdir(exist_ok=True)
    write_whole(STORED / f"{name}.json", (json.dumps(document, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables of docs/results.md from docs/results/.")
    parser.add_argument("--store", nargs="+", metavar=("NAME", "FOLDER"), help="first store these runs")
    given = parser.parse_args().store
    try:
        if given:
            store(given[0], [Path(folder) for folder in given[1:]])
        write_whole(PAGE, page(PAGE.read_text(encoding="utf-8")).encode())
    except (CheckpointError, ValueError) as err:
        parser.exit(2, f"{parser.prog}: {err}\n")


if __name__ == "__main__":
    main()
