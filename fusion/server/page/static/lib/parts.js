// Parts: small pieces that several views show.
import { html } from "./html.js";
import { useState } from "../vendor/hooks.js";
import { brief, clean, count, exact, moment } from "./format.js";

const SIGNS = {
  ok: "✓",
  running: "●",
  open: "●",
  partial: "◐",
  failed: "✕",
  interrupted: "■",
  stopped: "■",
  died: "✝",
  skipped: "–",
  waiting: "○",
  finished: "✓",
  "set aside": "↺",
};
const SHOWN = 20000;
const WORDS = { open: "running", finished: "ok" };

// A status: a sign and a word in a colour of its own.
export function Status({ of, bare = false }) {
  const word = WORDS[of] || of;
  return html`<span class="status s-${word.replace(" ", "-")}">
    <span aria-hidden="true">${SIGNS[of] || "·"}</span>${bare ? html`<span class="unseen">${word}</span>` : ` ${word}`}
  </span>`;
}

export function Time({ at }) {
  return at ? html`<time datetime=${exact(at)} title=${exact(at)}>${moment(at)}</time>` : null;
}

export function Tags({ tags, link = null }) {
  return Object.entries(tags || {}).map(([name, value]) => {
    const text = html`<bdi>${brief(name, 40)}</bdi><span class="dim">=</span><bdi>${brief(value, 40)}</bdi>`;
    return link
      ? html`<a class="tag" key=${name} href=${link(name, value)} title="Only runs with this tag">${text}</a>`
      : html`<span class="tag" key=${name}>${text}</span>`;
  });
}

// A text of a stranger's: never markup, its controls made visible, and a page of it at a time if it is long.
export function Text({ text, label, live = false, empty = "empty", prose = false }) {
  const [at, setAt] = useState(0);
  const whole = text ?? "";
  if (!whole) return html`<p class="dim">${empty}</p>`;
  const begin = at < whole.length ? at : 0;
  const end = Math.min(whole.length, begin + SHOWN);
  return html`<div class="text ${prose ? "prose" : ""}">
    <pre tabindex="0" role="group" aria-label=${label} aria-busy=${live} dir="auto">${clean(whole.slice(begin, end))}</pre>
    ${whole.length > SHOWN &&
    html`<p class="pager">
      <button disabled=${begin === 0} onClick=${() => setAt(begin - SHOWN)}>‹ Previous</button>
      <span>characters ${count(begin + 1)} to ${count(end)} of ${count(whole.length)}</span>
      <button disabled=${end >= whole.length} onClick=${() => setAt(end)}>Next ›</button>
    </p>`}
  </div>`;
}

export function Copy({ text, what }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button class="quiet" onClick=${copy} aria-label="Copy ${what}">${done ? "copied" : "copy"}</button>`;
}

export function Problem({ error }) {
  return error ? html`<p class="problem" role="alert">${clean(error.message)}</p>` : null;
}

export function Panel({ title, note = null, children, id = null, wide = false }) {
  return html`<section class="panel ${wide ? "wide" : ""}" aria-label=${title} id=${id}>
    <h2>${title}${note !== null && html` <span class="note">${note}</span>`}</h2>
    ${children}
  </section>`;
}

// Names and values, those without a value left out.
export function Facts({ of }) {
  const found = of.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return html`<dl class="facts">
    ${found.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

export function Failure({ of }) {
  if (!of) return null;
  return html`<p class="failure"><strong>${clean(of.reason)}</strong> <bdi>${clean(of.message)}</bdi></p>`;
}

// Lines of a unified diff.
export function Diff({ lines, same }) {
  if (lines === null || lines === undefined) return html`<p class="dim">not kept</p>`;
  if (!lines.length) return html`<p class="dim">${same}</p>`;
  const shown = lines.slice(0, 2000);
  return html`<pre class="diff" tabindex="0">${shown.map((line, at) => {
    const kind = { "+": "added", "-": "removed", "@": "place" }[line[0]] || "";
    return html`<span key=${at} class=${kind}>${clean(line.replace(/\n$/, "").slice(0, 2000)) || " "}${"\n"}</span>`;
  })}</pre>${shown.length < lines.length && html`<p class="dim">and ${count(lines.length - shown.length)} more lines</p>`}`;
}

// Arrow keys walk over the elements that match; returns a handler of keys.
export function walking(selector) {
  return (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    if (event.target.matches("input, select, textarea, pre")) return;
    const all = [...event.currentTarget.querySelectorAll(selector)];
    const at = all.indexOf(document.activeElement.closest(selector));
    const next = all[event.key === "ArrowDown" ? at + 1 : Math.max(0, at - 1)];
    if (next) {
      next.focus();
      event.preventDefault();
    }
  };
}
