"""Where the results go: JSON and tables into a folder, for the documentation pictures and a section of its page too."""

from __future__ import annotations

from pathlib import Path

from tests.bench.plots import draw
from tests.bench.report import as_json, as_markdown
from tests.bench.results import Results

PAGE = Path("docs/PERFORMANCE.md")
PICTURES = Path("docs/performance")
_BEGIN, _END = "<!-- results: written by make bench -->\n", "<!-- end of results -->\n"


def write(results: Results, folder: Path) -> None:
    """Write tables and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(as_json(results), encoding="utf-8")
    (folder / "results.md").write_text(as_markdown(results), encoding="utf-8")


def publish(results: Results, repository: Path) -> None:
    """Renew the results in docs/PERFORMANCE.md, its pictures and its JSON."""
    folder, page = repository / PICTURES, repository / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(as_json(results), encoding="utf-8")
    pictures = draw(results, folder)
    images = "".join(f"![{one.stem}]({PICTURES.name}/{one.name})\n\n" for one in pictures)
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{as_markdown(results)}{images}{_END}{after}", encoding="utf-8")
