// Waterfall: stages over time, with their items and calls opened on demand, a page of them at a time.
import { html, unchanging } from "../lib/html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { brief, clean, cost, count, dollars, model, plural, seconds } from "../lib/format.js";
import { figures, whole } from "./graph.js";
import { get } from "../lib/source.js";
import { Problem, Status } from "../lib/parts.js";

const PAGE = 50;
const AGAIN = 1500;

export function Waterfall({ id, state, now, opened, open }) {
  const running = state.status === "running";
  const end = running ? now : state.ended || now;
  const span = rounded(Math.max(0.001, end - state.began), running);
  const scale = useMemo(() => ({ begin: state.began, span, running }), [state.began, span, running]);
  const paths = ordered(Object.keys(state.stages));
  return html`<div class="waterfall" onKeyDown=${walked}>
    <div class="wf-row wf-axis" aria-hidden="true"><span class="wf-label"></span><span class="wf-bar axis"><${Axis} span=${scale.span} /></span><span class="wf-figures"></span></div>
    ${paths.map((path) => html`<${Stage} key=${path} id=${id} path=${path} stage=${whole(path, state.stages)} scale=${scale} now=${end} isOpen=${opened.has(path)} open=${open} />`)}
  </div>`;
}

// The span of the axis: while a run goes on it grows in steps, so that the bars before do not move all the time.
function rounded(span, running) {
  return running ? 1.1 ** Math.ceil(Math.log(span) / Math.log(1.1)) : span;
}

function Stage({ id, path, stage, scale, now, isOpen, open }) {
  const depth = path.split("/").length - 1;
  const name = path.split("/").pop();
  const canOpen = stage.calls + stage.flying > 0;
  const facts = [figures(stage), stage.failed ? `${count(stage.failed)} failed` : "", stage.flying ? `${count(stage.flying)} in flight` : "", stage.reused ? `${count(stage.reused)} reused` : ""];
  return html`<div class="wf-stage" id="stage-${path.replace(/[^\w-]/g, "-")}">
    <button class="wf-row" data-row="stage" aria-expanded=${canOpen ? isOpen : null} disabled=${!canOpen} onClick=${() => open(path)} aria-label=${`${path}, ${stage.kind}, ${stage.status === "open" ? "running" : stage.status}, ${facts.filter(Boolean).join(", ")}`}>
      <span class="wf-label" style=${{ paddingInlineStart: `${depth * 14}px` }}><span class="turn" aria-hidden="true">${canOpen ? (isOpen ? "▾" : "▸") : ""}</span><${Status} of=${stage.status} bare=${true} /> <strong>${clean(name)}</strong> <span class="dim">${stage.kind}</span></span>
      <span class="wf-bar"><${Bar} from=${stage.began} to=${stage.ended || now} kind=${stage.status} scale=${scale} part=${stage.known ? stage.done / stage.known : null} /></span>
      <span class="wf-figures">
        <span class="wide-only dim">${facts.filter(Boolean).join(" · ")}</span>
        <span>${Number(stage.usd) || stage.unknown_calls ? cost(stage.usd, stage.unknown_calls) : ""}</span>
        <span>${seconds(stage.began ? (stage.ended || now) - stage.began : null)}</span>
      </span>
    </button>
    ${stage.failure && html`<p class="wf-why"><bdi>${brief(`${stage.failure.reason}: ${stage.failure.message}`, 240)}</bdi></p>`}
    ${stage.decision && html`<p class="wf-why dim">chose <bdi>${brief(stage.decision, 80)}</bdi></p>`}
    ${isOpen && html`<${Inside} id=${id} path=${path} stage=${stage} scale=${scale} now=${now} />`}
  </div>`;
}

// What is inside of a stage: its items, or its calls if it has no items.
function Inside({ id, path, stage, scale, now }) {
  const [at, setAt] = useState(0);
  const version = `${stage.calls} ${stage.failed} ${stage.status}`;
  const items = usePaged(id, "items", { stage: path, offset: at, limit: PAGE }, version, scale.running);
  if (items.error) return html`<${Problem} error=${items.error} />`;
  if (!items.data) return html`<p class="wf-note dim">reading…</p>`;
  if (!items.data.total) return html`<${Calls} id=${id} query=${{ stage: path }} version=${version} scale=${scale} depth=${1} />`;
  return html`<div class="wf-inside" role="group" aria-label="Items of ${path}">
    ${items.data.items.map((item) => html`<${Item} key=${item.index} id=${id} path=${path} item=${item} scale=${scale} now=${item.open ? now : null} />`)}
    <${Pager} at=${at} total=${items.data.total} set=${setAt} what="items" />
  </div>`;
}

