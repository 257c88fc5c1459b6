"""MkDocs' hooks: benchmarks/README.md, which is stored next to its scripts, becomes a page of the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "benchmarks.md", abs_src_path=str(BENCHMARKS / "README.md")))
    for figure in BENCHMARKS.glob("*.svg"):
        files.append(File.generated(config, figure.name, abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    return markdown.replace("](../benchmarks/README.md", "](benchmarks.md")
