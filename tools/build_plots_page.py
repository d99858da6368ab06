"""Build the page that `dvc plots show` and `dvc plots diff` fill: Vega inside, so that it works without a network.

    pip install vl-convert-python==1.9.0
    python tools/build_plots_page.py .dvc/plots/offline.html

DVC puts one element per plot in the place of `{plot_divs}` and calls `vegaEmbed(selector, spec)` for each. Its own
`{scripts}` would load Vega from the network; this page has no such place.

Figures stand in the order in which dvc.yaml lists them. After a change there the page is built anew, for which its own
scripts are enough; nothing needs to be installed:

    python tools/build_plots_page.py .dvc/plots/offline.html --keep-scripts
"""

import argparse
import re
from pathlib import Path
from typing import Any

import yaml
from dvc_render.base import Renderer

from deebert.base.errors import UserError
from deebert.base.files import write_bytes
from deebert.base.stage import told_in_one_line

VEGA_LITE = "5.21"  # the templates' $schema is v5

# What DVC calls. SVG stays sharp when zoomed or printed; a broken plot says so in its place instead of staying blank.
# So does one of a file without rows (training curves where nothing was trained): DVC's specification of it is {}.
EMBED = """
window.vegaEmbed = (selector, spec) => !("data" in spec)
  ? document.querySelector(selector).append(`${selector.slice(1)}: no rows, nothing to draw`)
  : vegaEmbed(selector, spec, {
  renderer: "svg",
  actions: {export: true, source: false, compiled: false, editor: false},
  config: {
    font: "system-ui, sans-serif",
    title: {anchor: "start", fontSize: 16, subtitleFontSize: 12, subtitleColor: "#666", subtitlePadding: 5, offset: 14},
    axis: {labelFontSize: 12, titleFontSize: 12}, header: {labelFontSize: 12, titleFontSize: 12},
    legend: {labelFontSize: 12, titleFontSize: 12}, text: {fontSize: 12}, line: {strokeWidth: 2}, view: {stroke: null},
  },
}).catch(error => { document.querySelector(selector).textContent = `${selector}: ${error}`; });
"""

NOTICE = """
Scripts in this page: Vega, Vega-Lite and Vega-Embed with what they are made of, bundled by vl-convert-python (BSD-3).

BSD-3-Clause: Vega, Vega-Lite, Vega-Embed and all vega-* parts, Copyright (c) 2015-2023, University of Washington
Interactive Data Lab; d3-ease, Copyright 2010-2026 Mike Bostock, Copyright 2001 Robert Penner.
  Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
  following conditions are met: 1. Redistributions of source code must retain the above copyright notice, this list of
  conditions and the following disclaimer. 2. Redistributions in binary form must reproduce the above copyright notice,
  this list of conditions and the following disclaimer in the documentation and/or other materials provided with the
  distribution. 3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or
  promote products derived from this software without specific prior written permission.
  THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
  INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
  DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
  SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
  SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
  WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
  OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.

ISC: d3-array, d3-color, d3-dispatch, d3-dsv, d3-force, d3-format, d3-geo, d3-geo-projection, d3-hierarchy,
d3-interpolate, d3-path, d3-quadtree, d3-scale, d3-scale-chromatic, d3-shape, d3-time, d3-time-format, d3-timer,
internmap, topojson-client, Copyright 2010-2026 Mike Bostock; d3-delaunay, Copyright 2018-2026 Observable, Inc.,
Copyright 2021 Mapbox; delaunator, Copyright (c) 2026, Mapbox; semver, Copyright (c) Isaac Z. Schlueter and
Contributors.
  Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
  granted, provided that the above copyright notice and this permission notice appear in all copies.
  THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
  IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
  INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN
  AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR
  PERFORMANCE OF THIS SOFTWARE.

MIT: fast-json-patch, Copyright (c) 2013, 2014, 2020 Joachim Wester; json-stringify-pretty-compact, Copyright (c) 2014,
2016, 2017, 2019, 2021, 2022 Simon Lydell; GeographicLib in d3-geo, Copyright 2008-2012 Charles Karney;
lodash.debounce, Copyright OpenJS Foundation and other contributors.
  Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
  documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
  rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
  persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice
  and this permission notice shall be included in all copies or substantial portions of the Software.
  THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
  WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
  COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
  OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

Others: tslib (0BSD, Microsoft Corporation); robust-predicates (Unlicense, Vladimir Agafonkin); the ColorBrewer schemes
in d3-scale-chromatic, Copyright 2002 Cynthia Brewer, Mark Harrower, and The Pennsylvania State University (Apache-2.0).
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DeeBERT: plots</title>
{refresh_tag}
<!--%(notice)s-->
<style>
body { margin: 0; padding: 1.5rem; background: #f4f5f7; color: #222; font: 15px/1.5 system-ui, sans-serif; }
header { max-width: 60rem; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { flex-basis: 100%%; margin: 1rem 0 0; font-size: 1.2rem; }
main { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
main > div { order: 1; padding: 1rem; background: white; border: 1px solid #ddd !important; border-radius: 6px;
  max-width: 100%%; box-sizing: border-box; overflow-x: auto; white-space: normal !important; }
/* DVC puts images last, sorted by name; here they follow a heading, in the order of dvc.yaml. */
h2 { order: 2; }
main > div[id$="_svg"] { order: 999; display: flex; flex-wrap: wrap; gap: 1rem; }
%(order)s
main:not(:has(> div[id$="_svg"])) h2 { display: none; }
main > div > p { display: none; } /* the file's name */
main > div > div { border: 0 !important; margin: 0 !important; }
main > div > div:not(:only-of-type) { flex: 1 1 24rem; } /* revisions, side by side under their names */
main > div > div > p { margin: 0; color: #666; }
main > div > div:only-of-type > p { display: none; }
img { display: block; max-width: 100%%; height: auto; }
</style>
<script>
%(script)s
</script>
</head>
<body>
<header>
<h1>Early exit: what it saves and what it costs</h1>
<p>Point at a mark for its numbers. Drag moves the trade-off plot, Shift and the wheel zoom it, a double click puts it
back. Every plot can be saved from the menu in its corner.</p>
</header>
<main>
{plot_divs}
<h2>Figures</h2>
</main>
</body>
</html>
"""


