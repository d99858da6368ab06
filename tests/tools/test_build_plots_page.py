"""The page of plots in git is what the tool builds from dvc.yaml, and has its figures in dvc.yaml's order."""

import re
from pathlib import Path

import pytest
import yaml
from dvc_render import ImageRenderer
from dvc_render.html import render_html

from deebert.base.errors import UserError
from tools.build_plots_page import build_page, figures, kept_scripts, main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".dvc/plots/offline.html"
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def shown(page: str) -> list[str]:
    """Ids of the images of a filled page, in the order in which a browser shows them."""
    rules = re.findall(r'main > div\[id\$="(\w+)"\] \{ order: (\d+);', page)
    ids = re.findall(r'<div\s+id="(\w+_svg)"', page)
    assert ids

    def order(name: str) -> int:
        """As CSS has it: of the rules that fit, all being as specific, the last one counts."""
        return [int(number) for suffix, number in rules if name.endswith(suffix)][-1]

    return sorted(ids, key=order)


def filled(page: Path, out: Path, names: list[str]) -> str:
    """The page as DVC fills it with images of these names."""
    renderers = [ImageRenderer([{"rev": "workspace", "src": f"{name}"}], name) for name in names]
    return Path(render_html(renderers, out, html_template=page)).read_text(encoding="utf-8")


def test_the_page_in_git_is_the_tools() -> None:
    """Built from dvc.yaml with the scripts that it has, it is the same; else build it anew with --keep-scripts."""
    text = PAGE.read_text(encoding="utf-8")
    assert build_page(kept_scripts(PAGE), PIPELINE) == text


@pytest.mark.parametrize("prefix", ["", "deep/project/dvc.yaml::"])
def test_figures_stand_in_the_pipelines_order(prefix: str, tmp_path: Path) -> None:
    """Whatever order DVC writes them in, and also where it names them after a folder."""
    names = figures(PIPELINE)
    assert len(names) == len(set(names)) > 1
    page = filled(PAGE, tmp_path / "index.html", [f"{prefix}{name}" for name in reversed(names)])
    expected = [ImageRenderer.remove_special_chars(f"{prefix}{name}") for name in names]
    assert shown(page) == expected


def test_another_order_in_the_pipeline_makes_another_page(tmp_path: Path) -> None:
    """The command keeps the page's scripts and takes the order from dvc.yaml; what that does not list comes last."""
    page, pipeline = tmp_path / "page.html", tmp_path / "dvc.yaml"
    page.write_bytes(PAGE.read_bytes())
    names = figures(PIPELINE)[::-1]
    pipeline.write_text(yaml.safe_dump({"plots": [{"table": {"x": "layer"}}, *names, "plots/new.svg"]}))
    main(page, pipeline, keep_scripts=True)
    assert kept_scripts(page) == kept_scripts(PAGE)
    others = ["plots/an_older_one.svg", "plots/new.svg", *sorted(names)]
    assert shown(filled(page, tmp_path / "index.html", others)) == [
        ImageRenderer.remove_special_chars(name) for name in (*names, "plots/new.svg", "plots/an_older_one.svg")
    ]


@pytest.mark.parametrize("content", [None, "<html></html>"])
def test_without_scripts_none_are_kept(content: str | None, tmp_path: Path) -> None:
    """A page that is missing or of another origin is one line, and is left as it is."""
    page = tmp_path / "page.html"
    if content is not None:
        page.write_text(content)
    with pytest.raises(UserError, match=r"page\.html: no page with scripts to keep"):
        main(page, ROOT / "dvc.yaml", keep_scripts=True)
    assert page.exists() == (content is not None)


def test_scripts_that_would_break_the_page_are_refused() -> None:
    """Neither the end of a script nor one of DVC's places may stand in them."""
    for harmful in ("</script>", "{plot_divs}", "{refresh_tag}"):
        with pytest.raises(ValueError, match="would break the page"):
            build_page(f"x = '{harmful}'", PIPELINE)
