"use strict";

// Everything that comes from the proxy may be written by strangers: it enters the page as text, never as HTML.

const at = (id) => document.getElementById(id);

/** The time that sparklines show, in milliseconds. */
const HISTORY = 300_000;
/** The time between two descriptions of a sparkline, in milliseconds. */
const LABEL_INTERVAL = 60_000;
/** Readings of links that are kept: rates need five seconds of them, latencies a minute. */
const KEPT_READINGS = 61;
const RATE_SECONDS = 5;
/** The time without news after which the figures count as old: the command waits five seconds for a response. */
const LATE = 12_000;
/** Tunnels on a page of the list. */
const PAGE_LENGTH = 100;
const MAX_LISTED = 10_000;

// Elements

/** An element with properties and children; texts become text nodes. */
function el(kind, properties = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawn(kind, attributes = {}, ...children) {
  // The namespace of SVG, from an element that has it.
  const made = document.createElementNS(at("spark-tunnels").namespaceURI, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Changes a text only if it differs: screen readers and selections stay undisturbed. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Makes the children of `parent` those of `items`, by key: kept ones are updated, in the order of `items`. */
function keyed(parent, items, key, make, update) {
  parent.keyed ??= new Map();
  const before = parent.keyed;
  parent.keyed = new Map();
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    if (parent.keyed.has(name)) continue;
    const node = before.get(name) ?? make(item);
    before.delete(name);
    parent.keyed.set(name, node);
    update(node, item);
    if (node.parentNode === parent && node.contains(document.activeElement)) {
      // A moved element loses the focus: this one stays, and what is not at its place yet moves behind it.
      while (place !== node) {
        const other = place;
        place = place.nextElementSibling;
        parent.append(other);
      }
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of before.values()) {
    const had = node.contains(document.activeElement);
    node.remove();
    // What is gone leaves the focus to what was around it, not to the top of the page.
    if (had) parent.closest("[tabindex]")?.focus({ preventScroll: true });
  }
}

/** What is shown instead of an empty list. */
function orNone(list, text) {
  const none = list.querySelector(":scope > .empty");
  const has = list.children.length > (none ? 1 : 0);
  if (has && none) none.remove();
  if (!has && !none) list.append(el(list.tagName === "TBODY" ? "tr" : "li", { className: "empty" }, list.tagName === "TBODY" ? el("td", { colSpan: 3 }, text) : text));
}

// Figures

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

const count = (number) => (number == null ? "–" : whole.format(number));
const rate = (number) => (number == null ? "–" : number < 10_000 ? (number < 10 && number % 1 ? number.toFixed(1) : whole.format(number)) : short.format(number));

function bytes(number) {
  if (number == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return `${number < 10 && unit > 0 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds == null) return "–";
  seconds = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days}d ${hours}h`;
  if (hours) return `${hours}h ${minutes}m`;
  if (minutes) return `${minutes}m ${seconds % 60}s`;
  return `${seconds}s`;
}

const latency = (seconds) => (seconds == null ? "–" : seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`);
const clock = (time) => new Date(time).toTimeString().slice(0, 8);
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** The mark of a state: a sign and a word, so that colour alone says nothing. */
const STATES = {
  up: ["●", "good"], down: ["✕", "bad"], ejected: ["✕", "bad"], unreachable: ["✕", "bad"], full: ["▲", "warning"],
  drained: ["◌", "warning"], "drained-by-config": ["◌", "warning"], "drained-by-report": ["◌", "warning"], terminating: ["◌", "warning"], "not-ready": ["◌", "warning"], "slow start": ["◐", "good"], "weight 0": ["◌", "warning"],
};

// What is known

let state = null;
let steer = false;
let points = [];
/** The links of earlier readings: `{ at, links }`, the newest last. `at` is by a clock that is never set. */
let readings = [];
/** The last news: by the clock of the browser, and by one that is never set. */
let heardAt = 0;
let heardRunning = 0;

const sinceHeard = () => performance.now() - heardRunning;

const nameOf = (link) => [link.listener, link.route, link.upstream, link.endpoint].join("\n");

/** All links of all processes; those of each process count by themselves. */
function linksOf(it) {
  const processes = [{ generation: it.status.generation, traffic: it.traffic }, ...it.older];
  return new Map(processes.flatMap(({ generation, traffic }) => (traffic?.links ?? []).map((link) => [`${generation}\n${nameOf(link)}`, link])));
}

/** The tunnels of each endpoint in processes from before an upgrade. */
function olderTunnels() {
  const sums = new Map();
  for (const { upstreams } of state.older) for (const { name, endpoints } of upstreams) for (const it of endpoints) {
    const key = `${name}\n${it.endpoint}`;
    sums.set(key, (sums.get(key) ?? 0) + it.tunnels);
  }
  return sums;
}

/** How much each link has carried per second lately, by its name; handshakes over a minute. */
function linkRates() {
  const now = readings.at(-1);
  if (!now) return new Map();
  const ago = (seconds) => readings.find((it) => it.at >= now.at - seconds * 1000) ?? now;
  const [lately, minute] = [ago(RATE_SECONDS), ago(60)];
  const seconds = (now.at - lately.at) / 1000;
  const result = new Map();
  // Of a process that has begun since then, everything is new; of one that had not responded, it is not known.
  const earlierOf = (reading, name, link) => reading.links.get(name)
    ?? (reading.generations.has(Number(name.split("\n", 1)[0])) || Number(name.split("\n", 1)[0]) > reading.serving ? {} : link);
  for (const [name, link] of now.links) {
    const before = earlierOf(lately, name, link);
    const grown = (...keys) => keys.reduce((sum, key) => sum + Math.max(0, link[key] - (before[key] ?? 0)), 0);
    const earlier = earlierOf(minute, name, link);
    const opened = link.opened - (earlier.opened ?? 0);
    result.set(name, {
      link,
      messages: seconds ? grown("messages_from_client", "messages_from_endpoint") / seconds : null,
      bytes: seconds ? grown("bytes_from_client", "bytes_from_endpoint") / seconds : null,
      opened, openedSeconds: link.handshake_seconds - (earlier.handshake_seconds ?? 0),
      resets: link.resets - (earlier.resets ?? link.resets),
    });
  }
  return result;
}

/** The sums over the links that `select` maps to a name. */
function summed(rates, select) {
  const sums = new Map();
  for (const each of rates.values()) {
    const name = select(each.link);
    const sum = sums.get(name) ?? { messages: null, bytes: null, opened: 0, openedSeconds: 0, resets: 0, allResets: 0, allOpened: 0, allSeconds: 0, tunnels: 0, failures: 0 };
    for (const key of ["messages", "bytes"]) if (each[key] != null) sum[key] = (sum[key] ?? 0) + each[key];
    for (const key of ["opened", "openedSeconds", "resets"]) sum[key] += each[key];
    sum.allResets += each.link.resets;
    sum.allOpened += each.link.opened;
    sum.allSeconds += each.link.handshake_seconds;
    sum.tunnels += each.link.tunnels;
    sum.failures += each.link.connect_failures;
    sums.set(name, sum);
  }
  return sums;
}

// The overview

/** The time by the clock of the command, which may run on another machine. */
const now = () => state.at + sinceHeard();

function showHealth() {
  const late = heardAt && sinceHeard() > LATE;
  const problems = late
    ? [{ level: "critical", subject: "news", what: `no news from \`tidegate dashboard\` since ${clock(heardAt)}`, cure: "Check that the command still runs. The figures below are the last ones.", since: state.at }]
    : state.problems;
  const health = late ? "critical" : state.health;
  const words = { good: "● Good", warning: "▲ Warning", critical: "✕ Critical" };
  setAttribute(at("health"), "data-health", health);
  setText(at("health-word"), words[health]);
  const [first, ...others] = problems;
  const line = ({ what, cure, since }) => `${what}, since ${clock(since)} (${duration((now() - since) / 1000)}). ${cure}`;
  const status = state.status;
  // The line itself has numbers that move on: a screen reader hears only of another state or another problem.
  const news = at("health-news");
  const about = `${health} ${first?.subject ?? ""}`;
  if (news.dataset.about !== about) {
    news.dataset.about = about;
    setText(news, first ? `${words[health].slice(2)}: ${first.what}` : words[health].slice(2));
  }
  setText(at("health-text"), first ? line(first) : `Nothing is wrong: ${status.endpoints_up} of ${plural(status.endpoints, "endpoint")} in rotation, ${plural(status.connections, "connection")} of at most ${count(status.max_connections)}.`);
  const more = at("health-more");
  more.hidden = others.length === 0;
  setText(more.querySelector("summary"), `and ${others.length} more`);
  keyed(more.querySelector("ul"), others, (it) => it.what, () => el("li"), (node, it) => setText(node, `${it.level}: ${line(it)}`));
  setText(at("process"), `${status.version} · ${status.state} · process ${status.pid} · generation ${status.generation} · up ${duration(status.uptime_seconds)}`);
  document.title = `${words[health].slice(0, 1)} tidegate`;
  showOlder();
}

/** Which of the tunnels are in processes from before an upgrade. */
function showOlder() {
  const until = ({ drain_ends: end }) => (end ? `which drains until ${clock(Date.parse(end))}` : "until the last one has ended");
  keyed(at("older"), state.older, (it) => it.pid, () => el("li"), (node, it) => setText(node, `${plural(it.tunnels, "tunnel")} ${it.tunnels === 1 ? "is" : "are"} in a previous process (process ${it.pid}, generation ${it.generation}), ${until(it)}. Tunnels, rates, handshakes and resets include ${it.tunnels === 1 ? "it" : "them"}; everything else is of process ${state.status.pid} only.`));
  at("older").hidden = state.older.length === 0;
}

function spark(id, key, name, shown) {
  const svg = at(`spark-${id}`);
  const end = points.at(-1)?.running ?? 0;
  const most = Math.max(...points.map((it) => it[key] ?? 0), 1e-9);
  const place = (it) => [(300 * (1 - (end - it.running) / HISTORY)).toFixed(1), (38 - 36 * it[key] / most).toFixed(1)];
  let line = "";
  let area = "";
  let run = [];
  const finish = () => {
    if (run.length > 1) {
      line += `M${run.map((it) => it.join(",")).join("L")}`;
      area += `M${run[0][0]},40L${run.map((it) => it.join(",")).join("L")}L${run.at(-1)[0]},40Z`;
    }
    run = [];
  };
  for (const point of points) {
    if (point[key] == null) finish();
    else run.push(place(point));
  }
  finish();
  if (!svg.firstChild) svg.append(drawn("path", { class: "area" }), drawn("path"));
  setAttribute(svg.firstChild, "d", area || "M0,40");
  setAttribute(svg.lastChild, "d", line || "M0,40");
  const now = points.at(-1)?.[key];
  // Once a minute: a description that changes each second disturbs.
  if (svg.labelled === undefined || end - svg.labelled >= LABEL_INTERVAL) {
    svg.labelled = end;
    svg.setAttribute("aria-label", `${name} in the last five minutes: at most ${shown(most)}, now ${shown(now)}`);
  }
  const figure = at(`now-${id}`);
  setText(figure, shown(now));
  setAttribute(figure, "data-value", String(now ?? ""));
}

function showTiles() {
  spark("tunnels", "tunnels", "Tunnels", count);
  spark("handshakes", "handshakes", "Handshakes a second", rate);
  spark("messages", "messages", "Messages a second", rate);
  spark("bytes", "bytes", "Bytes a second", bytes);
}

const HEADINGS = [["Endpoint", ""], ["State", ""], ["Tunnels", "n"], ["Msg/s", "n"], ["Bytes/s", "n"], ["Handshake", "n"], ["Resets", "n"], ["Why, or the latest failure", "why"]];

function upstreamCard(upstream) {
  const heads = HEADINGS.map(([text, kind]) => el("th", { scope: "col", className: kind }, text));
  if (steer) heads.push(el("th", { scope: "col" }, "Drain"));
  const table = el("table", { className: "dense" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody"));
  table.setAttribute("aria-label", `Endpoints of ${upstream.name}`);
  const summary = el("small");
  const card = el("section", { className: "upstream", tabIndex: 0 }, el("h2", {}, `${upstream.name} `, summary), table);
  card.setAttribute("aria-label", `Upstream ${upstream.name}`);
  return card;
}

/** State and sign of an endpoint. */
function mark(endpoint) {
  if (endpoint.state !== "up") return endpoint.state;
  if (endpoint.weight === 0) return "weight 0";
  return endpoint.slow_start == null ? "up" : "slow start";
}

function why(endpoint) {
  const parts = [];
  if (endpoint.why) parts.push(endpoint.why);
  if (endpoint.down_seconds != null) parts.push(`for ${duration(endpoint.down_seconds)}`);
  if (endpoint.back_in_seconds != null) parts.push(`back in ${duration(endpoint.back_in_seconds)}`);
  if (endpoint.slow_start != null) parts.push(`gets ${Math.round(endpoint.slow_start * 100)} % of its share`);
  if (endpoint.state === "up" && endpoint.check_error) parts.push(`latest health check failed: ${endpoint.check_error}`);
  if (endpoint.state === "up" && endpoint.connect_error) parts.push(`latest connection failed: ${endpoint.connect_error}`);
  if (endpoint.backup) parts.push("backup");
  if (endpoint.weight_overridden) parts.push(`weight ${endpoint.weight} set by an operator`);
  return parts.join(", ");
}

function endpointRow() {
  const cells = HEADINGS.map(([, kind], place) => el(place === 0 ? "th" : "td", { className: kind, ...(place === 0 && { scope: "row" }) }));
  const row = el("tr", {}, ...cells);
  cells[1].className = "mark";
  const number = el("span");
  const meter = drawn("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { width: "100", height: "8" }), drawn("rect", { class: "fill", height: "8" }), drawn("line", { y1: "0", y2: "8" }));
  cells[2].append(number, meter);
  if (steer) {
    row.button = el("button", { type: "button", className: "row-button" });
    row.button.onclick = () => steerEndpoint(row.upstream, row.endpoint);
    row.append(el("td", {}, row.button));
  }
  row.parts = { cells, number, meter };
  return row;
}

function updateRow(row, upstream, endpoint, figures, mean, most) {
  const { cells, number, meter } = row.parts;
  [row.upstream, row.endpoint] = [upstream, endpoint];
  // Of hundreds of rows, few differ from a second ago.
  const { checks_passed, ended, ...visible } = endpoint;
  const shown = JSON.stringify([visible, figures, mean, most]);
  if (row.shown === shown) return;
  row.shown = shown;
  setText(cells[0], endpoint.name ? `${endpoint.name} (${endpoint.endpoint})` : endpoint.endpoint);
  const word = mark(endpoint);
  const [sign, kind] = STATES[word] ?? ["?", "warning"];
  setText(cells[1], `${sign} ${word}`);
  cells[1].className = `mark ${kind}`;
  setText(number, count(endpoint.tunnels));
  setAttribute(row, "data-endpoint", endpoint.endpoint);
  setAttribute(row, "data-tunnels", String(endpoint.tunnels));
  setAttribute(row, "data-state", endpoint.state);
  const [, fill, line] = meter.children;
  setAttribute(fill, "width", (100 * endpoint.tunnels / most).toFixed(1));
  setAttribute(line, "x1", (100 * mean / most).toFixed(1));
  setAttribute(line, "x2", (100 * mean / most).toFixed(1));
  const share = mean ? `${Math.round(100 * endpoint.tunnels / mean)} % of the mean of ${count(mean)}` : "";
  setAttribute(cells[2], "title", share);
  setText(cells[3], rate(figures?.messages));
  setText(cells[4], bytes(figures?.bytes));
  const recent = figures?.opened ? figures.openedSeconds / figures.opened : null;
  setText(cells[5], latency(recent ?? (figures?.allOpened ? figures.allSeconds / figures.allOpened : null)));
  const resets = figures?.allResets ?? 0;
  setText(cells[6], figures?.resets ? `${count(resets)} (+${count(figures.resets)})` : count(resets));
  const text = why(endpoint);
  setText(cells[7], text);
  setAttribute(cells[7], "title", text);
  if (row.button) {
    const isDrained = endpoint.state === "drained";
    setText(row.button, isDrained ? "Undrain …" : "Drain …");
    setAttribute(row.button, "aria-label", `${isDrained ? "Undrain" : "Drain"} ${endpoint.endpoint}`);
    row.button.disabled = ["drained-by-config", "drained-by-report"].includes(endpoint.state);
  }
}

const BADNESS = { down: 0, ejected: 0, unreachable: 0, full: 1, drained: 2, "drained-by-config": 2, "drained-by-report": 2, terminating: 2, "not-ready": 1, up: 3 };

function showUpstreams(rates) {
  const figures = summed(rates, (link) => `${link.upstream}\n${link.endpoint}`);
  const older = olderTunnels();
  const olderOf = new Map();
  for (const { upstreams } of state.older) for (const { name, tunnels } of upstreams) olderOf.set(name, (olderOf.get(name) ?? 0) + tunnels);
  keyed(at("upstreams"), state.upstreams, (it) => it.name, upstreamCard, (card, upstream) => {
    const endpoints = upstream.endpoints.map((it) => {
      const more = older.get(`${upstream.name}\n${it.endpoint}`);
      return more ? { ...it, tunnels: it.tunnels + more } : it;
    });
    const up = endpoints.filter((it) => it.state === "up" && it.weight > 0).length;
    const parts = [`${up} of ${plural(endpoints.length, "endpoint")} in rotation`, plural(upstream.tunnels + (olderOf.get(upstream.name) ?? 0), "tunnel"), upstream.balance];
    if (upstream.waiting) parts.push(`${count(upstream.waiting)} waiting in the queue`);
    if (upstream.rebalance?.excess) parts.push(`${count(upstream.rebalance.excess)} above their share`);
    setText(card.querySelector("small"), parts.join(" · "));
    setAttribute(card, "data-upstream", upstream.name);
    const mean = endpoints.length ? endpoints.reduce((sum, it) => sum + it.tunnels, 0) / endpoints.length : 0;
    const most = Math.max(1, ...endpoints.map((it) => it.tunnels));
    const sorted = endpoints.map((it, place) => [it, place]).sort(([one, a], [other, b]) => BADNESS[one.state] - BADNESS[other.state] || a - b).map(([it]) => it);
    const rows = card.querySelector("tbody");
    keyed(rows, sorted, (it) => it.endpoint, endpointRow, (row, endpoint) => updateRow(row, upstream.name, endpoint, figures.get(`${upstream.name}\n${endpoint.endpoint}`), mean, most));
  });
  orNone(at("upstreams"), "No upstream is configured.");
}

/** A line with a bar. `share` is from 0 to 1. */
function barLine() {
  const line = el("li", {}, el("div", {}, el("span"), el("span")));
  line.append(drawn("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, drawn("rect", { width: "100", height: "6" }), drawn("rect", { class: "fill", height: "6" })));
  return line;
}

function updateBar(line, left, right, share, kind) {
  const [one, other] = line.firstElementChild.children;
  setText(one, left);
  setAttribute(one, "title", left);
  setText(other, right);
  const fill = line.querySelector(".fill");
  setAttribute(fill, "width", (100 * Math.min(1, Math.max(0, share))).toFixed(1));
  setAttribute(fill, "class", `fill ${kind}`);
}

function showProgress() {
  keyed(at("progress"), state.progress, (it) => it.name, barLine, (line, it) => {
    const done = it.from ? (it.from - it.left) / it.from : 1;
    const rest = it.left && it.seconds_left != null ? `, about ${duration(it.seconds_left)}` : "";
    updateBar(line, it.name, it.left ? `${count(it.left)} of ${count(it.from)} left${rest}` : "no tunnel left", done, "");
  });
  orNone(at("progress"), "No drain, close job or older generation.");
}

function showReasons(id, recent, total) {
  const body = at(id).tBodies[0];
  const rows = Object.entries(total).map(([reason, all]) => ({ reason, all, recent: recent?.[reason] ?? 0 })).sort((a, b) => b.recent - a.recent || b.all - a.all);
  keyed(body, rows, (it) => it.reason, (it) => el("tr", {}, el("th", { scope: "row" }, it.reason), el("td"), el("td")), (row, it) => {
    setText(row.children[1], it.recent ? `+${rate(it.recent)}` : "");
    setText(row.children[2], rate(it.all));
    setAttribute(row, "title", `${it.reason}: ${count(it.recent)} since ${clock(state.recent?.since ?? state.at)}, ${count(it.all)} since the start`);
    setAttribute(row, "data-reason", it.reason);
    setAttribute(row, "data-count", String(it.all));
  });
  orNone(body, "none");
}

function showCertificates() {
  keyed(at("certificates"), state.certificates.certificates, (it) => `${it.listener} ${it.file ?? it.names.join()}`, barLine, (line, it) => {
    const names = it.names.length > 2 ? `${it.names[0]} and ${it.names.length - 1} more` : it.names.join(", ") || it.file || "";
    const left = it.share_left;
    const expires = it.expires ? (Date.parse(it.expires) - now()) / 1000 : null;
    let text = left == null ? "not issued yet" : expires < 0 ? "✕ expired" : `${Math.round(left * 100)} % left, ${duration(expires)}`;
    let kind = left == null || expires < 0 || left < 0.1 ? "bad" : left < 0.33 ? "warning" : "";
    if (it.self_signed) [text, kind] = ["▲ self-signed stand-in", "warning"];
    else if (it.last_error) text = `▲ ${text}; renewal fails`;
    else if (kind && expires >= 0) text = `▲ ${text}`;
    updateBar(line, `${names} (${it.listener})`, text, left ?? 0, kind);
    setAttribute(line, "data-share", String(left ?? ""));
  });
  orNone(at("certificates"), "No listener uses TLS.");
}

function showOverview(rates) {
  showTiles();
  showUpstreams(rates);
  showProgress();
  showReasons("rejections", state.recent?.rejections, state.traffic.rejections);
  showReasons("ended", state.recent?.ended, state.traffic.ended);
  const of = state.older.length ? ` of process ${state.status.pid}` : "";
  setText(at("recent-since"), state.recent ? `+ since ${clock(state.recent.since)} · since the start${of}` : "");
  showCertificates();
}

const KINDS = { good: ["●", "good"], bad: ["✕", "bad"], note: ["○", ""] };

function addEvents(events) {
  const list = at("events");
  for (const { at: time, kind, text } of events) {
    const [sign, colour] = KINDS[kind];
    const words = { good: "good", bad: "problem", note: "note" };
    list.prepend(el("li", {}, el("time", { dateTime: new Date(time).toISOString() }, clock(time)), el("span", { className: colour, title: words[kind] }, `${sign} `), text));
  }
  while (list.children.length > 200) list.lastElementChild.remove();
  list.querySelector(".empty")?.remove();
  orNone(list, "Nothing has happened yet.");
}

// The map

function showMap(rates) {
  const levels = [["listener"], ["route"], ["upstream"], ["endpoint"]];
  const states = new Map(state.upstreams.flatMap((upstream) => upstream.endpoints.map((it) => [`${upstream.name}\n${it.endpoint}`, it])));
  const all = [...rates.values()].filter((it) => it.link.route);
  const build = (parent, links, depth) => {
    const [kind] = levels[depth];
    const groups = new Map();
    for (const each of links) {
      const name = each.link[kind];
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(each);
    }
    if (depth === 0) for (const { name } of state.listeners) if (!groups.has(name)) groups.set(name, []);
    keyed(parent, [...groups].sort(([one], [other]) => (one < other ? -1 : 1)), ([name]) => name, ([name]) => {
      const node = el("li", { className: depth === 3 ? "leaf" : "" }, el("div", { className: "node" }, el("span", {}, name), el("small"), el("small")));
      if (depth < 3) node.append(el("ul"));
      return node;
    }, (node, [name, inner]) => {
      const sum = (key) => inner.reduce((sum, it) => sum + (it[key] ?? 0), 0);
      const tunnels = inner.reduce((sum, it) => sum + it.link.tunnels, 0);
      const [, first, second] = node.firstElementChild.children;
      setText(second, `${plural(tunnels, "tunnel")} · ${rate(sum("messages"))} msg/s · ${bytes(sum("bytes"))}/s`);
      let label = kind;
      if (depth === 3) {
        const endpoint = states.get(`${inner[0].link.upstream}\n${name}`);
        const word = endpoint ? mark(endpoint) : "removed";
        label = `${STATES[word]?.[0] ?? "◌"} ${word}`;
        first.className = STATES[word]?.[1] ?? "";
      } else if (depth === 0) {
        const listener = state.listeners.find((it) => it.name === name);
        if (listener) label = `listener ${listener.drained ? "(drained)" : listener.addresses.join(" ")}${listener.tls ? " with TLS" : ""}`;
      }
      setText(first, label);
      if (depth < 3) build(node.lastElementChild, inner, depth + 1);
    });
  };
  const tree = at("map-tree").firstElementChild ?? at("map-tree").appendChild(el("ul", { className: "tree" }));
  build(tree, all, 0);
}

// Asking

let key = null;

async function request(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "tidegate-dashboard": key, ...options.headers }, cache: "no-store" });
  const text = await answer.text();
  let body = null;
  try { body = JSON.parse(text); } catch { body = { error: text }; }
  if (!answer.ok) throw Object.assign(new Error(body.error ?? `status ${answer.status}`), { status: answer.status });
  return body;
}

const post = (path, body) => request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** Asks a question; resolves to the form's values, or to null. */
async function ask(title, content, yes) {
  // Not in place of another question, whose answer this would get.
  if (at("dialog").open) return null;
  setText(at("dialog-title"), title);
  at("dialog-body").replaceChildren(...content);
  at("dialog-yes").hidden = !yes;
  setText(at("dialog-yes"), yes ?? "");
  setText(at("dialog-no"), yes ? "Cancel" : "Close");
  const dialog = at("dialog");
  dialog.showModal();
  return new Promise((done) => {
    const finish = (event, answer) => { event.preventDefault(); dialog.close(); done(answer); };
    const values = () => Object.fromEntries([...dialog.querySelectorAll("input")].map((it) => [it.name, it.value.trim()]));
    dialog.onsubmit = (event) => finish(event, event.submitter === at("dialog-yes") ? values() : null);
    // Escape.
    dialog.oncancel = (event) => finish(event, null);
  });
}

const say = (title, text) => ask(title, [el("p", {}, text)], null);

/** Runs an action, and shows why it failed. */
async function attempt(title, action) {
  try {
    return await action();
  } catch (error) {
    await say(title, error.message);
    return undefined;
  }
}

async function steerEndpoint(upstream, endpoint) {
  const isDrained = endpoint.state === "drained";
  const title = `${isDrained ? "Undrain" : "Drain"} ${endpoint.endpoint}?`;
  const text = isDrained
    ? "It gets new sessions again."
    : `It gets no new sessions. Its ${plural(endpoint.tunnels, "tunnel")} stay open, unless \`on_drain\` closes them.`;
  if (!await ask(title, [el("p", {}, text)], isDrained ? "Undrain" : "Drain")) return;
  const path = `/v1/endpoints/${isDrained ? "undrain" : "drain"}`;
  const which = { upstream, endpoint: endpoint.endpoint };
  await attempt(title, async () => {
    await post(path, which);
    // Older generations may not know the endpoint any more.
    for (const generation of olderGenerations()) await post(`${path}?generation=${generation}`, which).catch(() => {});
  });
}

// Tunnels

const COLUMNS = [
  ["Client", (it) => it.client, ""], ["Request", (it) => it.host + it.path, "path"], ["Route", (it) => it.route, ""], ["Endpoint", (it) => it.endpoint_name ?? it.endpoint, ""],
  ["Age", (it) => duration(it.age_seconds), "n", "age"], ["Idle", (it) => duration(it.idle_seconds), "n", "idle"],
  ["Messages", (it) => (it.rates ? `${rate(it.rates.messages_from_client + it.rates.messages_from_endpoint)}/s` : count(it.messages_from_client + it.messages_from_endpoint)), "n", "messages"],
  ["Bytes", (it) => (it.rates ? `${bytes(it.rates.bytes_from_client + it.rates.bytes_from_endpoint)}/s` : bytes(it.bytes_from_client + it.bytes_from_endpoint)), "n", "bytes"],
  ["State", (it) => `${it.ending ? `closing: ${it.ending}` : it.kind === "stream" ? "stream" : "open"}${it.generation == null ? "" : `, in generation ${it.generation}`}`, ""],
];

/** What tunnels are sorted by, descending. */
const both = (it, what) => (it.rates ?? it)[`${what}_from_client`] + (it.rates ?? it)[`${what}_from_endpoint`];
const RANKS = { age: (it) => it.age_seconds, idle: (it) => it.idle_seconds, bytes: (it) => both(it, "bytes"), messages: (it) => both(it, "messages") };

/** Numbers of the processes from before an upgrade. */
const olderGenerations = () => state?.older.map((it) => it.generation) ?? [];

/** A list of tunnels. One process measures rates for one at a time: `tidegate top` may be measuring. */
async function listOf(query) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request(`/v1/tunnels?${query}`);
    } catch (error) {
      if (error.status !== 503 || attempt === 12) throw error;
      await pause(300);
    }
  }
}

/** The first tunnels of all processes, and how many match. */
async function listAll(query, sort, limit) {
  const [serving, ...older] = await Promise.all([listOf(query), ...olderGenerations().map(async (generation) => {
    // It may have ended meanwhile.
    const { tunnels, matched } = await listOf(`${query}&generation=${generation}`).catch(() => ({ tunnels: [], matched: 0 }));
    return { tunnels: tunnels.map((it) => ({ ...it, generation })), matched };
  })]);
  if (!older.length) return serving;
  const tunnels = [serving, ...older].flatMap((it) => it.tunnels).sort((one, other) => RANKS[sort](other) - RANKS[sort](one));
  return { tunnels: tunnels.slice(0, limit), matched: older.reduce((sum, it) => sum + it.matched, serving.matched) };
}

let shownPage = 0;
let listing = false;
/** Whether the list was asked for again while it was being read. */
let listAgain = false;
/** The filter of what is listed. */
let listed = {};

/** The fields of the filter that are set. */
function filter() {
  const fields = Object.fromEntries(new FormData(at("filter")));
  const { sort, rates, ...rest } = fields;
  return Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
}

async function list(isAutomatic = false) {
  listAgain = listing;
  if (listing) return;
  listing = true;
  try {
    const form = at("filter");
    const chosen = filter();
    const limit = Math.min(MAX_LISTED, (shownPage + 1) * PAGE_LENGTH);
    const query = new URLSearchParams({ ...chosen, sort: form.sort.value, limit: String(limit) });
    if (form.rates.checked) query.set("rate_window", "1s");
    const { tunnels, matched } = await listAll(query, form.sort.value, limit);
    listed = chosen;
    // What comes by itself is not announced.
    setAttribute(at("page-of"), "aria-live", isAutomatic ? "off" : "polite");
    const pages = Math.max(1, Math.ceil(Math.min(matched, MAX_LISTED) / PAGE_LENGTH));
    if (shownPage >= pages) shownPage = pages - 1;
    const from = shownPage * PAGE_LENGTH;
    const rows = tunnels.slice(from, from + PAGE_LENGTH);
    const body = at("list").tBodies[0];
    keyed(body, rows, (it) => it.id, (it) => {
      const open = el("button", { type: "button", className: "open" });
      const row = el("tr", {}, el("td", {}, open), ...COLUMNS.slice(1).map(([, , kind]) => el("td", { className: kind })));
      open.onclick = () => showTunnel(row.tunnel);
      row.open = open;
      return row;
    }, (row, it) => {
      row.tunnel = it;
      setText(row.open, it.client);
      setAttribute(row, "data-id", it.id);
      COLUMNS.slice(1).forEach(([, text], place) => setText(row.children[place + 1], text(it)));
      setAttribute(row.children[1], "title", it.host + it.path);
    });
    for (const head of at("list").tHead.rows[0].cells) {
      if (head.dataset.sort) setAttribute(head, "aria-sort", head.dataset.sort === form.sort.value ? "descending" : "none");
    }
    setText(at("page-of"), rows.length ? `${count(from + 1)} to ${count(from + rows.length)} of ${count(matched)}` : "No tunnel matches.");
    setAttribute(at("page-of"), "data-matched", String(matched));
    at("earlier").disabled = shownPage === 0;
    at("later").disabled = shownPage + 1 >= pages;
  } catch (error) {
    setText(at("page-of"), error.message);
  }
  listing = false;
  if (listAgain) await list();
}

async function showTunnel(tunnel) {
  const details = el("dl");
  const fields = { ...tunnel, ...tunnel.rates && { rates: undefined } };
  for (const [name, value] of Object.entries(fields)) {
    if (value == null) continue;
    let text = String(value);
    if (name === "age_seconds" || name === "idle_seconds") text = duration(value);
    else if (name.startsWith("bytes")) text = `${count(value)} (${bytes(value)})`;
    else if (typeof value === "number") text = count(value);
    details.append(el("dt", {}, name.replaceAll("_", " ").replace(" seconds", "")), el("dd", {}, text));
  }
  const answer = await ask(`${tunnel.kind === "stream" ? "Stream" : "Tunnel"} ${tunnel.id}`, [details], steer ? "Close it …" : null);
  if (!answer) return;
  await close({ id: tunnel.id, kind: tunnel.kind }, "Close this one?", [tunnel.generation]);
}

/** Has each of these processes close something; `undefined` is the one that serves. The sum of what they say. */
async function closeIn(generations, how) {
  const closing = async (generation) => post(`/v1/tunnels/close${generation == null ? "" : `?generation=${generation}`}`, how);
  const results = await Promise.allSettled(generations.map(closing));
  const done = results.filter((it) => it.status === "fulfilled").map((it) => it.value);
  // An older one may have ended meanwhile, and only one of them may know what the filter names.
  const [{ status, reason }] = results;
  if (status === "rejected" && (reason.status !== 404 || !done.length)) throw reason;
  const sum = (of) => done.reduce((sum, it) => sum + (of(it) ?? 0), 0);
  return { code: done[0].code, matched: sum((it) => it.matched), jobs: done.flatMap((it) => it.job ?? []) };
}

/** Closes what a filter matches in these processes, after a question that says how many these are. */
async function close(chosen, title, generations = [undefined, ...olderGenerations()]) {
  const all = Object.keys(chosen).every((name) => name === "kind");
  const counted = await attempt(title, () => closeIn(generations, { filter: chosen, all, dry_run: true }));
  if (!counted) return;
  const which = all ? "All of them" : Object.entries(chosen).map(([name, value]) => `${name} ${value}`).join(", ");
  const code = counted.code ?? 1012;
  const then = code === 1012 ? " Clients that reconnect get another one." : "";
  const content = [el("p", {}, `${which}: ${plural(counted.matched, "tunnel")} would be closed with ${code}.${then}`)];
  if (counted.matched > 1) content.push(el("p", {}, el("label", {}, "Evenly over this time, empty for at once: ", el("input", { name: "over", value: counted.matched > 100 ? "2m" : "", size: 6, autocomplete: "off" }))));
  const answer = await ask(title, content, `Close ${count(counted.matched)}`);
  if (!answer) return;
  const how = { filter: chosen, all, ...answer.over && { over: answer.over } };
  const done = await attempt(title, () => closeIn(generations, how));
  if (!done) return;
  for (const job of done.jobs) await say("Closing", `Job ${job.job} closes ${plural(job.tunnels, "tunnel")}. “Under way” shows how far it is.`);
  list();
}

function offerNames() {
  const options = (select, names, any) => {
    const chosen = select.value;
    const known = [...select.options].map((it) => it.value).filter(Boolean);
    if (select.options.length && known.join("\n") === names.join("\n")) return;
    select.replaceChildren(el("option", { value: "" }, any), ...names.map((name) => el("option", { value: name }, name)));
    select.value = names.includes(chosen) ? chosen : "";
  };
  const routes = [...new Set(state.traffic.links.map((it) => it.route).filter(Boolean))].sort();
  options(at("filter").route, routes, "any");
  options(at("filter").upstream, state.upstreams.map((it) => it.name), "any");
  options(at("question").listener, state.listeners.map((it) => it.name), "by the URL");
  const names = state.upstreams.flatMap((it) => it.endpoints.map((endpoint) => endpoint.endpoint));
  if (at("endpoints").children.length !== names.length) at("endpoints").replaceChildren(...names.map((value) => el("option", { value })));
}

// Explain and reload

function table(heads, rows) {
  return el("table", { className: "dense" }, el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((text) => el("td", {}, String(text)))))));
}

