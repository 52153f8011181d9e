"""How the page looks: light and dark, narrow and printed."""

from llmops_components.data.palette import PALETTE

STYLE = (
    PALETTE
    + """\
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p, li { margin: .3rem 0; max-width: 56rem; overflow-wrap: anywhere; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0; } a { color: var(--model); }
.soft, small, th { color: var(--soft); }
.decision { margin: 1.25rem 0; padding: .8rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--even); border-radius: 6px; }
.decision h2 { margin: 0; font-size: 1.15rem; }
.decision.pass { border-left-color: var(--up); } .decision.pass h2 { color: var(--up); }
.decision.fail { border-left-color: var(--down); } .decision.fail h2 { color: var(--down); }
.decision.undecided { border-left-color: var(--warn); } .decision.undecided h2 { color: var(--warn); }
.scroll { overflow-x: auto; margin: .75rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
th { font-weight: 500; font-size: .85rem; text-align: left; }
th, td { padding: .5rem .75rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
tbody tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; }
.further td { vertical-align: top; } .further th { white-space: normal; vertical-align: bottom; }
.up { color: var(--up); } .down { color: var(--down); } .even { color: var(--even); } .warn { color: var(--warn); }
svg { display: block; overflow: visible; }
svg line { stroke: currentColor; stroke-width: 2.5; stroke-linecap: round; } svg circle { fill: currentColor; }
svg .zero { stroke: var(--line); stroke-width: 1.5; }
svg .floor { stroke: var(--line); stroke-width: 1; }
svg rect { fill: var(--model); opacity: .75; } svg polyline { fill: none; stroke: var(--text); stroke-width: 1.2; opacity: .75; }
.bar { position: relative; min-width: 9rem; height: .7rem; background: var(--line); border-radius: .35rem; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--model); border-radius: .35rem; }
.bar b { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--text); }
.wtl { display: flex; min-width: 7rem; height: .5rem; border-radius: .25rem; overflow: hidden; }
.wtl i { background: var(--even); opacity: .5; } .wtl .up { background: var(--up); opacity: 1; }
.wtl .down { background: var(--down); opacity: 1; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.25rem 2rem; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .9rem; margin-bottom: .35rem; }
figure svg { width: 100%; height: 4rem; overflow: hidden; }
figure .ends { display: flex; justify-content: space-between; font-size: .78rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.25rem; margin: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
article { margin: 0 0 1rem; padding: .9rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; }
article header, article footer { display: flex; flex-wrap: wrap; gap: .1rem 1rem; align-items: baseline;
  font-variant-numeric: tabular-nums; }
article footer { margin-top: .8rem; font-size: .8rem; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: .75rem 1.5rem;
  margin-top: .6rem; }
.answers h3 { margin: 0 0 .1rem; font-size: .8rem; font-weight: 500; color: var(--soft); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; max-height: 30rem; overflow: auto; }
.text.empty::after { content: "(empty)"; color: var(--soft); }
.text em { color: var(--warn); font-style: normal; }
summary { cursor: pointer; }
article details { margin-top: .4rem; font-size: .9rem; }
article summary { color: var(--soft); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
article .text.prompt { margin: .4rem 0 0; padding: .6rem .8rem; background: var(--ground); border-radius: 4px;
  max-height: 24rem; }
section > details > summary { font-size: 1.05rem; margin: 1.5rem 0 1rem; }
#tools { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: 0 -1.25rem;
  padding: .7rem 1.25rem; background: var(--ground); border-bottom: 1px solid var(--line); }
input, select, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .35rem .6rem; max-width: 100%; }
#search { flex: 1 1 14rem; min-width: 0; } #count { margin: .8rem 0; }
button { cursor: pointer; } button:hover:not(:disabled) { border-color: var(--model); }
button:disabled { opacity: .45; cursor: default; }
:focus-visible { outline: 3px solid var(--model); outline-offset: 1px; }
#more { display: block; margin: 1rem auto; padding: .45rem 1.2rem; }
[hidden] { display: none !important; }
@media (max-width: 44rem) {
  body { padding: 1.25rem .9rem 3rem; } #tools { position: static; margin: 0 -.9rem; padding: .7rem .9rem; }
  th, td { padding: .45rem .55rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
}
@media print {
  :root { color-scheme: light; --ground: #fff; --card: #fff; --text: #000; --soft: #444; --line: #bbb; --up: #18794e; --down: #b3261e;
    --model: #2f6fd0; --warn: #7a4a00; }
  html { font-size: 10px; } body { max-width: none; padding: 0; font-size: 10px; }
  th, td { padding: .3rem .45rem; } td.n, th.n { white-space: normal; } .wtl, .bar { min-width: 5rem; }
  nav, #tools, #more, noscript { display: none !important; }
  article, figure, tr, .decision { break-inside: avoid; }
  .text { max-height: none !important; overflow: visible; } .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
