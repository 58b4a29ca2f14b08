"use strict";
// What the page can do beyond being read: schemes, sorting, filtering, copying, values on hover. It works without.

const KEY = "torchstone-scheme";

function made(tag, text, more = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  return Object.assign(element, more);
}

// Light or dark, as the system has it, or as it was chosen here before.
function stored() {
  try { return localStorage.getItem(KEY) || ""; } catch { return ""; } // a page from a file may have no storage
}

function useScheme(scheme) {
  document.documentElement.style.colorScheme = scheme || "light dark";
  try { localStorage.setItem(KEY, scheme); } catch { /* it holds until the page is closed */ }
}

function schemeChoice() {
  const label = made("label", "colours ");
  const select = made("select", "");
  for (const [value, text] of [["", "as the system"], ["light", "light"], ["dark", "dark"]]) {
    select.append(made("option", text, { value, selected: value === stored() }));
  }
  select.addEventListener("change", () => useScheme(select.value));
  label.append(select);
  return label;
}

// Rows of one backend, findings of one level.
function distinct(attribute) {
  return [...new Set([...document.querySelectorAll(`[${attribute}]`)].map((element) => element.getAttribute(attribute)))];
}

function filterChoice(attribute, text) {
  const label = made("label", `${text} `);
  const select = made("select", "");
  select.append(made("option", "all", { value: "" }));
  for (const value of distinct(attribute)) select.append(made("option", value, { value }));
  select.addEventListener("change", () => {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      element.hidden = select.value !== "" && element.getAttribute(attribute) !== select.value;
    }
  });
  label.append(select);
  return label;
}

// Figures sort as numbers in one unit, whatever unit they are shown in; what has none comes last.
const UNITS = { us: 1e-6, ms: 1e-3, s: 1, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

function figure(text) {
  const parts = /(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?: ?(us|ms|s|kB|MB|GB|TB|B)\b)?/.exec(text);
  return parts ? Number(parts[1].replaceAll(",", "")) * (UNITS[parts[2]] ?? 1) : NaN;
}

function compare(a, b, sign) {
  const [x, y] = [figure(a), figure(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || sign * a.localeCompare(b);
  return sign * (x - y || a.localeCompare(b));
}

function sortBy(table, column, head) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const text = (row) => row.cells[column].textContent.trim();
  const byName = column === 0 || head.textContent.trim() === "backend";
  const sign = descending ? -1 : 1;
  const order = byName ? (a, b) => sign * text(a).localeCompare(text(b)) : (a, b) => compare(text(a), text(b), sign);
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
}

function sortable(table) {
  for (const head of table.querySelectorAll("thead th")) {
    const button = made("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, head.cellIndex, head));
  }
}

function copyable(code) {
  const button = made("button", "copy", { type: "button", className: "copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch { // not every browser lets a page from a file write there
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
  });
  code.after(button);
}

// Vega wrote each mark's values into its label.
function values(event) {
  const mark = event.target.closest?.("svg [aria-roledescription][aria-label]:not([aria-roledescription$='container'])");
  const text = mark?.getAttribute("aria-label");
  tip.hidden = !text || /axis|legend/.test(mark.getAttribute("aria-roledescription"));
  if (tip.hidden) return;
  tip.textContent = text.replace(/\d+\.\d{3,}(e[+-]?\d+)?/g, (number) => String(Number(Number(number).toPrecision(4))));
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 260)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - 60)}px`;
}

useScheme(stored());
const tip = made("div", "", { className: "tip", hidden: true });
tip.setAttribute("aria-hidden", "true");
document.querySelector("main").append(tip);
const tools = made("div", "", { className: "tools" });
tools.append(schemeChoice(), filterChoice("data-backend", "backend"), filterChoice("data-level", "level"));
document.querySelector(".banner").after(tools);
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("code.command").forEach(copyable);
document.addEventListener("pointerover", values);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((it) => { it.open = true; }));