const block = (title, ...content) => el("section", { className: "block" }, el("h2", {}, title), ...content);

async function explain() {
  const form = at("question");
  const fields = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
  const headers = {};
  for (const line of (fields.headers ?? "").split("\n").filter(Boolean)) {
    const [name, ...value] = line.split(":");
    headers[name.trim()] = value.join(":").trim();
  }
  const asked = { ...fields, headers, certificate: form.certificate.checked };
  try {
    const it = await post("/v1/explain", asked);
    const node = (kind, name, more) => el("div", { className: "node" }, el("small", {}, kind), name, ...more ? [el("small", {}, more)] : []);
    const chain = [node("listener", it.listener, `${it.handshake ? "handshake" : "plain request"} for ${it.host}${it.path}`), node("route", it.route ?? "none matches")];
    if (it.response) chain.push(node("response", `${it.response.status} ${it.response.reason}`, it.response.text));
    if (it.upstream) chain.push(node("upstream", it.upstream.name, it.upstream.balance));
    if (it.endpoint) chain.push(node("endpoint", it.endpoint, it.why));
    const parts = chain.flatMap((each, place) => (place ? [el("span", { ariaHidden: "true" }, "→"), each] : [each]));
    const content = [el("div", { className: "chain" }, ...parts)];
    const facts = [];
    if (it.endpoint_path) facts.push(`The endpoint would receive the path ${it.endpoint_path} and the host ${it.endpoint_host ?? ""}.`);
    if (it.split) facts.push(`Split: ${it.split.upstreams.map((each) => `${each.upstream} (weight ${each.weight}, ${each.state})`).join(", ")}; ${it.split.why}.`);
    for (const name of ["allow", "deny", "origins"]) if (it[name]?.length) facts.push(`${name}: ${it[name].join(", ")}`);
    for (const each of it.depends_on ?? []) facts.push(`Depends on: ${each}`);
    if (facts.length) content.push(block("More", el("ul", {}, ...facts.map((text) => el("li", {}, text)))));
    if (it.other_routes.length) {
      const rows = it.other_routes.map((each) => [each.route, each.why]);
      if (it.more_routes) rows.push(["…", `and ${it.more_routes} more`]);
      content.push(block("Routes that do not get it", table(["Route", "Why not"], rows)));
    }
    at("answer").replaceChildren(...content);
  } catch (error) {
    at("answer").replaceChildren(el("p", { className: "bad" }, `✕ ${error.message}`));
  }
}

