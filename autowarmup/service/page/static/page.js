// What the page does beyond showing: it follows what changes, and sorts and filters the table of trials.
"use strict";

const main = document.querySelector("main");
const LEAST_MS = 2000; // between two looks at the service
const MOST_MS = 10000;

// --- The table of trials ---

const table = document.getElementById("table");
let sorted = { column: 0, down: false };

function keyOf(row) {
  const cell = row.cells[sorted.column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return table.tHead.rows[0].cells[sorted.column].classList.contains("number") ? (text === "" ? NaN : Number(text)) : text;
}

function before(one, other) {
  const [a, b] = [keyOf(one), keyOf(other)];
  if (typeof a === "string") return (sorted.down ? -1 : 1) * a.localeCompare(b, "en");
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // no value: last, in both directions
  return (sorted.down ? -1 : 1) * (a - b);
}

function arrange() {
  const body = table.tBodies[0];
  const wanted = document.getElementById("wanted").value.trim().toLowerCase();
  const outcome = document.getElementById("outcome").value;
  body.append(...[...body.rows].sort(before));
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = !(row.textContent.toLowerCase().includes(wanted) && (!outcome || row.dataset.outcome === outcome));
    shown += !row.hidden;
  }
  const said = shown === body.rows.length ? "" : `${shown} of ${body.rows.length} trials`;
  const output = document.getElementById("shown");
  if (output.textContent !== said) output.textContent = said;
}

function sortBy(column) {
  const headers = table.tHead.rows[0].cells;
  headers[sorted.column].removeAttribute("aria-sort");
  sorted = { column, down: sorted.column === column && !sorted.down };
  headers[column].setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
  arrange();
}

if (table) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sortBy(column));
    header.replaceChildren(button);
  });
  const filter = document.getElementById("filter");
  filter.hidden = false;
  filter.addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["input", "change"]) filter.addEventListener(name, arrange);
  arrange();
}

// --- What changes ---

const known = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.id, part.innerHTML]));

function show(html) {
  for (const part of new DOMParser().parseFromString(html, "text/html").querySelectorAll("[data-part]")) {
    if (known.get(part.id) === part.innerHTML) continue;
    known.set(part.id, part.innerHTML);
    document.getElementById(part.id).replaceChildren(...part.childNodes);
    if (part.id === "rows") arrange();
  }
}

let looked = performance.now();
let due = null;
let ended = false;

async function look() {
  due = null;
  looked = performance.now();
  if (!document.hidden) {
    try {
      const answer = await fetch(main.dataset.live, { headers: { Accept: "text/html" } });
      if (answer.redirected || [401, 404].includes(answer.status)) return location.reload(); // logged out, or deleted
      if (answer.ok) show(await answer.text());
    } catch {
      // The service doesn't answer now; it is asked again.
    }
  }
  if (!ended || main.querySelector("[data-pending]")) soon(MOST_MS);
}

function soon(ms) {
  clearTimeout(due);
  due = setTimeout(look, ms);
}

function changed() {
  soon(Math.max(0, looked + LEAST_MS - performance.now()));
}

if (main.dataset.live) {
  soon(MOST_MS);
  document.addEventListener("visibilitychange", changed);
}

let events = null;

// Browsers have few connections to one service: a page that nobody sees needs none.
function listen() {
  events?.close();
  events = null;
  if (document.hidden) return;
  events = new EventSource(main.dataset.events);
  for (const name of ["segment", "state", "run"]) events.addEventListener(name, changed);
  events.addEventListener("end", () => {
    ended = true;
    changed();
  });
}

if (main.dataset.events) {
  listen();
  document.addEventListener("visibilitychange", listen);
}