// An item is drawn again only when it, the scale, or the time of an open one has changed.
const Item = unchanging(({ id, path, item, scale, now }) => {
  const [isOpen, setOpen] = useState(false);
  const status = item.open ? "open" : item.failure || (item.calls > 0 && item.refused === item.calls) ? "failed" : "ok";
  const title = brief(item.title || item.value || "", 60);
  return html`<div>
    <button class="wf-row wf-item" data-row="item" aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}>
      <span class="wf-label"><span class="turn" aria-hidden="true">${isOpen ? "▾" : "▸"}</span><${Status} of=${status} bare=${true} /> <span class="number">${count(item.index + 1)}</span> <bdi>${title}</bdi></span>
      <span class="wf-bar"><${Bar} from=${item.began || item.open} to=${item.open ? now : item.ended} kind=${status} scale=${scale} /></span>
      <span class="wf-figures"><span class="wide-only dim">${plural(item.calls, "call")}${item.refused ? `, ${count(item.refused)} failed` : ""}${item.reused ? `, ${count(item.reused)} reused` : ""}</span><span>${item.usd === null ? "" : dollars(item.usd)}</span><span>${seconds(item.began && item.ended ? item.ended - item.began : null)}</span></span>
    </button>
    ${item.failure && html`<p class="wf-why"><bdi>${brief(`${item.failure.reason}: ${item.failure.message}`, 240)}</bdi></p>`}
    ${isOpen && html`${item.value && html`<p class="wf-value"><bdi>${brief(item.value, 280)}</bdi></p>`}<${Calls} id=${id} query=${{ stage: path, item: item.index }} version=${`${item.calls} ${item.refused}`} scale=${scale} depth=${2} />`}
  </div>`;
});

function Calls({ id, query, version, scale, depth }) {
  const [pages, setPages] = useState([0]);
  const after = pages[pages.length - 1];
  const { data, error } = usePaged(id, "calls", { ...query, after, limit: PAGE }, version, scale.running);
  if (error) return html`<${Problem} error=${error} />`;
  if (!data) return html`<p class="wf-note dim">reading…</p>`;
  if (!data.calls.length) return html`<p class="wf-note dim">no call has ended yet</p>`;
  return html`<div class="wf-inside" role="group" aria-label="Calls">
    ${data.calls.map((call) => html`<${Call} key=${call.number} id=${id} call=${call} scale=${scale} depth=${depth} />`)}
    ${(data.next || pages.length > 1) && html`<p class="pager">
      <button disabled=${pages.length < 2} onClick=${() => setPages(pages.slice(0, -1))}>Earlier calls</button>
      <button disabled=${!data.next} onClick=${() => setPages([...pages, data.next])}>Later calls</button>
    </p>`}
  </div>`;
}

function Call({ id, call, scale, depth }) {
  const begin = Date.parse(call.started) / 1000;
  const sent = call.latency !== null && call.reused === null ? begin + Math.max(0, call.seconds - call.latency) : null;
  const state = call.reused !== null ? "reused" : call.state;
  const about = call.failure ? brief(call.failure.reason, 60) : model(call.by || call.asked);
  return html`<a class="wf-row wf-call" data-row="call" href="#/run/${encodeURIComponent(id)}/call/${call.number}">
    <span class="wf-label" style=${{ paddingInlineStart: `${depth * 14 + 16}px` }}><${Status} of=${call.state} bare=${true} /> <span class="number">#${call.number}</span> <bdi>${brief(call.step, 30)}</bdi> <span class="dim">${about}</span></span>
    <span class="wf-bar">${call.reused === null && html`<${Bar} from=${begin} to=${begin + call.seconds} sent=${sent} kind=${state} scale=${scale} thin=${true} />`}</span>
    <span class="wf-figures"><span class="wide-only dim">${call.reused !== null ? "reused" : call.usage ? plural(call.usage.input + call.usage.output, "token") : ""}</span><span>${call.cost === null ? "" : dollars(call.cost)}</span><span>${call.reused === null ? seconds(call.seconds) : ""}</span></span>
  </a>`;
}