async function plan() {
  at("apply").hidden = true;
  try {
    const it = await request("/v1/reload/plan");
    const rows = [];
    const names = { listeners: "listener", routes: "route", upstreams: "upstream" };
    for (const [key, kind] of Object.entries(names)) for (const part of it[key]) rows.push([kind, part.name, part.change, count(part.tunnels), ""]);
    for (const part of it.endpoints) rows.push(["endpoint", `${part.upstream} ${part.endpoint}`, part.change, count(part.tunnels), part.reason ? `${part.then} (${part.reason})` : part.then]);
    for (const file of it.included) rows.push(["included file", file.name, file.change, "", ""]);
    for (const file of it.files) rows.push(["file", file, "changed", "", ""]);
    for (const setting of it.settings) rows.push(["setting", setting.name, setting.needs_restart ? "changed, requires a restart" : "changed", "", ""]);
    const changed = rows.filter((row) => row[2] !== "kept").length;
    const summary = `${changed ? plural(changed, "change") : "Nothing would change"}. Of ${plural(it.tunnels, "live tunnel")}, ${count(it.displaced)} would lose their route or endpoint, and ${count(it.closed)} would be closed.`;
    const content = [el("p", { className: "summary" }, summary)];
    if (it.warnings.length) content.push(block("Warnings", el("ul", {}, ...it.warnings.map((text) => el("li", {}, text)))));
    if (rows.length) content.push(block("What", table(["What", "Name", "Change", "Live tunnels", "Then"], rows)));
    at("planned").replaceChildren(...content);
    at("apply").hidden = !steer;
    at("apply").onclick = () => reload(it, summary);
  } catch (error) {
    at("planned").replaceChildren(...error.message.split("\n").map((line) => el("p", { className: "bad" }, `✕ ${line}`)));
  }
}

