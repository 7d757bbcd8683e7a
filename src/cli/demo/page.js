"use strict";

const at = (id) => document.getElementById(id);
const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const clock = () => new Date().toLocaleTimeString();

/** One line of what happened, newest first. */
function note(text) {
  const line = document.createElement("li");
  line.textContent = `${clock()}  ${text}`;
  at("events").prepend(line);
  while (at("events").children.length > 100) at("events").lastChild.remove();
}

/** Shows which backend serves a socket; tells when that is another one than before. */
function via(name, backend) {
  const label = at(`${name}-via`);
  const before = label.dataset.backend;
  label.className = `via b${backend}`;
  label.textContent = `by backend ${backend}`;
  label.dataset.backend = backend;
  if (before && before !== String(backend)) note(`${name}: backend ${backend} took over from ${before}`);
  else note(`${name}: served by backend ${backend}`);
}

/** A socket that comes back by itself, each time a little later and never all at once. */
function connect(name, onMessage, onOpen = () => {}) {
  let wait = 100;
  const holder = { send: () => false };
  const open = () => {
    const socket = new WebSocket(`${scheme}//${location.host}/${name}`);
    socket.onopen = () => {
      wait = 100;
      holder.send = (text) => socket.readyState === WebSocket.OPEN && (socket.send(text), true);
      onOpen(holder);
    };
    socket.onmessage = (event) => onMessage(event.data);
    socket.onclose = (event) => {
      holder.send = () => false;
      const label = at(`${name}-via`);
      label.className = "via";
      label.textContent = "reconnecting …";
      note(`${name}: closed (${event.code}), reconnecting`);
      setTimeout(open, wait * (0.5 + Math.random()));
      wait = Math.min(wait * 2, 5000);
    };
  };
  open();
  return holder;
}

// Dashboard

let pushes = 0;
setInterval(() => { at("pushes").textContent = pushes; pushes = 0; }, 1000);
const messages = new Map();

function row(number) {
  const known = at(`backend-${number}`);
  if (known) return known;
  const line = document.createElement("li");
  line.id = `backend-${number}`;
  const name = document.createElement("span");
  name.className = `b${number}`;
  name.textContent = `Backend ${number}`;
  const bar = document.createElement("meter");
  bar.min = 0;
  bar.setAttribute("aria-label", `Tunnels of backend ${number}`);
  const button = document.createElement("button");
  button.type = "button";
  button.onclick = () => steer(number, button.dataset.action);
  line.append(name, bar, button, document.createElement("small"));
  at("fleet").append(line);
  return line;
}

async function steer(number, action) {
  const answer = await fetch(`control/backends/${number}/${action}`, {
    method: "POST",
    headers: { "x-tidegate-demo": "1" },
  });
  note(answer.ok ? `backend ${number}: ${action}` : `backend ${number}: ${action} failed (${answer.status})`);
}

function show(status) {
  pushes += 1;
  at("uptime").textContent = `${status.seconds} s`;
  const most = Math.max(4, ...status.backends.map((backend) => backend.tunnels));
  for (const backend of status.backends) {
    const [, bar, button, text] = row(backend.number).children;
    bar.max = most;
    bar.value = backend.tunnels;
    const action = backend.up ? "stop" : "start";
    if (button.dataset.action !== action) {
      button.dataset.action = action;
      button.textContent = backend.up ? "Stop" : "Start";
      button.setAttribute("aria-label", `${button.textContent} backend ${backend.number}`);
    }
    const before = messages.get(backend.number) ?? { count: backend.messages, at: performance.now(), rate: 0 };
    const now = performance.now();
    if (now - before.at >= 1000) {
      before.rate = Math.round((backend.messages - before.count) * 1000 / (now - before.at));
      before.count = backend.messages;
      before.at = now;
    }
    messages.set(backend.number, before);
    text.className = backend.up ? "" : "down";
    const noun = backend.tunnels === 1 ? "tunnel" : "tunnels";
    text.textContent = backend.up ? `${backend.tunnels} ${noun} · ${before.rate} messages/s` : "stopped";
  }
}

connect("dashboard", (data) => {
  const message = JSON.parse(data);
  if (message.type === "hello") via("dashboard", message.backend);
  else show(message);
});

// Echo

const times = [];
const echo = connect("echo", (data) => {
  const message = JSON.parse(data);
  if (message.backend) return via("echo", message.backend);
  times.push(performance.now() - message.sent);
  if (times.length > 120) times.shift();
  const sorted = [...times].sort((a, b) => a - b);
  at("last").textContent = times.at(-1).toFixed(1);
  at("median").textContent = sorted[Math.floor(sorted.length / 2)].toFixed(1);
  const most = Math.max(1, sorted.at(-1));
  const points = times.map((time, index) => `${index * 2},${46 - (time / most) * 44}`);
  at("spark").firstElementChild.setAttribute("points", points.join(" "));
});
setInterval(() => echo.send(JSON.stringify({ sent: performance.now() })), 250);

// Chat

at("name").value = `guest ${Math.floor(Math.random() * 900 + 100)}`;
const chat = connect("chat", (data) => {
  const message = JSON.parse(data);
  if (message.type === "hello") return via("chat", message.backend);
  const line = document.createElement("li");
  const who = document.createElement("b");
  who.className = `b${message.backend}`;
  who.textContent = message.name;
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
