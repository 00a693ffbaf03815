"""The documentation site's own files: the reference has every public name, the plot the figures of the results."""

import re
import tomllib

from benchmarks import readme_plot

from .documents import ROOT

DOCS = ROOT / "docs"


def reference():
    return "\n".join(path.read_text() for path in sorted((DOCS / "reference").glob("*.md")))


def test_the_reference_has_each_public_name_of_the_modules():
    public = tomllib.loads((ROOT / "tests" / "repository" / "public_names.toml").read_text())["modules"]
    text = reference()
    whole = re.findall(r"automodule:: (\S+)", text)
    missing = [
        f"{module}.{name}"
        for module, documents in public.items()
        for names in documents.values()
        for name in names
        if not re.search(rf"\b{re.escape(module.removesuffix('.exceptions'))}\.{name}\b|`{name}`", text)
        and not any(hasattr(__import__(one, fromlist=["x"]), name) for one in whole)
    ]
    assert missing == []


def test_each_page_is_in_one_list_of_the_site():
    listed = re.findall(r"^(?:.* <)?((?:\.\./)?[\w/-]+)>?$", (DOCS / "index.md").read_text(), re.MULTILINE)
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.glob("*.md")} - {"index"}
    pages |= {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.glob("reference/*.md")}
    assert sorted(page for page in pages if listed.count(page) != 1) == []


def test_the_plot_has_the_figures_of_the_results():
    found = readme_plot.ratios((ROOT / "benchmarks" / "RESULTS.md").read_text())
    drawn = re.findall(r">([^<>]+)</text>", (DOCS / "cpu-per-message.svg").read_text())
    assert [text for text in drawn if text in readme_plot.LABELS.values()] == list(
        reversed(readme_plot.LABELS.values())
    )
    shown = [text for text in drawn if re.fullmatch(r"\d\.\d\d", text)]
    assert shown == [found[case][0] for case in reversed(readme_plot.LABELS)]
