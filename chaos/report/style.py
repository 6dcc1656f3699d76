"""The look of the pages: light and dark, no fonts and no images from anywhere."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--bg:#f6f7f9;--fg:#1c2330;--dim:#667085;--card:#fff;--line:#e3e6ec;
--done:#2f7de1;--failed:#e0a21b;--unknown:#d6453d;--p50:#2f7de1;--p99:#8b5cf6;--band:#f0c9a0;
--calm:#d9efdf;--mark:#111827;--ok:#177a4c;--okbg:#dcf5e7;--bad:#b42318;--badbg:#fde4e1}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--fg:#e6e9ef;--dim:#98a2b3;--card:#1a2029;
--line:#2b3340;--done:#5aa2ff;--p50:#5aa2ff;--p99:#b294ff;--band:#57432c;--calm:#1d3a2a;
--mark:#e6e9ef;--ok:#6fdca6;--okbg:#143626;--bad:#ff9c92;--badbg:#451f1c}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,"Segoe UI",sans-serif}
main{max-width:1160px;margin:0 auto;padding:28px 20px 60px}
header{display:flex;align-items:center;gap:14px;flex-wrap:wrap}
h1{font-size:27px;margin:0;letter-spacing:-.02em}
h2{font-size:17px;margin:0 0 10px}
h3{font-size:13px;font-weight:600;margin:16px 0 4px;display:flex;justify-content:space-between}
p{margin:6px 0 10px;color:var(--dim)}
a{color:var(--done)}
.badge{font-weight:650;font-size:13px;padding:3px 11px;border-radius:99px;white-space:nowrap}
.badge.held{background:var(--okbg);color:var(--ok)}
.badge.violated,.badge.stuck{background:var(--badbg);color:var(--bad)}
.chips{display:flex;gap:7px;flex-wrap:wrap}
.chip{border:1px solid var(--line);border-radius:7px;padding:1px 9px;font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(124px,1fr));gap:10px;margin:16px 0}
.card,.panel,section.bad,.columns>section,main>section:last-child{background:var(--card);
border:1px solid var(--line);border-radius:12px}
.card{padding:11px 14px;display:flex;flex-direction:column}
.card b{font-size:19px;white-space:nowrap;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.card span{color:var(--dim);font-size:12.5px}
.panel{padding:4px 16px 14px}
.columns{display:grid;grid-template-columns:3fr 2fr;gap:14px;margin:14px 0}
.columns>section,main>section:last-child{padding:16px}
@media(max-width:860px){.columns{grid-template-columns:1fr}}
section.bad{padding:16px;margin:14px 0;border-color:var(--bad)}
pre{white-space:pre-wrap;word-break:break-word;background:var(--bg);padding:10px;border-radius:8px;
font-size:12.5px;max-height:340px;overflow:auto}
code{font-size:12.5px;background:var(--bg);padding:2px 6px;border-radius:6px}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--dim);font-weight:600;font-size:12px}
td,th{padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.chart{width:100%;height:auto;display:block}
.grid{stroke:var(--line);stroke-width:1}
.tick{fill:var(--dim);font-size:11px}
.band,.key.band{fill:var(--band);background:var(--band);opacity:.5}
.key.band{opacity:1}
.calm,.key.calm{fill:var(--calm);background:var(--calm)}
.mark{stroke:var(--mark);stroke-width:1.4;stroke-dasharray:3 3}
.key.mark{background:var(--mark)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.line.done{stroke:var(--done)}.area.done{fill:var(--done);opacity:.16}
.line.p50{stroke:var(--p50)}.line.p99{stroke:var(--p99)}
.bar.failed{fill:var(--failed)}.bar.unknown{fill:var(--unknown)}
.key{display:inline-block;width:10px;height:10px;border-radius:3px;margin:0 5px 0 13px}
.key.done,.key.p50{background:var(--done)}.key.p99{background:var(--p99)}
.key.failed{background:var(--failed)}.key.unknown{background:var(--unknown)}
.legend{font-weight:400;color:var(--dim)}
.lane.fault{fill:#e08b3e}.inside{font-size:10.5px;fill:#fff;pointer-events:none}
.leader0{fill:#2f7de1}.leader1{fill:#159a6b}.leader2{fill:#8b5cf6}.leader3{fill:#c2410c}
.leader4{fill:#be185d}.leader5{fill:#4b5563}
.spark{width:160px;height:28px}
""".strip()
