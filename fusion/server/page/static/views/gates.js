// Gates: the questions of a run to people, with a form for each open one.
import { html } from "../lib/html.js";
import { useState } from "../vendor/hooks.js";
import { brief, clean } from "../lib/format.js";
import { embedded, post } from "../lib/source.js";
import { Panel, Problem, Status, Text, Time } from "../lib/parts.js";

const SOON = 400;
const NAME = "fusion-name";
const VERBS = { approved: "approved", edited: "edited and approved", answered: "answered", rejected: "rejected" };

export function Gates({ run, reload }) {
  const gates = run.gates || [];
  if (!gates.length) return null;
  const over = !["waiting", "running", "died", "interrupted", "failed"].includes(run.state.status);
  const open = gates.filter((one) => !one.answer && !over);
  const done = gates.filter((one) => one.answer);
  return html`
    ${open.map((one) => html`<${Open} key=${one.gate.place} id=${run.run.run_id} gate=${one.gate} reload=${reload} />`)}
    ${done.length > 0 && html`<${Panel} title="Answers of people">
      <ul class="plain">${done.map((one) => html`<li key=${one.gate.place}><${Answered} one=${one} /></li>`)}</ul>
    <//>`}
  `;
}

function Answered({ one }) {
  const { gate, answer } = one;
  const who = answer.via === "timeout" ? "at its deadline" : html`by <bdi>${brief(answer.by, 100)}</bdi>`;
  return html`<${Status} of=${answer.answer === "rejected" ? "failed" : "ok"} bare=${true} />${" "}
    <code>${clean(gate.place)}</code> ${VERBS[answer.answer] || clean(answer.answer)} ${who}, <${Time} at=${answer.at} />
    ${answer.text ? html`: <bdi>${brief(answer.text, 300)}</bdi>` : answer.data !== null && html`: <code>${brief(JSON.stringify(answer.data), 300)}</code>`}`;
}

function Open({ id, gate, reload }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const [sent, setSent] = useState("");
  const send = async (answer) => {
    setBusy(true);
    setError(null);
    try {
      await post(`/api/runs/${encodeURIComponent(id)}/gates`, { ...answer, gate: gate.place, via: "page" });
      setSent(answer.yes ? "Answered: the run goes on." : "Rejected.");
      setTimeout(reload, SOON);
    } catch (refusal) {
      setError(refusal);
      setBusy(false);
      if (refusal.status === 409) setTimeout(reload, SOON);
    }
  };
  const title = gate.title || { approve: "Approve this?", edit: "Approve or edit this?", data: "Fill this in" }[gate.ask];
  return html`<section class="panel wide gate" aria-label="Waiting for a person: ${clean(title)}">
    <h2><bdi>${brief(title, 200)}</bdi> <span class="note"><code>${clean(gate.place)}</code>${gate.who && html` for <bdi>${brief(gate.who, 100)}</bdi>`}</span></h2>
    <p class="dim">asked <${Time} at=${gate.since} />${gate.deadline && html`, until <${Time} at=${gate.deadline} />: then <bdi>${brief(typeof gate.default === "string" ? gate.default : JSON.stringify(gate.default), 200)}</bdi>`}</p>
    ${gate.ask !== "edit" && html`<${Text} text=${gate.text} label="Text to be approved" prose=${!gate.is_data} />`}
    ${!embedded && html`<${Form} gate=${gate} busy=${busy} send=${send} />`}
    <p role="status">${sent}</p>
    <${Problem} error=${error} />
  </section>`;
}

function Form({ gate, busy, send }) {
  const [text, setText] = useState(gate.text);
  const [values, setValues] = useState({});
  const [reason, setReason] = useState("");
  const [by, setBy] = useState(() => remembered());
  const [amiss, setAmiss] = useState(null);
  const approve = (event) => {
    event.preventDefault();
    remember(by);
    const answer = { yes: true, by };
    try {
      if (gate.ask === "edit" && text !== gate.text) answer.text = text;
      if (gate.ask === "data") answer.data = dataOf(gate.json_schema, values);
      setAmiss(null);
    } catch (error) {
      setAmiss(error);
      return;
    }
    send(answer);
  };
  const reject = () => {
    remember(by);
    send({ yes: false, by, ...(reason.trim() ? { text: reason } : {}) });
  };
  const changed = gate.ask === "edit" && text !== gate.text;
  return html`<form onSubmit=${approve} aria-label="Answer to ${clean(gate.place)}">
    ${gate.ask === "edit" && html`<label>Text, to be approved as it is here<textarea dir="auto" value=${text} onInput=${(event) => setText(event.target.value)} rows=${Math.min(20, Math.max(5, text.split("\n").length + 1))}></textarea></label>`}
    ${gate.ask === "data" && html`<${Fields} schema=${gate.json_schema} values=${values} set=${(name, value) => setValues((was) => ({ ...was, [name]: value }))} />`}
    <label>Your name, for the record<input value=${by} maxlength="100" autocomplete="name" onInput=${(event) => setBy(event.target.value)} /></label>
    <label>Reason, if you reject<input dir="auto" value=${reason} onInput=${(event) => setReason(event.target.value)} /></label>
    <div class="choices">
      <button class="main" disabled=${busy}>${gate.ask === "data" ? "Send" : changed ? "Approve the edited text" : "Approve"}</button>
      <button type="button" disabled=${busy} onClick=${reject}>Reject</button>
    </div>
    <${Problem} error=${amiss} />
  </form>`;
}

// The properties of a plain object, one field each; any other schema is one field of JSON.
function Fields({ schema, values, set }) {
  const properties = propertiesOf(schema);
  if (!properties) return html`<label>Answer as JSON<textarea value=${values[""] || ""} onInput=${(event) => set("", event.target.value)} required></textarea></label>`;
  const required = new Set(schema.required || []);
  return html`<fieldset class="fields"><legend class="unseen">Answer</legend>${Object.entries(properties).map(
    ([name, one]) => html`<label key=${name}><span>${clean(name)}${one.description ? html` <bdi>${brief(one.description, 120)}</bdi>` : ""}${required.has(name) && !nullable(one) ? "" : " (may be empty)"}</span><${Field} of=${one} value=${values[name] ?? ""} set=${(value) => set(name, value)} required=${required.has(name) && !nullable(one)} /></label>`,
  )}</fieldset>`;
}

function Field({ of, value, set, required }) {
  const kind = kindOf(of);
  const change = (event) => set(event.target.value);
  const choices = of.enum || (kind === "boolean" ? [true, false] : null);
  if (choices) {
    return html`<select value=${value} onChange=${change} required=${required}><option value="">choose</option>${choices.filter((one) => one !== null).map((one) => html`<option key=${String(one)} value=${JSON.stringify(one)}>${brief(String(one), 100)}</option>`)}</select>`;
  }
  if (kind === "integer" || kind === "number") return html`<input type="number" step=${kind === "integer" ? 1 : "any"} value=${value} onInput=${change} required=${required} />`;
  if (kind === "string") return html`<input dir="auto" value=${value} onInput=${change} required=${required} />`;
  return html`<textarea value=${value} onInput=${change} required=${required} placeholder="JSON"></textarea>`;
}

function propertiesOf(schema) {
  return schema && schema.type === "object" && schema.properties && Object.keys(schema.properties).length ? schema.properties : null;
}

function kindOf(schema) {
  const kinds = [].concat(schema.type || []).filter((one) => one !== "null");
  return kinds.length === 1 ? kinds[0] : "json";
}

function nullable(schema) {
  return [].concat(schema.type || []).includes("null") || (schema.enum || []).includes(null);
}

function dataOf(schema, values) {
  const properties = propertiesOf(schema);
  if (!properties) return parsed("the answer", values[""] || "");
  const data = {};
  const required = new Set(schema.required || []);
  for (const [name, one] of Object.entries(properties)) {
    const given = values[name] ?? "";
    if (given !== "") data[name] = kindOf(one) === "string" && !one.enum ? given : parsed(name, given);
    else if (required.has(name)) data[name] = nullable(one) ? null : "";
  }
  return data;
}

function parsed(name, text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${name} is not JSON`);
  }
}

function remembered() {
  try {
    return localStorage.getItem(NAME) || "";
  } catch {
    return "";
  }
}

function remember(name) {
  try {
    localStorage.setItem(NAME, name);
  } catch {
    // a browser that keeps nothing asks for the name again
  }
}
