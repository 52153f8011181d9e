"""How the page looks: light and dark, narrow and printed."""

from llmops_components.data.palette import PALETTE

STYLE = (
    PALETTE
    + """\
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; }
p, li { margin: .3rem 0; max-width: 56rem; overflow-wrap: anywhere; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
.soft, small, th { color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; margin: 1rem 0; }
.facts b { display: block; font-size: 1.3rem; font-weight: 500; font-variant-numeric: tabular-nums; }
.findings { margin: 1.25rem 0; padding: .8rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--warn); border-radius: 6px; }
.findings h2 { margin: 0; } .findings.none { border-left-color: var(--up); }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
th { font-weight: 500; font-size: .85rem; text-align: left; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td bdi { display: inline-block; min-width: 6rem; overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td.n { white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1.25rem 2rem; }
.grid + .scroll { margin-top: 1.25rem; }
.tables { grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .9rem; margin-bottom: .35rem; overflow-wrap: anywhere; }
figure svg { display: block; width: 100%; height: 4rem; border-bottom: 1px solid var(--line); }
svg rect { fill: var(--model); opacity: .8; }
.ends { display: flex; justify-content: space-between; font-size: .78rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.bar { display: inline-block; width: 100%; min-width: 6rem; height: .7rem; vertical-align: middle; }
.bar rect.all { fill: var(--line); opacity: 1; }
article { margin: 0 0 .8rem; padding: .7rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
article .bar { margin: .3rem 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; margin: .35rem 0; padding: .4rem .6rem;
  background: var(--ground); border-radius: 4px; font-size: .9rem; max-width: none; }
:focus-visible { outline: 3px solid var(--model); outline-offset: 1px; }
@media (max-width: 44rem) { body { padding: 1.25rem .9rem 3rem; } th, td { padding: .35rem .5rem; } }
@media print {
  :root { color-scheme: light; --ground: #fff; --card: #fff; --text: #000; --soft: #444; --line: #bbb; --up: #18794e;
    --model: #2f6fd0; --warn: #7a4a00; }
  html { font-size: 10px; } body { max-width: none; padding: 0; font-size: 10px; }
  article, figure, tr { break-inside: avoid; } .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
