"""The pages: nothing dangles, every code block runs, the built site opens cleanly.

``python3 dev.py test -n 0 -m slow tests/test_docs.py`` builds the site, follows every
link in it and opens pages in a headless browser if one is installed.
"""

import dataclasses
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import sklearn

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GENERATED = {"reproductions.md", "performance.md"}
SKIPPED = ("_build", "generated", "results", "tutorials/0", "tutorials/1")


def pages():
    names = (p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
    return sorted(name for name in names if not name.startswith(SKIPPED))


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def theory_pages():
    return [p for p in pages() if p.startswith("theory/") and p != "theory/index.md"]


# What is written


def listed_in_toctrees(page):
    for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", text_of(page), re.S | re.M):
        for line in tree.splitlines():
            if line and not line.startswith(":") and "*" not in line:
                name = re.sub(r".*<(.*)>$", r"\1", line)
                yield (Path(page).parent / name).as_posix() + ".md"


def test_every_page_is_in_a_toctree():
    reached, new = set(), {"index.md"}
    while new:
        reached |= new
        new = {child for page in new for child in listed_in_toctrees(page)} - reached
        assert not [p for p in new if not (DOCS / p).exists()], "dangling entries"
    assert reached == set(pages())


def targets(page):
    """Yield what a page refers to inside this repository, and how."""
    text = re.sub(r"^```\w*\n.*?^```", "", text_of(page), flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*\]\([^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not urlsplit(target).scheme:
            yield "file", target.partition("#")[0]
    for role in re.findall(r"\{doc\}`([^`]+)`", text):
        yield "doc", re.sub(r".*<(.*)>$", r"\1", role)
    for link in re.findall(r"^:link: (\S+)\n:link-type: doc", text, re.M):
        yield "doc", link
    for picture in re.findall(r"^:img-top: (\S+)", text, re.M):
        yield "file", picture


@pytest.mark.parametrize("page", pages())
def test_references_exist(page):
    for kind, target in targets(page):
        base = DOCS if target.startswith("/") else (DOCS / page).parent
        path = base / target.lstrip("/")
        if kind == "doc":
            known = path.with_name(path.name + ".md").exists()
            notebook = ROOT / "notebooks" / f"{path.name}.ipynb"
            assert known or notebook.exists(), f"{page}: {target}"
        elif target:
            assert path.exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", [p for p in pages() if "```python" in text_of(p)])
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    text = text_of(page)
    with sklearn.config_context():  # what a page sets ends with it
        for match in re.finditer(r"^ *```python\n(.*?)^ *```", text, re.S | re.M):
            line = text[: match.start()].count("\n") + 1
            exec(compile("\n" * line + match[1], str(DOCS / page), "exec"), names)


@pytest.mark.parametrize("page", theory_pages())
def test_theory_pages_are_complete(page):
    text = text_of(page)
    assert "$" in text, "no equation"
    assert re.search(r"\bcosts?\b|O\(", text, re.I), "nothing on what it costs"
    assert re.search(r"[Ww]hen not to use", text), "nothing on when not to use it"


def test_every_public_name_is_on_the_api_page():
    listed = set(re.findall(r"^   ([a-z_]+\.[\w.]+)$", text_of("api.md"), re.M))
    surface = json.loads((ROOT / "tests" / "api_surface.json").read_text())
    modules = {"lie.losses", "lie.nn", "lie.rotation", "equivariant.neighbors"}
    foreign = {"manifolds.ManifoldParameter"}  # geoopt's
    missing = [
        f"{room.partition('.')[2]}.{name}"
        for room, names in surface.items()
        if room != "manifoldkit"
        for name in names
        if f"{room.partition('.')[2]}.{name}" not in listed | modules | foreign
    ]
    assert not missing
    for module in modules:  # listed by their contents
        assert any(name.startswith(f"{module}.") for name in listed), module


def is_example_due(name, value):
    """Say whether a reader expects to see it called: not containers, not loaders."""
    if inspect.ismodule(value) or dataclasses.is_dataclass(value):
        return False
    if hasattr(value, "_fields") or name.startswith(("load_", "fetch_", "md17_")):
        return False
    return not (inspect.isclass(value) and issubclass(value, Exception))


def test_every_entry_of_the_api_page_shows_an_example():
    names = re.findall(r"^   ([a-z_]+\.[\w.]+)$", text_of("api.md"), re.M)
    without = []
    for full in names:
        module, _, name = f"manifoldkit.{full}".rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if ">>>" not in (value.__doc__ or "") and is_example_due(name, value):
            without.append(full)
    assert not without


def test_every_extra_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = set(re.findall(r"^\| `(\w+)` \|", text_of("installation.md"), re.M))
    assert table == set(project["optional-dependencies"])


def test_every_notebook_is_introduced():
    numbers = {p.name[:2] for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"^\| (\d\d) \|", text_of("tutorials/index.md"), re.M)) == (
        numbers
    )


def figures_module():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("figures", DOCS / "figures.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_landing_page_shows_a_figure_for_each_geometry():
    shown = re.findall(r"^:img-top: _static/(\w+)\.svg", text_of("index.md"), re.M)
    assert shown == list(figures_module().FIGURES)
    for name in shown:
        assert (DOCS / "_static" / f"{name}.svg").stat().st_size < 300_000


# What is built


class Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found.get("id"), found.get("name")}
        for key in ("href", "src"):
            if found.get(key) and tag != "base":
                self.links.append(found[key])


def broken_links(site):
    pages = [p for p in site.rglob("*.html") if "_static" not in p.parts]
    parsed = {page: Links(page.read_text(encoding="utf-8")) for page in pages}
    for page, found in parsed.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            path = page.parent / unquote(parts.path) if parts.path else page
            path = path.resolve()
            if path.is_dir():
                path /= "index.html"
            if not path.exists():
                yield f"{page.relative_to(site)} -> {link}"
            elif (
                path in parsed
                and parts.fragment
                and unquote(parts.fragment) not in parsed[path].anchors
            ):
                yield f"{page.relative_to(site)} -> {link} (anchor)"


@pytest.fixture(scope="module")
def site():
    """Build the site where ``dev.py docs`` does, which reuses executed notebooks."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_nb")
    filelock = pytest.importorskip("filelock")
    target = DOCS / "_build" / "html"
    target.mkdir(parents=True, exist_ok=True)
    options = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    with filelock.FileLock(target.parent / ".lock"):  # one test worker at a time
        done = subprocess.run(
            [sys.executable, *options, str(DOCS), str(target)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return target


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_site_builds_without_warnings_and_no_link_is_broken(site):
    broken = sorted(set(broken_links(site)))
    assert not broken, "\n".join(broken[:30])
    assert len(list(site.rglob("*.html"))) > 250


OPENED = (
    *("index.html", "choosing.html", "api.html", "reproductions.html"),
    *("performance.html", "theory/lie_groups.html", "tutorials/00_tour.html"),
    "generated/manifoldkit.spd.gbw_distance.html",
)


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", OPENED)
def test_page_opens_in_a_browser(site, page, tmp_path):
    """The console stays empty, and formulas are set, without a network."""
    program = browser()
    if program is None:
        pytest.skip("no browser is installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=10000"]
    options += [f"--user-data-dir={tmp_path}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    address = (site / page).as_uri()
    done = subprocess.run(
        [program, *options, "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "</html>" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # the theme tells which of its two modes it takes
    said = [x for x in lines if "[PST]" not in x and "invalid theme mode" not in x]
    assert not said, "\n".join(said)
    if page.startswith("theory/") and find_spec("sphinx-mathjax-offline"):
        assert done.stdout.count("<mjx-container") > 20
        assert "<mjx-merror" not in done.stdout


@pytest.mark.slow
def test_figures_of_the_landing_page_can_be_drawn_again(tmp_path):
    for file in figures_module().write(tmp_path):
        assert file.read_text(encoding="utf-8").rstrip().endswith("</svg>")
