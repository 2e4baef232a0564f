"""What timm's tests leave out of ours stands in the docs, with its reason."""

from pathlib import Path

from timm_plugin import EXCLUDED

PAGE = Path(__file__).parents[2] / "docs" / "timm.md"


def test_the_docs_name_each_exclusion_and_no_other():
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    start = next(i for i, row in enumerate(rows) if row[0].startswith("<!-- exclusions"))
    told = []
    for row in rows[start + 4 :]:  # after the head of the table
        if len(row) != 3:
            break
        told.append(tuple(cell.strip("`") for cell in row))
    assert told == [tuple(row) for row in EXCLUDED]
