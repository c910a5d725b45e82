"use strict";
// What all parts of the page use. Text from records is put in as text nodes, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const VERDICTS = {c: "right", w: "wrong", t: "cut off", u: "not graded"};
const PAGE_SIZE = 100;
const byId = id => document.getElementById(id);
const rowsById = new Map(data.rows.map(row => [rowId(row), row]));
const suitesByName = new Map(data.suites.map(suite => [suite.name, suite]));
const suiteOf = row => suitesByName.get(row.suite);

/** An element. `props`: attributes, or a function for `on...`; null and false leave one out. */
function el(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return made;
}

/** A table; columns of plain numbers stand right. */
function table(header, rows, caption) {
  const digits = header.map((_, i) => i > 0 && rows.every(row => /^[\d,.?]+$/.test(row[i])) ? "digits" : null);
  return el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
    el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, header.map((name, i) => el("th", {scope: "col", class: digits[i]}, name)))),
      el("tbody", {}, rows.map(([first, ...cells]) =>
        el("tr", {}, el("th", {scope: "row"}, first), cells.map((cell, i) => el("td", {class: digits[i + 1]}, cell)))))));
}

/** Pairs of a name and what it is; those that are null are left out. */
function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, known.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function labelled(label, control) {
  return el("label", {}, el("span", {}, label), control);
}

function select(options, chosen, onchange) {
  return el("select", {onchange: event => onchange(event.target.value)},
    options.map(([value, text]) => el("option", {value, selected: value === chosen}, text)));
}

/** A details element of which the inside is made when it is first opened. */
function folded(summary, make, open) {
  const made = el("details", {}, el("summary", {}, summary));
  const fill = async () => { if (made.open && !made.dataset.made) { made.dataset.made = "1"; made.append(await make()); } };
  made.addEventListener("toggle", fill);
  made.open = Boolean(open);
  return made;
}

const unpackedBlocks = new Map();
/** What a block of the file holds. The last eight are kept. */
function unpacked(id) {
  if (!unpackedBlocks.has(id)) {
    if (unpackedBlocks.size >= 8) unpackedBlocks.delete(unpackedBlocks.keys().next().value);
    unpackedBlocks.set(id, unpack(byId(id).textContent));
  }
  return unpackedBlocks.get(id);
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function picture(id, description) {
  const svg = await unpacked(id);
  const image = el("img", {alt: description, src: URL.createObjectURL(new Blob([svg], {type: "image/svg+xml"}))});
  const size = svg.match(/<svg[^>]* width="([\d.]+)pt"/);
  if (size) image.style.width = `${Math.round(Number(size[1]) * 4 / 3)}px`;
  return image;
}

// ------------------------------------------------------------------------------------------------ words and numbers

function number(value, kind, signed) {
  if (value === null || value === undefined) return "";
  const text = value.toFixed(kind === "judge" ? 1 : 3).replace(/^-(0\.?0*)$/, "$1");
  return (signed && value >= 0 ? "+" : "") + text;
}

function bounds([, low, high], kind, signed) {
  return low === null || high === null ? "" : ` [${number(low, kind, signed)}, ${number(high, kind, signed)}]`;
}

const whole = value => Math.round(value).toLocaleString("en-US");
const plural = (count, one) => `${whole(count)} ${one}${count === 1 ? "" : "s"}`;
const short = digest => digest ? el("code", {title: digest}, digest.slice(0, 12)) : null;
const kindWord = row => row.kind === "method" ? null : el("i", {class: "kind"}, ` (${row.kind})`);

// ----------------------------------------------------------------------------------------------------------- links

const link = (...parts) => "#" + parts.map(part => encodeURIComponent(part)).join("/");
function rowId(row) { return [row.suite, row.stage, row.name].map(encodeURIComponent).join("/"); }
const rowLink = row => link("row", row.suite, row.stage, row.name);
const runName = run => `${run.label}, ${run.stage}, seed ${run.seed}`;
