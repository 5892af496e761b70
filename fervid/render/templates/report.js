"use strict";

// Theme: that of the system by default; a choice is stored if the browser allows it, else it lasts for this visit.
const theme = document.getElementById("theme");
const kept = {
  read(key) { try { return localStorage.getItem(key); } catch { return null; } },
  write(key, value) { try { localStorage.setItem(key, value); return true; } catch { return false; } },
};
function paint(value) {
  if (value === "light" || value === "dark") document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
}
for (const choice of theme.querySelectorAll("input")) {
  if (choice.value === kept.read("fervid-theme")) { choice.checked = true; paint(choice.value); }
  choice.addEventListener("change", () => { paint(choice.value); kept.write("fervid-theme", choice.value); });
}
theme.hidden = false;

function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// Tooltip with the description of the mark under the pointer; the tables have the same values.
const tip = document.getElementById("tip");
function markAt(event) {
  const mark = event.target.closest?.(".chart svg [role='graphics-symbol'][aria-label]");
  const part = mark?.getAttribute("aria-roledescription");
  return part === "axis" || part === "legend" ? null : mark;
}
function move(event) {
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18}px`;
}
document.addEventListener("pointerover", (event) => {
  const mark = markAt(event);
  tip.hidden = !mark;
  if (mark) { tip.textContent = mark.getAttribute("aria-label"); move(event); }
});
document.addEventListener("pointermove", (event) => { if (!tip.hidden) move(event); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// Only elements that scroll can be focused with the keyboard.
const scrolling = new ResizeObserver((changed) => {
  for (const { target } of changed) {
    const part = target.closest(".scroll");
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
});
for (const part of document.querySelectorAll(".scroll, .scroll > *")) scrolling.observe(part);

// Open folded sections for printing, except the tables below charts.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open], .alternative)")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => { for (const part of folded) part.open = false; });

// Table of clips: only one page of rows is in the document, so that large tables stay fast.
const data = document.getElementById("rows");
if (data) {
  const { rows, size } = JSON.parse(data.textContent);
  const table = document.getElementById("clips");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const [search, status, original, previous, next, where, order, said] =
    ["search", "status", "original", "previous", "next", "where", "order", "said"].map((id) => document.getElementById(id));
  const classes = ["", "", "number", "words", "number", "number", "long"]; // of the cells after the name of the clip
  const numeric = heads.map((head) => head.classList.contains("number"));
  const text = rows.map((row) => row.filter((cell) => typeof cell === "string").join("\n").toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });
  const first = order.textContent;
  let sorted = { column: -1, down: false };
  let found = [];
  let page = 0;

  const shown = [
    (value) => value, (value) => value, (value) => value, (value) => `${(100 * value).toFixed(1)} %`,
    (value) => value, (value) => value || "", (value) => value.toFixed(1), (value) => value,
  ];

  function draw() {
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    page = Math.min(page, last);
    const from = page * size;
    table.setAttribute("aria-rowcount", found.length + 1);
    body.replaceChildren(...found.slice(from, from + size).map((number, i) => {
      const [clip, ...others] = rows[number].map((value, column) => value === null ? "" : shown[column](value));
      const name = make("th", { scope: "row", className: "clip" }, make("bdi", {}, clip));
      const cells = others.map((text, j) => make("td", { className: classes[j] }, j === 6 ? make("bdi", {}, text) : text));
      return make("tr", { ariaRowIndex: from + i + 2 }, name, ...cells);
    }));
    const count = (number) => number.toLocaleString("en");
    const of = found.length === rows.length ? "" : ` found among ${count(rows.length)}`;
    where.textContent = found.length
      ? `Rows ${count(from + 1)} to ${count(Math.min(from + size, found.length))} of ${count(found.length)}${of}`
      : `Nothing found among ${count(rows.length)} clips`;
    previous.setAttribute("aria-disabled", page === 0);
    next.setAttribute("aria-disabled", page === last);
  }

  // Announce after a pause, because screen readers drop text that is replaced while the user types.
  let soon;
  function say(what = "") {
    clearTimeout(soon);
    said.textContent = "";
    soon = setTimeout(() => { said.textContent = what + where.textContent; }, 700);
  }

  function turn(pages) {
    page = Math.max(0, page + pages);
    draw();
    say();
  }

  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [];
    for (let i = 0; i < rows.length; i++) {
      if (status.value && rows[i][1] !== status.value) continue;
      if (words.every((word) => text[i].includes(word))) found.push(i);
    }
    const { column, down } = sorted;
    if (column >= 0) {
      const way = down ? -1 : 1;
      found.sort((a, b) => {
        const [one, other] = [rows[a][column], rows[b][column]];
        if (one === null || other === null) return (one === null) - (other === null) || a - b;
        return way * (numeric[column] ? one - other : collator.compare(one, other)) || a - b;
      });
    }
    page = 0;
    draw();
  }

  function sort(column, down) {
    sorted = { column, down };
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    find();
    const now = column < 0 ? "Original order" : `Sorted by ${heads[column].textContent}, ${down ? "descending" : "ascending"}`;
    order.textContent = column < 0 ? first : `${now}.`;
    say(`${now}. `);
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column, sorted.column === column && !sorted.down));
    head.replaceChildren(button);
  });
  search.addEventListener("input", () => { find(); say(); });
  status.addEventListener("change", () => { find(); say(); });
  original.addEventListener("click", () => sort(-1, false));
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  document.getElementById("tools").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("tools").hidden = false;
  document.getElementById("pages").hidden = false;
  find();
}