async function reload(planned, summary) {
  if (!await ask("Reload the configuration?", [el("p", {}, summary)], "Reload")) return;
  const done = await attempt("Not reloaded", () => post("/v1/reload", { max_displaced: planned.displaced }));
  if (done) at("planned").replaceChildren(el("p", { className: "good" }, `● Reloaded${done.certificates_only ? ": only certificates had changed" : ""}.`));
}

// Views

function view() {
  const name = location.hash.slice(1);
  return document.querySelector(`[data-view="${CSS.escape(name)}"]`) ? name : "overview";
}

function show() {
  const name = view();
  for (const each of document.querySelectorAll("[data-view]")) each.hidden = each.dataset.view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name === "tunnels" && key) list();
  if (state) draw();
}

function draw() {
  showHealth();
  if (document.hidden) return;
  const rates = linkRates();
  const name = view();
  if (name === "overview") showOverview(rates);
  if (name === "map") showMap(rates);
  if (name === "tunnels" || name === "explain") offerNames();
}

// The event stream

function received(data) {
  heardAt = Date.now();
  heardRunning = performance.now();
  const process = (it) => `${it.status.pid} ${it.status.started}`;
  const before = state;
  state = data.state;
  points.push(...data.points);
  const end = points.at(-1)?.running ?? 0;
  points = points.filter((it) => it.running > end - HISTORY);
  // After an upgrade, the counts of the previous process go on.
  if (before && process(before) !== process(state) && state.status.generation <= before.status.generation) readings = [];
  if (state.reachable) {
    const { generation } = state.status;
    const generations = new Set([generation, ...state.older.filter((it) => it.traffic).map((it) => it.generation)]);
    readings.push({ at: state.running, links: linksOf(state), serving: generation, generations });
    readings = readings.slice(-KEPT_READINGS);
  }
  addEvents(data.events);
  draw();
}

