"use strict";

const at = (id) => document.getElementById(id);
const scheme = location.protocol === "https:" ? "wss:" : "ws:";

/** The name of this tab in the paths of its sockets, by which it finds its own tunnels. */
const tab = `tab-${Math.floor(Math.random() * 1e9).toString(36)}`;

function element(kind, className, text) {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

// What happened

/** One line, newest first. Returns the part of it that can change. */
function note(text) {
  const line = document.createElement("li");
  const words = element("span", "", text);
  line.append(element("time", "", new Date().toTimeString().slice(0, 8)), words);
  at("events").prepend(line);
  while (at("events").children.length > 100) at("events").lastChild.remove();
  return words;
}

/** How a socket was closed. */
function closing(code, reason) {
  if (code === 1006) return "1006 (the connection broke, without a Close frame)";
  return reason ? `${code} “${reason}”` : String(code);
}

// The sockets of this tab

/** Shows which backend serves a socket. */
function via(name, backend) {
  const label = at(`${name}-via`);
  const before = label.dataset.backend;
  label.className = `chip b${backend}`;
  label.textContent = `by backend ${backend}`;
  label.dataset.backend = backend;
  note(before ? `${name}: open again, by backend ${backend}` : `${name}: open, by backend ${backend}`);
}

/** A socket that comes back by itself, each time a little later and never all at once. */
function connect(name, onMessage, onClose = () => {}) {
  let wait = 100;
  const holder = { since: null, send: () => false };
  const open = () => {
    const socket = new WebSocket(`${scheme}//${location.host}/${name}/${tab}`);
    socket.onopen = () => {
      wait = 100;
      holder.since = Date.now();
      holder.send = (text) => socket.readyState === WebSocket.OPEN && (socket.send(text), true);
    };
    socket.onmessage = (event) => onMessage(JSON.parse(event.data));
    socket.onclose = (event) => {
      const label = at(`${name}-via`);
      label.className = "chip";
      label.textContent = "reconnecting …";
      // Attempts that fail are not worth a line.
      if (holder.since) {
        note(`${name}: closed with ${closing(event.code, event.reason)}`);
        onClose(event);
      }
      holder.since = null;
      holder.send = () => false;
      setTimeout(open, wait * (0.5 + Math.random()));
      wait = Math.min(wait * 2, 3000);
    };
  };
  open();
  return holder;
}

// Echo

const times = [];
const echo = connect("echo", (message) => {
  if (message.backend) return via("echo", message.backend);
  times.push(performance.now() - message.sent);
  if (times.length > 60) times.shift();
  const sorted = [...times].sort((a, b) => a - b);
  at("last").textContent = times.at(-1).toFixed(1);
  at("median").textContent = sorted[Math.floor(sorted.length / 2)].toFixed(1);
  const most = Math.max(1, sorted.at(-1));
  const points = times.map((time, index) => `${index * 4},${46 - (time / most) * 44}`);
  at("spark").firstElementChild.setAttribute("points", points.join(" "));
}, (event) => { at("closed").textContent = closing(event.code, event.reason); });
setInterval(() => {
  echo.send(JSON.stringify({ sent: performance.now() }));
  at("age").textContent = echo.since ? `${Math.floor((Date.now() - echo.since) / 1000)} s` : "–";
}, 250);

// Chat

at("name").value = `guest ${Math.floor(Math.random() * 900 + 100)}`;
const chat = connect("chat", (message) => {
  if (!message.text) return via("chat", message.backend);
  const line = document.createElement("li");
  const who = element("b", `b${message.backend}`, message.name);
  who.title = `through backend ${message.backend}`;
  line.append(who, ` ${message.text}`);
  at("lines").append(line);
  while (at("lines").children.length > 200) at("lines").firstChild.remove();
  at("lines").scrollTop = at("lines").scrollHeight;
});
at("say").onsubmit = (event) => {
  event.preventDefault();
  if (chat.send(JSON.stringify({ name: at("name").value, text: at("text").value }))) at("text").value = "";
};

// Controls

const own = { "x-tidegate-demo": "1" };

/** Asks for something; returns the result, or notes what went wrong. */
async function ask(what, path) {
  try {
    const answer = await fetch(`control/${path}`, { method: "POST", headers: own });
    const result = await answer.json();
    if (answer.ok) return result;
    note(`${what}: ${result.error}`);
  } catch (error) {
    note(`${what}: ${error.message}`);
  }
  return null;
}

/** Runs a control with its button off meanwhile, which keeps the focus. */
async function press(button, action) {
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  await action();
  button.ariaDisabled = "false";
}

const openSockets = () => [echo, chat].filter((socket) => socket.since).length;

at("reload").onclick = () => press(at("reload"), async () => {
  const before = [echo.since, chat.since];
  const result = await ask("reload", "reload");
  if (!result) return;
  const stayed = openSockets() === 2 && before[0] === echo.since && before[1] === chat.since;
  note(`reload: configuration ${result.configuration} with ${result.balance}${stayed ? "; the sockets of this tab stayed open" : ""}`);
});

at("upgrade").onclick = () => press(at("upgrade"), async () => {
  note("upgrade: a new process starts …");
  const result = await ask("upgrade", "upgrade");
  if (result) note(`upgrade: generation ${result.generation} (process ${result.pid}) has taken over`);
});

// The backends and their tunnels

const rows = new Map();
let fetched = 0;

function button(action, number) {
  const made = element("button", "", "");
  made.type = "button";
  made.onclick = () => press(made, async () => {
    const { action } = made.dataset;
    if (await ask(`backend ${number}`, `backends/${number}/${action}`)) note(`backend ${number}: ${action}`);
    await refresh();
  });
  set(made, action, number);
  return made;
}

function set(button, action, number) {
  if (button.dataset.action === action) return;
  button.dataset.action = action;
  button.textContent = action[0].toUpperCase() + action.slice(1);
  button.setAttribute("aria-label", `${button.textContent} backend ${number}`);
}

function row({ number, address }) {
  if (rows.has(number)) return rows.get(number);
  const line = document.createElement("li");
  line.id = `backend-${number}`;
  const head = document.createElement("div");
  const text = element("small", "", "");
  const name = element("strong", `b${number}`, `Backend ${number}`);
  name.title = address;
  head.append(name, text);
  const dots = element("div", `dots b${number}`, "");
  dots.setAttribute("role", "img");
  const buttons = element("div", "buttons", "");
  const drain = button("drain", number);
  const stop = button("stop", number);
  buttons.append(drain, stop);
  line.append(head, dots, buttons);
  at("fleet").append(line);
  const made = { line, text, dots, drain, stop, shown: new Map(), count: 0, at: 0, rate: 0 };
  rows.set(number, made);
  return made;
}

/** The rate of messages over about the last two seconds. */
function rate(row, messages) {
  const now = performance.now();
  if (now - row.at >= 2000) {
    row.rate = row.at ? Math.round((messages - row.count) * 1000 / (now - row.at)) : 0;
    row.count = messages;
    row.at = now;
  }
  return row.rate;
}

/** One dot for each tunnel; those that stay keep their place. */
function showDots(row, tunnels, newest) {
  const present = new Set();
  for (const { client, kind, generation } of tunnels) {
    const key = `${kind}/${client}/${generation}`;
    present.add(key);
    const dot = row.shown.get(key) ?? row.dots.appendChild(document.createElement("i"));
    row.shown.set(key, dot);
    dot.className = `dot${client === tab ? " own" : ""}${generation < newest ? " old" : ""}`;
    dot.title = client === tab ? `${kind} of this tab` : client || kind;
  }
  for (const [key, dot] of row.shown) {
    if (present.has(key)) continue;
    dot.remove();
    row.shown.delete(key);
  }
}

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

function showBackend(backend, tunnels, newest) {
  const shown = row(backend);
  const own = tunnels.filter((tunnel) => tunnel.backend === backend.number);
  showDots(shown, own, newest);
  const state = !backend.running ? "stopped" : backend.state ?? "unknown";
  const perSecond = rate(shown, backend.messages);
  shown.line.className = state === "up" ? "" : "away";
  shown.line.dataset.state = state;
  shown.line.dataset.tunnels = own.length;
  shown.text.textContent = state === "up"
    ? `${count(own.length, "tunnel")} · ${perSecond} messages/s`
    : `${state} · ${count(own.length, "tunnel")}`;
  shown.text.title = backend.why ?? "";
  shown.dots.setAttribute("aria-label", count(own.length, "tunnel"));
  set(shown.drain, backend.state === "drained" ? "undrain" : "drain", backend.number);
  set(shown.stop, backend.running ? "stop" : "start", backend.number);
}

function showGenerations(generations) {
  at("generations").replaceChildren(...generations.map(({ generation, pid, tunnels }, index) => {
    const line = element("li", index ? "older" : "", "");
    const state = index ? "drains" : "serves";
    line.append(element("span", "", `Generation ${generation} ${state}`), element("span", "", `process ${pid} · ${count(tunnels, "tunnel")}`));
    return line;
  }));
}

/** Closes of simulated clients: those of one kind that come together are one line. */
const series = new Map();
function showCloses(closes, isFirst) {
  for (const { number, backend, code, reason } of closes) {
    fetched = Math.max(fetched, number);
    if (isFirst) continue;
    const key = `${backend} ${code} ${reason}`;
    const known = series.get(key);
    const current = known && Date.now() - known.at < 5000 ? known : { count: 0, words: note("") };
    current.count += 1;
    current.at = Date.now();
    current.words.textContent = `${count(current.count, "client")} of backend ${backend}: closed with ${closing(code, reason)}`;
    series.set(key, current);
  }
}

let isFirst = true;
async function refresh() {
  const answer = await fetch(`control/overview?since=${fetched}`, { headers: own });
  if (!answer.ok) return;
  const { balance, generations, backends, tunnels, closes } = await answer.json();
  const newest = generations[0]?.generation ?? 1;
  for (const backend of backends) showBackend(backend, tunnels, newest);
  showGenerations(generations);
  showCloses(closes, isFirst);
  isFirst = false;
  at("total").textContent = count(tunnels.length, "tunnel");
  at("outage").hidden = backends.some((backend) => backend.running);
  at("balance").textContent = balance;
  // tidegate adds this header, as its configuration says.
  at("configuration").textContent = answer.headers.get("x-demo-configuration");
}

/** Shows the state again and again, one request after the other. */
async function follow() {
  // A request may fail while processes change; the next one shows the state again.
  await refresh().catch(() => {});
  setTimeout(follow, 400);
}
follow();
