// App: the frame of the page, and the view that the address names.
import { render } from "./vendor/preact.js";
import { useEffect, useLayoutEffect, useState } from "./vendor/hooks.js";
import { html } from "./lib/html.js";
import { embedded, login } from "./lib/source.js";
import { Problem } from "./lib/parts.js";
import { RunList } from "./views/runs.js";
import { RunPage } from "./views/run.js";
import { CallPage } from "./views/call.js";
import { DiffPage } from "./views/diff.js";
import { MapList, MapPage } from "./views/maps.js";
import { ReportList, ReportPage } from "./views/reports.js";
import { StartPage } from "./views/start.js";

const PLACES = [
  ["runs", "Runs"],
  ["maps", "Maps"],
  ["bench", "Benchmarks"],
  ["new", "New run"],
];

function App() {
  const [place, setPlace] = useState(read());
  const [paused, setPaused] = useState(false);
  const [locked, setLocked] = useState(false);
  useLayoutEffect(() => {
    const moved = () => setPlace(read());
    const refused = (event) => event.detail === 401 && setLocked(true);
    const key = (event) => onKey(event, () => setPaused((was) => !was));
    window.addEventListener("hashchange", moved);
    window.addEventListener("refused", refused);
    window.addEventListener("keydown", key);
    return () => {
      window.removeEventListener("hashchange", moved);
      window.removeEventListener("refused", refused);
      window.removeEventListener("keydown", key);
    };
  }, []);
  useEffect(() => {
    document.title = `${place.title} · Fusion`;
  }, [place.title]);
  if (locked) return html`<${Login} enter=${() => setLocked(false)} />`;
  return html`
    <a class="skip" href="#main" onClick=${toMain}>To the content</a>
    <header class="bar">
      <a class="brand" href=${embedded ? `#${start()}` : "#/runs"}>fusion</a>
      ${!embedded && html`<nav aria-label="Views">
        ${PLACES.map(
          ([name, title]) => html`<a key=${name} href="#/${name}" aria-current=${place.top === name ? "page" : null}>${title}</a>`,
        )}
      </nav>
      <button class="pause" aria-pressed=${paused} onClick=${() => setPaused(!paused)} title="Pause live updates (p)">
        <svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true"><path d=${paused ? "M1 0v10l8-5z" : "M1 0h3v10H1zM6 0h3v10H6z"} /></svg> ${paused ? "Resume updates" : "Pause updates"}
      </button>`}
    </header>
    <main id="main" tabindex="-1"><${View} place=${place} paused=${paused} key=${place.key} /></main>
  `;
}

function View({ place, paused }) {
  const { parts, query } = place;
  switch (parts[0]) {
    case "run":
      return parts[2] === "call"
        ? html`<${CallPage} id=${parts[1]} number=${Number(parts[3])} />`
        : html`<${RunPage} id=${parts[1]} paused=${paused} />`;
    case "diff":
      return html`<${DiffPage} a=${query.get("a") || ""} b=${query.get("b") || ""} />`;
    case "maps":
      return html`<${MapList} paused=${paused} />`;
    case "map":
      return html`<${MapPage} id=${parts[1]} query=${query} paused=${paused} />`;
    case "bench":
      return parts[1] ? html`<${ReportPage} id=${parts[1]} />` : html`<${ReportList} />`;
    case "new":
      return html`<${StartPage} />`;
    default:
      return html`<${RunList} query=${query} paused=${paused} />`;
  }
}

// Put the cursor into a field as it appears; `autofocus` is for fields of the page's own text.
function focus(field) {
  field?.focus();
}

function Login({ enter }) {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try {
      await login(new FormData(event.target).get("token"));
      enter();
    } catch (refusal) {
      setError(refusal.status === 401 ? new Error("This token is not known here.") : refusal);
    }
  };
  return html`<main class="login">
    <form onSubmit=${submit}>
      <h1>fusion</h1>
      <input class="unseen" name="user" autocomplete="username" value="fusion" readonly tabindex="-1" aria-hidden="true" />
      <label>Token of this server<input name="token" type="password" autocomplete="current-password" required ref=${focus} /></label>
      <button class="main">Log in</button>
      <${Problem} error=${error} />
    </form>
  </main>`;
}

// The place that the address names: its parts and its query.
function read() {
  const [path, query = ""] = (location.hash.replace(/^#/, "") || start()).split("?");
  const found = path.split("/").filter(Boolean).map(decoded);
  const parts = embedded && found[0] !== "run" ? start().split("/").filter(Boolean) : found;
  const top = { run: "runs", diff: "runs", map: "maps" }[parts[0]] || parts[0] || "runs";
  const stays = ["run", "map", "runs"].includes(parts[0] || "runs");
  const key = stays ? parts.join("/") : `${parts.join("/")}?${query}`;
  return { parts, query: new URLSearchParams(query), top, key, title: parts[1] || top };
}

function start() {
  return embedded ? `/run/${embedded.run.run.run_id}` : "/runs";
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function toMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function onKey(event, pause) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    event.preventDefault(); // a field of a search would empty itself
    if (typing) event.target.blur();
    else up();
  } else if (event.key === "/" && !typing) {
    const search = document.querySelector("input[type=search]");
    if (search) search.focus();
    else if (!embedded) location.hash = "#/runs";
    event.preventDefault();
  } else if (event.key === "p" && !typing && !embedded) {
    pause();
  }
}

// Go one level up: from a call to its run, from a run to the list.
function up() {
  const { parts } = read();
  if (parts[2] === "call") location.hash = `#/run/${encodeURIComponent(parts[1])}?call=${parts[3]}`;
  else if (parts[0] === "run" && !embedded) location.hash = "#/runs";
  else if (parts[0] === "map") location.hash = "#/maps";
  else if (parts[0] === "bench" && parts[1]) location.hash = "#/bench";
}

render(html`<${App} />`, document.body);
