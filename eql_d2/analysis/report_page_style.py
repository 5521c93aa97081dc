"""What a report's page has beyond the look of all pages: colours of runs, sorting, filtering, galleries."""

REPORT_STYLE = """
:root {
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73;
  --series-4: #aa3377; --series-5: #8a6d00; --series-6: #5a6068;
}
body { max-width: 110rem; }
@media (prefers-color-scheme: dark) {
  :root {
    --series-1: #56b4e9; --series-2: #ff9a62; --series-3: #58cfa2;
    --series-4: #e29ac6; --series-5: #e3b75a; --series-6: #a3a9b1;
  }
}
nav a { margin-right: 1rem; color: var(--mark); }
.filter { position: sticky; top: 0; z-index: 2; padding: .5rem 0; background: var(--paper); }
.filter input {
  width: min(100%, 26rem); padding: .4rem .6rem; font: inherit; color: inherit; background: var(--panel);
  border: 1px solid var(--line); border-radius: .3rem;
}
.filter output { margin-left: .6rem; color: var(--soft); font-size: .92rem; }
.sortable th button {
  all: unset; cursor: pointer; font: inherit; color: inherit; white-space: nowrap;
}
.sortable th button:focus-visible, .filter input:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.sortable th button::after { content: ""; display: inline-block; width: .9em; text-align: center; }
.sortable th[aria-sort="ascending"] button::after { content: "▴"; }
.sortable th[aria-sort="descending"] button::after { content: "▾"; }
.sortable th, .sortable td { vertical-align: baseline; }
.sortable td .change { color: var(--soft); font-size: .85rem; }
.sortable th:first-child, .sortable td:first-child {
  position: sticky; left: 0; z-index: 1; background: var(--paper); min-width: clamp(7rem, 28vw, 13rem);
  max-width: 18rem; line-height: 1.3;
  overflow-wrap: anywhere; white-space: normal;
}
.sortable td:not(.number, :first-child) { min-width: 7rem; }
.sortable .start ~ td:not(.number) { min-width: 24rem; }
.sortable .start { padding-left: .8rem; border-left: 1px solid var(--line); }
.sortable th.number { text-align: right; }
.sortable .better { color: var(--fine); } .sortable .worse { color: var(--defect); }
tr[hidden] { display: none; }
.columns > * { min-width: 0; }
.figures > figure { margin: 1rem 0; min-width: 0; }
.figures h3 { margin-bottom: .2rem; }
.figures table { margin-top: .4rem; font-size: .92rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(0, 26.5rem)); gap: .6rem 1rem; margin: 1rem 0; }
.pair.one { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); align-items: end; }
.pair.two { grid-template-columns: repeat(2, minmax(0, 40rem)); }
.pair img { display: block; width: 100%; height: auto; }
.enlarge { all: unset; display: block; width: 100%; cursor: zoom-in; }
dialog.picture {
  margin: auto; padding: 0; border: 0; max-width: 100vw; max-height: 100vh; overflow: auto; background: var(--paper);
  color: var(--ink);
}
dialog.picture::backdrop { background: rgb(0 0 0 / .75); }
dialog.picture img { display: block; width: auto; height: auto; max-width: none; }
dialog.picture p { margin: .3rem .6rem; position: sticky; left: .6rem; max-width: min(46rem, 92vw); }
dialog.picture button {
  position: sticky; top: 0; left: 0; font: inherit; padding: .4rem .8rem; color: inherit; background: var(--panel);
  border: 1px solid var(--line);
}
.enlarge:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.pair p { margin: 0; }
.legend { list-style: none; padding: 0; margin: .5rem 0; display: grid; gap: .2rem; font-size: .92rem; }
.swatch {
  display: inline-block; min-width: 1.7em; padding: 0 .3em; border-radius: .2rem; color: #fff; text-align: center;
}
.remarks li { overflow-wrap: anywhere; }
@media (min-width: 60rem) {
  .sortable th:first-child, .sortable td:first-child { max-width: 28rem; width: max-content; white-space: nowrap; }
}
@media (max-width: 40rem) {
  .sortable th:first-child, .sortable td:first-child { max-width: 8.5rem; }
  .sortable th, .sortable td { padding-right: .5rem; }
  .sortable th button::after { width: .7em; }
  .pair.two { gap: .4rem; }
  .pair figcaption { font-size: .78rem; line-height: 1.3; }
}
"""

REPORT_SCRIPT = """
"use strict";
(() => {
  const tables = [...document.querySelectorAll("table.sortable")];
  const compare = (first, second, down) => {
    const a = first.dataset.v, b = second.dataset.v;
    if (a === undefined || b === undefined) {
      const order = first.textContent.localeCompare(second.textContent, undefined, {numeric: true});
      return down ? -order : order;
    }
    if (a === "" || b === "") return (a === "") - (b === "");  // what is not there comes last, either way
    return down ? b - a : a - b;
  };
  for (const table of tables) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const order = now === null ? first : now === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const rows = [...body.rows];
      rows.sort((a, b) => compare(a.cells[column], b.cells[column], order === "descending"));
      body.append(...rows);
    }));
  }
  const dialog = document.querySelector("dialog.picture");
  for (const button of document.querySelectorAll("button.enlarge")) {
    button.addEventListener("click", () => {
      const picture = button.querySelector("img"), shown = new Image();
      shown.src = picture.src;
      shown.alt = picture.alt;
      dialog.querySelector("img")?.remove();
      dialog.insertBefore(shown, dialog.querySelector("p"));
      dialog.querySelector("p").textContent = picture.alt;
      dialog.showModal();
    });
  }
  dialog?.addEventListener("click", () => dialog.close());
  const field = document.getElementById("filter"), told = document.getElementById("matches");
  if (!field) return;
  const rows = tables.flatMap(table => [...table.tBodies[0].rows]);
  const text = row => `${row.closest("table").dataset.name} ${row.textContent}`.toLowerCase();
  const texts = new Map(rows.map(row => [row, text(row)]));
  const filter = () => {
    const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every(word => texts.get(row).includes(word));
      shown += !row.hidden;
    }
    for (const table of tables) {
      const empty = [...table.tBodies[0].rows].every(row => row.hidden);
      (table.closest("section.table") ?? table).hidden = words.length > 0 && empty;
    }
    told.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  };
  field.addEventListener("input", filter);
  filter();  // the browser may have kept what was typed before a reload
})();
"""