// A bar from one time to another.
function Bar({ from, to, kind, scale, sent = null, part = null, thin = false }) {
  if (!from || !to) return null;
  const x = (time) => Math.max(0, Math.min(100, (100 * (time - scale.begin)) / scale.span));
  const left = x(from);
  const right = x(to);
  const width = Math.max(0.4, right - left);
  const begin = Math.min(left, 99.6);
  const y = thin ? 6 : 3;
  const height = thin ? 6 : 12;
  return html`<svg class="b-${kind.replace(" ", "-")}" width="100%" height="18" aria-hidden="true" preserveAspectRatio="none">
    <rect class="bar-rest" x="${begin}%" y=${y} width="${Math.min(width, 100 - begin)}%" height=${height} rx="2" />
    ${sent !== null && x(sent) > left && html`<rect class="bar-wait" x="${begin}%" y=${y} width="${x(sent) - left}%" height=${height} rx="2" />`}
    ${part !== null && part < 1 && html`<rect class="bar-done" x="${begin}%" y=${y} width="${width * part}%" height=${height} rx="2" />`}
  </svg>`;
}

function Axis({ span }) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400, 604800].find((one) => span / one <= 5) || span / 4;
  const marks = [];
  for (let at = 0; at <= span && marks.length < 7; at += step) marks.push(at);
  return html`<svg width="100%" height="16">${marks.map((at) => html`<g key=${at}><line x1="${(100 * at) / span}%" x2="${(100 * at) / span}%" y1="11" y2="16" /><text x="${(100 * at) / span}%" y="10" text-anchor=${at === 0 ? "start" : (100 * at) / span > 95 ? "end" : "middle"}>${at ? seconds(at).replace(".0 s", " s").replace(" min 0 s", " min") : "0"}</text></g>`)}</svg>`;
}

function Pager({ at, total, set, what }) {
  if (total <= PAGE) return null;
  return html`<p class="pager">
    <button disabled=${at === 0} onClick=${() => set(Math.max(0, at - PAGE))}>‹ Previous</button>
    <span>${what} ${count(at + 1)} to ${count(Math.min(total, at + PAGE))} of ${count(total)}</span>
    <button disabled=${at + PAGE >= total} onClick=${() => set(at + PAGE)}>Next ›</button>
  </p>`;
}

// A page of items or calls, read again when the run has gone on, and not too often.
function usePaged(id, what, query, version, running) {
  const [state, setState] = useState({ data: null, error: null });
  const key = JSON.stringify([id, what, query]);
  const last = useRef(0);
  useEffect(() => {
    let over = false;
    const wait = running ? Math.max(0, last.current + AGAIN - Date.now()) : 0;
    const timer = setTimeout(async () => {
      last.current = Date.now();
      try {
        const data = await get(`/runs/${encodeURIComponent(id)}/${what}`, query);
        if (!over) setState((was) => ({ data: kept(was.data, data), error: null }));
      } catch (error) {
        if (!over) setState((was) => ({ data: was.data, error }));
      }
    }, wait);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [key, version]);
  return state;
}

// The new page, with the items of the page before that have not changed.
function kept(before, page) {
  if (!before || !before.items || !page.items) return page;
  const known = new Map(before.items.map((item) => [item.index, item]));
  const same = (item) => (JSON.stringify(known.get(item.index)) === JSON.stringify(item) ? known.get(item.index) : item);
  return { ...page, items: page.items.map(same) };
}

function ordered(paths) {
  const top = paths.filter((path) => !path.includes("/"));
  return top.flatMap((one) => [one, ...paths.filter((path) => path.startsWith(`${one}/`))]).concat(paths.filter((path) => path.includes("/") && !top.includes(path.split("/")[0])));
}

// Arrow keys: up and down over rows, right opens one, left closes it.
function walked(event) {
  const row = event.target.closest("[data-row]");
  if (!row) return;
  const all = [...event.currentTarget.querySelectorAll("[data-row]:not([disabled])")];
  const at = all.indexOf(row);
  const moves = { ArrowDown: all[at + 1], ArrowUp: all[at - 1], Home: all[0], End: all[all.length - 1] };
  if (event.key in moves) {
    if (moves[event.key]) moves[event.key].focus();
    event.preventDefault();
  } else if (event.key === "ArrowRight" && row.getAttribute("aria-expanded") === "false") {
    row.click();
    event.preventDefault();
  } else if (event.key === "ArrowLeft" && row.getAttribute("aria-expanded") === "true") {
    row.click();
    event.preventDefault();
  }
}
