// Graph: the stages of a run in layers, with their live states, as SVG.
import { html, unchanging } from "../lib/html.js";
import { useEffect, useState } from "../vendor/hooks.js";
import { brief, count, percent } from "../lib/format.js";

const WIDE = { width: 156, height: 50, across: 212, along: 66 };
const NARROW = { width: 148, height: 50, across: 164, along: 84 };
const SIGNS = { ok: "✓", open: "●", failed: "✕", skipped: "–", stopped: "■", waiting: "○" };

export function Graph({ graph, stages, choose }) {
  const narrow = useNarrow();
  const size = narrow ? NARROW : WIDE;
  const rows = graph.nodes.map((node) => node.y);
  for (const edge of graph.edges) for (const [, y] of edge.points) rows.push(y);
  const top = Math.min(...rows, 0);
  const place = ([x, y]) => (narrow ? [(y - top) * size.across, x * size.along] : [x * size.across, (y - top) * size.along]);
  const ends = graph.nodes.map((node) => place([node.x, node.y])).concat(graph.edges.flatMap((edge) => edge.points.map(place)));
  const width = Math.max(...ends.map(([x]) => x)) + size.width;
  const height = Math.max(...ends.map(([, y]) => y)) + size.height;
  return html`<div class="graph">
    <svg viewBox="-2 -2 ${width + 4} ${height + 4}" width=${width + 4} height=${height + 4} role="group" aria-label="Graph of stages">
      ${graph.edges.map((edge) => html`<${Edge} key="${edge.from} ${edge.to}" edge=${edge} place=${place} size=${size} narrow=${narrow} on=${isOn(stages[edge.from])} />`)}
      ${graph.nodes.map((node) => html`<${Node} key=${node.name} node=${node} x=${place([node.x, node.y])[0]} y=${place([node.x, node.y])[1]} size=${size} state=${whole(node.name, stages)} choose=${choose} />`)}
    </svg>
  </div>`;
}

// A stage is drawn again only when its state has changed.
const Node = unchanging(({ node, x, y, size, state, choose }) => {
  const part = percent(state.done, state.known);
  const words = figures(state);
  const label = [node.name, node.kind, state.status === "open" ? "running" : state.status, words, node.output && "output"].filter(Boolean).join(", ");
  const pick = (event) => {
    if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(node.name);
  };
  return html`<g class="node n-${state.status}" transform="translate(${x} ${y})" role="button" tabindex="0" aria-label=${label} onClick=${pick} onKeyDown=${pick}>
    <rect class="box" width=${size.width} height=${size.height} rx="7" />
    ${node.output && html`<path class="out" d="M${size.width - 4} 12v${size.height - 24}" />`}
    <text class="sign" x="12" y="20">${SIGNS[state.status] || "○"}</text>
    <text class="name" x="28" y="20">${brief(node.name, 16)}</text>
    <text class="kind" x="12" y="37">${brief(node.kind, 11)}</text>
    <text class="figure" x=${size.width - 11} y="37" text-anchor="end">${words}</text>
    ${state.known > 0 && html`<rect class="track" x="1" y=${size.height - 4} width=${size.width - 2} height="3" /><rect class="done" x="1" y=${size.height - 4} width=${((size.width - 2) * part) / 100} height="3" />`}
  </g>`;
});

function Edge({ edge, place, size, narrow, on }) {
  const points = edge.points.map(place);
  let [x, y] = points[0];
  let path = narrow ? `M${x + size.width / 2} ${y + size.height}` : `M${x + size.width} ${y + size.height / 2}`;
  points.slice(1).forEach(([toX, toY], at) => {
    const from = narrow ? [x + size.width / 2, y + size.height] : [x + size.width, y + size.height / 2];
    const to = narrow ? [toX + size.width / 2, toY] : [toX, toY + size.height / 2];
    const bend = narrow ? (to[1] - from[1]) / 2 : (to[0] - from[0]) / 2;
    path += narrow ? `C${from[0]} ${from[1] + bend} ${to[0]} ${to[1] - bend} ${to[0]} ${to[1]}` : `C${from[0] + bend} ${from[1]} ${to[0] - bend} ${to[1]} ${to[0]} ${to[1]}`;
    [x, y] = [toX, toY];
    if (at < points.length - 2) path += narrow ? `L${x + size.width / 2} ${y + size.height}` : `L${x + size.width} ${y + size.height / 2}`;
  });
  return html`<path class="edge ${edge.flows ? "flows" : ""} ${on ? "on" : ""}" d=${path}><title>${edge.from} to ${edge.to}${edge.flows ? ", item by item" : ""}</title></path>`;
}

// The state of a stage with the calls of its inner stages.
export function whole(name, stages) {
  const own = stages[name] || { status: "waiting", known: null, done: 0, failed: 0, calls: 0, flying: 0, usd: "0" };
  const inner = Object.entries(stages).filter(([path]) => path.startsWith(`${name}/`));
  if (!inner.length) return own;
  const sum = (field) => inner.reduce((total, [, stage]) => total + Number(stage[field] || 0), Number(own[field] || 0));
  return { ...own, calls: sum("calls"), flying: sum("flying"), refused: sum("refused"), usd: String(sum("usd")), tokens: sum("tokens"), unknown_calls: sum("unknown_calls") };
}

// Items of a stage in few words: `12 of 40`, `3 of 4+` while more may come, `round 2 of 4`.
export function figures(state) {
  if (state.round) return `round ${count(state.round[0])} of ${count(state.round[1])}`;
  if (state.kind === "plan") return state.known ? `${count(state.known)}${state.final ? "" : "+"} subtask${state.known === 1 ? "" : "s"}` : "";
  if (state.known && state.done < state.known) return `${count(state.done)} of ${count(state.known)}${state.final ? "" : "+"}`;
  if (state.done > 1) return `${count(state.done)} items`;
  if (state.calls > 1) return `${count(state.calls)} calls`;
  return "";
}

function isOn(state) {
  return state && state.status !== "waiting";
}

function useNarrow() {
  const [query] = useState(() => window.matchMedia("(max-width: 640px)"));
  const [narrow, setNarrow] = useState(query.matches);
  useEffect(() => {
    const changed = () => setNarrow(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, [query]);
  return narrow;
}
