// Source: the data of the page, from the server or from the file that the page is.

export const embedded = readEmbedded();

function readEmbedded() {
  const element = document.getElementById("embedded");
  return element ? JSON.parse(element.textContent) : null;
}

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function get(path, query = {}) {
  if (embedded) return fromFile(path, query);
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") given.append(name, one);
    }
  }
  const asked = String(given);
  return answer(await fetch(`/api${path}${asked ? `?${asked}` : ""}`, { headers: { accept: "application/json" } }));
}

export async function post(path, body) {
  return answer(
    await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
  );
}

// Send a token once; the server answers with a cookie that no script can read.
export async function login(token) {
  await answer(await fetch("/login", { method: "POST", headers: { authorization: `Bearer ${token}` } }));
}

async function answer(response) {
  const text = await response.text();
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch {
    throw new Refused(`the server sent no JSON (status ${response.status})`, response.status);
  }
  if (!response.ok) {
    const error = data && data.error;
    window.dispatchEvent(new CustomEvent("refused", { detail: response.status }));
    throw new Refused((error && error.message) || `the server answered with status ${response.status}`, response.status);
  }
  return data;
}

// The file holds one run: its data, its items by stage, and its calls.
function fromFile(path, query) {
  const [, , , what, number] = path.split("/");
  if (!what) return embedded.run;
  if (what === "items") {
    const items = embedded.items[query.stage] || [];
    return { total: items.length, items: items.slice(query.offset || 0, (query.offset || 0) + (query.limit || 50)) };
  }
  if (number) {
    const found = embedded.calls[Number(number)];
    if (!found) throw new Refused(`there is no call ${number}`, 404);
    return found;
  }
  const limit = query.limit || 50;
  const found = Object.values(embedded.calls)
    .map((one) => one.call)
    .filter((call) => call.number > (query.after || 0))
    .filter((call) => query.stage === undefined || call.stage === query.stage)
    .filter((call) => query.item === undefined || call.item === query.item);
  return { calls: found.slice(0, limit), next: found.length > limit ? found[limit - 1].number : null };
}