/** Reads the stream until it breaks. `EventSource` cannot send the key. */
async function follow(position) {
  const headers = { "tidegate-dashboard": key, ...position.id && { "last-event-id": position.id } };
  const answer = await fetch("/events", { headers, cache: "no-store" });
  if (answer.status === 401) return "refused";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return "ended";
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      position.id = field("id") ?? position.id;
      const data = field("data");
      if (data) received(JSON.parse(data));
    }
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function refuse() {
  // What was shown is not to come back with the next look at the clock.
  state = null;
  setAttribute(at("health"), "data-health", "critical");
  setText(at("health-word"), "✕ Not admitted");
  setText(at("health-text"), "This tab was not opened with the address that `tidegate dashboard` has printed. Stop the command and start it again for a new one.");
}

async function begin() {
  const entered = /^#key=(.+)$/.exec(location.hash)?.[1];
  if (entered) {
    localStorage.setItem("tidegate-key", entered);
    history.replaceState(null, "", "/");
  }
  key = localStorage.getItem("tidegate-key");
  show();
  if (!key) return refuse();
  for (;;) {
    try {
      ({ steer } = await request("/abilities"));
      break;
    } catch (error) {
      if (error.status === 401) return refuse();
      await pause(1000);
    }
  }
  at("close-all").hidden = !steer;
  const position = { id: "" };
  for (;;) {
    const result = await follow(position).catch(() => "broken");
    if (result === "refused") return refuse();
    if (state) showHealth();
    await pause(1000);
  }
}

const heads = COLUMNS.map(([text, , kind, sort]) => {
  if (!sort) return el("th", { scope: "col", className: kind }, text);
  const button = el("button", { type: "button", className: "sort" }, text);
  button.onclick = () => { at("filter").sort.value = sort; shownPage = 0; list(); };
  const head = el("th", { scope: "col", className: kind }, button);
  head.dataset.sort = sort;
  return head;
});
at("list").tHead.rows[0].append(...heads);
at("filter").onsubmit = (event) => { event.preventDefault(); shownPage = 0; list(); };
at("filter").sort.onchange = () => { shownPage = 0; list(); };
at("earlier").onclick = () => { shownPage -= 1; list(); };
at("later").onclick = () => { shownPage += 1; list(); };
at("close-all").onclick = () => close(listed, "Close all tunnels that match?");
at("question").onsubmit = (event) => { event.preventDefault(); explain(); };
at("plan").onclick = plan;
addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => { if (state) draw(); });
setInterval(() => { if (view() === "tunnels" && at("again").checked && !document.hidden && !at("dialog").open) list(true); }, 5000);
setInterval(() => { if (state && sinceHeard() > LATE) showHealth(); }, 1000);
begin();
