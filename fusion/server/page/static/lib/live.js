// Live: the state of a run, kept up to date by one stream of events.
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { embedded, get } from "./source.js";

const TEXT_AT_MOST = 8000;
const TOOLS_AT_MOST = 200;
const AGAIN_AFTER = 3000;

// Data that is read once, and again every `every` milliseconds while the page is seen and not paused.
export function useData(path, query, { every = 0, paused = false } = {}) {
  const [state, setState] = useState({ data: null, error: null });
  const key = JSON.stringify([path, query]);
  const last = useRef(key);
  useEffect(() => {
    let over = false;
    let timer = null;
    if (last.current !== key) setState({ data: null, error: null });
    last.current = key;
    const read = async () => {
      try {
        const data = await get(path, query);
        if (!over) setState({ data, error: null });
      } catch (error) {
        if (!over) setState((was) => ({ data: was.data, error }));
      }
      if (!over && every && !paused) timer = setTimeout(tick, every);
    };
    const tick = () => (document.hidden ? (timer = setTimeout(tick, every)) : read());
    read();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [key, every, paused]);
  return state;
}

// A run: its data, its live state and answer, and the state of the connection.
export function useRun(id, paused) {
  const [state, setState] = useState({ run: null, error: null, link: "reading" });
  const [turn, setTurn] = useState(0);
  const seen = useRef({ event: 0 });
  useEffect(() => {
    const follower = new Follower(id, seen.current, setState, paused);
    follower.begin();
    return () => follower.end();
  }, [id, paused, turn]);
  return { ...state, reload: () => setTurn((was) => was + 1) };
}

class Follower {
  constructor(id, seen, set, paused) {
    this.id = id;
    this.seen = seen;
    this.set = set;
    this.paused = paused;
    this.over = false;
    this.stream = null;
    this.timer = null;
  }

  async begin() {
    try {
      const run = await get(`/runs/${encodeURIComponent(this.id)}`);
      if (this.over) return;
      if (run.answer && !run.answer.whole) run.answer = { ...run.answer, text: tail(run.answer.text) };
      run.skew = run.state.now - Date.now() / 1000;
      run.events = [];
      this.seen.event = run.event;
      const runs = run.state.status === "running" && !embedded;
      this.set({ run, error: null, link: !runs ? "ended" : this.paused ? "paused" : "live" });
      if (runs && !this.paused) this.follow();
      if (run.state.status === "waiting" && !embedded && !this.paused) this.again();
    } catch (error) {
      if (!this.over) this.set((was) => ({ ...was, error, link: "lost" }));
      if (!this.over && error.status === undefined) this.again();
    }
  }

  follow() {
    const id = encodeURIComponent(this.id);
    this.stream = new EventSource(`/api/runs/${id}/events?after=${this.seen.event}`);
    this.stream.addEventListener("open", () => this.change((run) => run, "live"));
    this.stream.addEventListener("event", (message) => this.event(message));
    this.stream.addEventListener("state", (message) => this.state(JSON.parse(message.data)));
    this.stream.addEventListener("plan", (message) => this.plan(JSON.parse(message.data)));
    this.stream.addEventListener("text", (message) => this.text(JSON.parse(message.data)));
    this.stream.addEventListener("end", () => {
      this.close();
      this.begin();
    });
    this.stream.addEventListener("error", () => {
      this.change((run) => run, "lost");
      if (this.stream && this.stream.readyState === EventSource.CLOSED) this.again();
    });
  }

  event(message) {
    this.seen.event = Number(message.lastEventId) || this.seen.event;
    const event = JSON.parse(message.data);
    if (event.type === "gate_opened" || event.type === "gate_answered") this.gates();
    if (event.type === "noted") this.change((run) => ({ ...run, notes: [...run.notes, event.message] }));
    if (event.type === "command_finished") this.change((run) => ({ ...run, commands: [...run.commands, event].slice(-TOOLS_AT_MOST) }));
    if (event.type === "tool_finished") this.change((run) => ({ ...run, tools: [...run.tools, event].slice(-TOOLS_AT_MOST) }));
  }

  async gates() {
    try {
      const { gates } = await get(`/runs/${encodeURIComponent(this.id)}/gates`);
      this.change((run) => ({ ...run, gates }));
    } catch {
      this.again();
    }
  }

  state(changes) {
    this.change((run) => ({
      ...run,
      skew: changes.now - Date.now() / 1000,
      state: { ...run.state, ...changes, stages: { ...run.state.stages, ...changes.stages } },
    }));
  }

  plan({ titles }) {
    this.change((run) => ({ ...run, plan: titles }));
  }

  text({ text, again }) {
    this.change((run) => {
      const before = again || !run.answer ? "" : run.answer.text;
      return { ...run, answer: { text: tail(before + text), data: null, whole: false } };
    });
  }

  change(change, link) {
    if (this.over) return;
    this.set((was) => (was.run ? { run: change(was.run), error: null, link: link || was.link } : was));
  }

  again() {
    this.close();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.begin(), AGAIN_AFTER);
  }

  close() {
    if (this.stream) this.stream.close();
    this.stream = null;
  }

  end() {
    this.over = true;
    clearTimeout(this.timer);
    this.close();
  }
}

// The end of a text that grows: more than a screen of it, and never more than the page can draw at once.
function tail(text) {
  return text.length > TEXT_AT_MOST ? `…${text.slice(-TEXT_AT_MOST)}` : text;
}

// Seconds since 1970 by the clock of the server, ticking while something runs.
export function useNow(skew, ticking) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    if (!ticking) return undefined;
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, [ticking]);
  return now + (skew || 0);
}
