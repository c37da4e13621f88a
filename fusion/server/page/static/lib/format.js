// Formats: figures, times and texts as people read them.

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

// Text with its control characters made visible, so that none of them acts on the page.
export function clean(text) {
  return String(text ?? "").replace(CONTROLS, (sign) => {
    const code = sign.codePointAt(0);
    if (sign === "\r") return "";
    return `⟨${code.toString(16).toUpperCase().padStart(2, "0")}⟩`;
  });
}

// The first line of a text, at most so many characters of it.
export function brief(text, most = 120) {
  const line = clean(String(text ?? "").slice(0, most * 4)).trim().split("\n", 1)[0];
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}

export function count(number) {
  return Number(number ?? 0).toLocaleString("en-US");
}

export function plural(number, word) {
  return `${count(number)} ${word}${Number(number) === 1 ? "" : "s"}`;
}

export function dollars(usd) {
  const value = Number(usd);
  if (usd === null || usd === undefined || Number.isNaN(value)) return "unknown";
  if (value === 0) return "$0";
  if (Math.abs(value) < 0.0001) return `$${value.toPrecision(1).includes("e") ? value.toFixed(8).replace(/0+$/, "") : value.toPrecision(1)}`;
  const digits = Math.abs(value) < 1 ? 4 : 2;
  return `$${value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

// Dollars and the count of calls whose price is unknown.
export function cost(usd, unknown) {
  if (!unknown) return dollars(usd);
  return Number(usd) ? `${dollars(usd)} + ${count(unknown)} unknown` : "unknown";
}

// An amount of a limit: dollars, tokens or calls.
export function amount(unit, value) {
  return unit === "usd" ? dollars(value) : plural(value, unit.replace(/s$/, ""));
}

export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(Number(value))) return "";
  const time = Math.max(0, Number(value));
  if (time < 0.0995) return `${Math.round(time * 1000)} ms`;
  if (time < 59.95) return `${time.toFixed(1)} s`;
  const whole = Math.round(time);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// A time of a run: the clock today, the date before.
export function moment(value, now = Date.now()) {
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  if (Number.isNaN(date.getTime())) return "";
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (date.toDateString() === new Date(now).toDateString()) return clock;
  const day = `${date.getDate()} ${MONTHS[date.getMonth()]}`;
  return date.getFullYear() === new Date(now).getFullYear() ? `${day} ${clock}` : `${day} ${date.getFullYear()}`;
}

export function exact(value) {
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function two(number) {
  return String(number).padStart(2, "0");
}

// The name of a model without its provider.
export function model(id) {
  return clean(id).split("/").pop();
}

export function percent(part, whole) {
  return whole > 0 ? Math.max(0, Math.min(100, (100 * part) / whole)) : 0;
}