def figures(pipeline: dict[str, Any]) -> list[str]:
    """Paths of the images under `plots` of a dvc.yaml, in its order."""
    return [entry for entry in pipeline["plots"] if isinstance(entry, str) and entry.endswith(".svg")]


def order_rules(paths: list[str]) -> str:
    """CSS that puts the images in this order.

    DVC makes the id of an image's element from its path, and puts a folder's before it where the project lies in one.
    """
    ids = [Renderer.remove_special_chars(path) for path in paths]
    return "\n".join(f'main > div[id$="{name}"] {{ order: {number}; }}' for number, name in enumerate(ids, start=3))


def made_scripts() -> str:
    """Vega and what DVC calls, as one script."""
    try:
        import vl_convert
    except ImportError:
        raise UserError("vl-convert-python is not installed; expected it, or --keep-scripts") from None

    script = vl_convert.javascript_bundle(EMBED, vl_version=VEGA_LITE)
    return re.sub(r"[ \t]+$", "", script, flags=re.MULTILINE)


def kept_scripts(page: Path) -> str:
    """The script of a page that this tool has built; UserError where there is none."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    found = re.search(r"<script>\n(.*?)\n</script>", text, flags=re.DOTALL)
    if not found:
        raise UserError(f"{page}: no page with scripts to keep; expected one that this tool has built")
    return found[1]


def build_page(script: str, pipeline: dict[str, Any]) -> str:
    """Return the page with DVC's two places in it.

    Args:
        script: as `made_scripts` returns it.
        pipeline: the content of dvc.yaml.

    Raises:
        ValueError: the script would break the page.
    """
    for harmful in ("</script", "{plot_divs}", "{refresh_tag}"):
        if harmful in script:
            raise ValueError(f"the scripts contain {harmful!r}, which would break the page")
    return PAGE % {"notice": NOTICE, "script": script, "order": order_rules(figures(pipeline))}


def main(page: Path, pipeline: Path, keep_scripts: bool) -> None:
    script = kept_scripts(page) if keep_scripts else made_scripts()
    built = build_page(script, yaml.safe_load(pipeline.read_text(encoding="utf-8")))
    write_bytes(page, built.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="where to write the page")
    parser.add_argument("--keep-scripts", action="store_true", help="take Vega from the page that is there")
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.page, Path("dvc.yaml"), arguments.keep_scripts)
