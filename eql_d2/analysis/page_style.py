"""The look of pages that the project writes: light and dark as the reader's system is, readable on a phone."""

PAGE_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --ink: #1c1e21; --soft: #5a6068; --line: #d8dade; --panel: #f1f2f3;
  --mark: #2456b3; --defect: #b3261e; --remark: #8a5a00; --fine: #1d7a3e;
  --group-r: #c2410c; --group-c: #7f6200; --group-f: #15803d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #e6e7e9; --soft: #a3a9b1; --line: #3a3f45; --panel: #202327;
    --mark: #7eaaf5; --defect: #ff8a80; --remark: #f0b849; --fine: #6fd08f;
    --group-r: #fb8f5a; --group-c: #e5c04b; --group-f: #5fcf86;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 46rem; }
h1, h2, h3, p, td.text { overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .92rem; }
.verdict { padding: .7rem 1rem; border-left: .35rem solid var(--fine); background: var(--panel); font-weight: 600; }
.verdict.defect { border-color: var(--defect); }
.verdict.remark { border-color: var(--remark); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-size: .85rem; color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
td.text { min-width: 9rem; }
.level { font-weight: 600; }
.level.defect { color: var(--defect); }
.level.remark { color: var(--remark); }
.group-r { color: var(--group-r); } .group-c { color: var(--group-c); } .group-f { color: var(--group-f); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2.5rem; }
.bar { display: block; min-width: 5rem; height: .7rem; margin-top: .45rem; background: var(--panel); }
.bar > span { display: block; height: 100%; background: var(--mark); }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .92rem; }
svg { width: 100%; height: auto; max-width: 36rem; display: block; }
svg * { stroke-linejoin: round; }
svg text { font-family: inherit !important; }
details > summary { cursor: pointer; }
@media (max-width: 40rem) {
  .stacked thead { display: none; }
  .stacked tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .stacked td { display: inline; padding: 0 .6rem 0 0; border: 0; }
  .stacked td.number::before { content: "× "; }
  .stacked td.text { display: block; }
}
"""
