// The page of the server: workers, queues, tasks. It uses the public endpoints only, and shows what it is told as text, never
// as HTML. The address behind the # says what is shown, so that it can be bookmarked; everything is asked again from time to
// time while somebody looks. Who is logged in is the server's cookie, which no script can read; nothing else is kept.

const TICK_MS = 1_000; // of the console, and of the view for a while after somebody did something
const REFRESH_MS = 5_000;
const EAGER_MS = 10_000;
const SESSION_SECONDS = 12 * 3600;
const TASKS_PER_PAGE = 50;
const CONSOLE_LINES = 500;
const CONSOLE_CHARACTERS = 2_000_000;
const QUEUE_ENTRIES_SHOWN = 100;
const CURVES_PER_FIGURE = 6;
const STATUSES = ["created", "queued", "in_progress", "stopped", "failed", "completed", "closed", "published"];

const view = document.getElementById("view");
const places = document.getElementById("places");
const leave = document.getElementById("leave");
const summary = document.getElementById("summary");

// --- asking the server ---

class Refusal extends Error {
  constructor(meta) {
    super(meta.result_msg);
    this.code = meta.result_code;
  }
}

async function call(endpoint, body = {}, headers = {}) {
  let reply;
  try {
    reply = await fetch(`/${endpoint}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer. It is asked again every few seconds.");
  }
  const { meta, data } = await reply.json().catch(() => ({ meta: { result_code: reply.status, result_msg: `HTTP ${reply.status}` } }));
  if (!reply.ok) throw new Refusal(meta);
  return data;
}

const isStranger = (error) => error instanceof Refusal && error.code === 401;

function complain(error) {
  const place = document.getElementById("problem");
  place.hidden = !error;
  place.textContent = error ? String(error.message || error) : "";
}

// --- coming and going ---

const basic = (key, secret) => `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(`${key}:${secret}`)))}`;

function showEntrance() {
  places.hidden = leave.hidden = true;
  summary.textContent = "";
  stopConsole();
  complain(null);
  if (view.className === "entrance") return;
  const key = el("input", { name: "access_key", autocomplete: "username", required: true, spellcheck: "false" });
  const secret = el("input", { name: "secret_key", type: "password", autocomplete: "current-password", required: true });
  const refusal = el("p", { role: "alert", hidden: true });
  const enter = async (event) => {
    event.preventDefault();
    try {
      await call("auth.login", { expiration_sec: SESSION_SECONDS }, { Authorization: basic(key.value.trim(), secret.value.trim()) });
      await refresh();
    } catch (error) {
      refusal.textContent = isStranger(error) ? "The server does not know this access key with this secret." : error.message;
      refusal.hidden = false;
      secret.value = "";
      secret.focus();
    }
  };
  const form = el(
    "form",
    { onsubmit: enter },
    el("label", {}, "Access key", key),
    el("label", {}, "Secret key", secret),
    refusal,
    el("button", { class: "main" }, "Sign in"),
    el("p", {}, "Both are in the clearml.conf that the server wrote."),
  );
  show("entrance", [part("entrance", el("h2", {}, "Sign in"), form)]);
  key.focus();
}

leave.addEventListener("click", async () => {
  await call("auth.logout").catch(complain);
  await refresh();
});

// --- building pieces ---

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// A part of a view has a name, so that the next answer of the server replaces no more than what differs.
const part = (name, ...children) => el("section", { "data-part": name, class: name }, ...children);

function table(titles, rows, nothing) {
  const body = rows.length ? rows : [el("tr", {}, el("td", { class: "none", colspan: titles.length }, nothing))];
  const classOf = (index) => (rows[0]?.children[index].className === "number" ? "number" : undefined);
  const head = el("tr", {}, titles.map((title, index) => el("th", { scope: "col", class: classOf(index) }, title)));
  return el("div", { class: "wide" }, el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
}

const row = (...cells) => el("tr", {}, cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : el("td", {}, cell))));
const number = (value) => el("td", { class: "number" }, String(value ?? ""));
const actions = (...buttons) => el("td", { class: "actions" }, buttons);
const state = (name, { look = name, title } = {}) => el("span", { class: `state ${look}`, title }, name.replace("_", " "));
const taskLink = (task) => (task?.id ? el("a", { href: `#task=${task.id}` }, task.name || task.id) : "");
const taskCell = (task) => el("td", { class: "long", title: task?.name || "" }, taskLink(task));

const errorOf = new Map(); // what is wrong, by what was tried
function report(what, error) {
  errorOf.set(what, error);
  complain([...errorOf.values()].find(Boolean));
}

function action(label, doIt, { ask, look } = {}) {
  const press = async () => {
    if (ask && !(await isSure(ask, label))) return;
    await doIt().then(() => report("action", null), (error) => report("action", error));
    eagerUntil = Date.now() + EAGER_MS;
    await refresh();
  };
  return el("button", { type: "button", class: look, onclick: press }, label);
}

const question = document.getElementById("question");
const answers = [...question.querySelectorAll("button")];
answers.forEach((button) => button.addEventListener("click", () => question.close(button.value)));

function isSure(text, label) {
  question.querySelector("p").textContent = text;
  answers.at(-1).textContent = label;
  question.returnValue = "";
  question.showModal();
  return new Promise((settle) => question.addEventListener("close", () => settle(question.returnValue === "yes"), { once: true }));
}

function span(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const whole = Math.max(0, Math.round(seconds));
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => whole >= size);
  if (first < 0) return "0 s";
  const [size, unit] = parts[first];
  const next = parts[first + 1];
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

const age = (time) => (time ? span((Date.now() - Date.parse(time)) / 1000) : "");
const moment = (time) => (time ? new Date(time).toLocaleString() : "");
const twoDigits = (value) => String(value).padStart(2, "0");

// The time of a day of this week, else with the date; in the reader's time zone.
function weekTime(time) {
  const then = new Date(time);
  if (Number.isNaN(then.getTime())) return time;
  const days = Math.round((new Date(then).setHours(0, 0, 0, 0) - new Date().setHours(0, 0, 0, 0)) / 86_400_000);
  const date = `${then.getFullYear()}-${twoDigits(then.getMonth() + 1)}-${twoDigits(then.getDate())}`;
  const day = days === 0 ? "" : days > 0 && days < 7 ? then.toLocaleDateString("en", { weekday: "short" }) : date;
  return `${day} ${twoDigits(then.getHours())}:${twoDigits(then.getMinutes())}`.trim();
}

const isHandy = (value) => value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6);
const short = (value) => (isHandy(value) ? String(+value.toPrecision(4)) : value.toExponential(2));

// --- the fleet: workers and queues ---

async function showFleet() {
  const [{ workers }, { queues }] = await Promise.all([
    call("workers.get_all", { last_seen: 3600 }),
    call("queues.get_all_ex", { max_task_entries: QUEUE_ENTRIES_SHOWN, page_size: 100, order_by: ["name"] }),
  ]);
  return [
    part(
      "workers",
      el("h2", {}, "Workers"),
      table(
        ["Worker", "State", "Task", "Running for", "Iteration", "Load", "Queues", "Last sign", ""],
        workers.map(workerRow),
        "No worker has reported within the last hour.",
      ),
    ),
    part("queues", el("h2", {}, "Queues"), table(["Queue", "Waiting", "Oldest", "Workers", "Tags", ""], queues.map(queueRow), "There are no queues.")),
    part("new-queue", newQueue()),
    ...queues.filter((queue) => queue.entries.length).map(entriesOf),
  ];
}

function workerRow(worker) {
  const isLost = Date.now() - Date.parse(worker.last_activity_time) > 120_000;
  const isTwice = (worker.system_tags || []).includes("duplicate-id");
  return row(
    el("td", { title: worker.ip || "" }, worker.id, isTwice ? el("span", { class: "warning" }, " (two report under this name)") : ""),
    el("td", { class: "states" }, isLost ? state("lost") : statesOf(worker)),
    taskCell(worker.task),
    number(worker.task?.running_time ? span(worker.task.running_time / 1000) : ""),
    number(worker.task?.last_iteration),
    loadOf(worker.machine_stats),
    (worker.queues || []).map((queue) => queue.name || queue.id).join(", "),
    number(age(worker.last_activity_time)),
    actions(
      worker.task?.id ? action("Abort task", () => call("tasks.stop", { task: worker.task.id }), { ask: `Abort “${worker.task.name}”?`, look: "danger" }) : null,
      isLost ? action("Forget", () => call("workers.unregister", { worker: worker.id })) : null,
    ),
  );
}

// Agents say in their tags whether they take tasks: "closed until TIME", "waiting: WHY". The gravest is last, and counts.
const STANDINGS = ["forced on", "closed", "forced off", "waiting", "paused", "cordoned", "draining"];
const STANDING_TAG = new RegExp(`^(${STANDINGS.join("|")})(?: until (\\S+)|: (.+))?$`);
const LOOKS = { "forced on": "idle", closed: "idle", "forced off": "idle", waiting: "queued", paused: "queued", cordoned: "failed", draining: "queued" };

function statesOf(worker) {
  const said = (worker.tags || []).map((tag) => STANDING_TAG.exec(tag)).filter(Boolean);
  const [, standing, until, why] = said.sort((a, b) => STANDINGS.indexOf(a[1]) - STANDINGS.indexOf(b[1])).at(-1) || [];
  const running = worker.task?.id ? [state("running", { look: "in_progress" }), " "] : [];
  if (!standing) return running[0] || state("idle");
  const text = until ? `${standing} until ${weekTime(until)}` : standing;
  return [...running, state(text, { look: LOOKS[standing], title: why || (until ? moment(until) : undefined) })];
}

function loadOf(stats) {
  const percents = (values) => [values ?? []].flat().filter(Number.isFinite).map((value) => `${Math.round(value)} %`);
  const [gpus, cpus] = [percents(stats?.gpu_usage), percents(stats?.cpu_usage)];
  return gpus.length ? `GPU ${gpus.join(", ")}` : cpus.length ? `CPU ${cpus.join(", ")}` : "";
}

function queueRow(queue) {
  const name = queue.display_name || queue.name;
  const waiting = queue.num_entries ?? queue.entries.length;
  const isUnwatched = waiting && !queue.workers.length;
  return row(
    el("td", { class: "long", title: name }, name),
    number(waiting),
    number(age(queue.entries[0]?.added)),
    isUnwatched ? el("td", { class: "number" }, el("span", { class: "warning" }, "nobody listens")) : number(queue.workers.length),
    (queue.tags || []).join(", "),
    actions(
      waiting
        ? action("Clear", () => call("queues.clear_queue", { queue: queue.id }), { ask: `Take all ${waiting} tasks out of “${name}”?`, look: "danger" })
        : action("Delete", () => call("queues.delete", { queue: queue.id }), { ask: `Delete the queue “${name}”?`, look: "danger" }),
    ),
  );
}

function newQueue() {
  const name = el("input", { required: true, minlength: 3, placeholder: "name of a new queue", "aria-label": "name of a new queue" });
  const submit = async (event) => {
    event.preventDefault();
    const done = () => {
      name.value = "";
      report("action", null);
    };
    await call("queues.create", { name: name.value }).then(done, (error) => report("action", error));
    await refresh();
  };
  return el("form", { onsubmit: submit }, name, el("button", {}, "Create queue"));
}

function entriesOf(queue) {
  const name = queue.display_name || queue.name;
  const move = (endpoint, task) => () => call(`queues.${endpoint}`, { queue: queue.id, task });
  const waiting = queue.num_entries ?? queue.entries.length;
  const rows = queue.entries.map(({ task, added }, index) =>
    row(
      number(index + 1),
      taskCell(task),
      number(age(added)),
      actions(
        index > 0 ? [action("Top", move("move_task_to_front", task.id)), action("Up", move("move_task_forward", task.id))] : null,
        index < waiting - 1 ? action("Down", move("move_task_backward", task.id)) : null,
        action("Take out", () => call("tasks.dequeue", { task: task.id })),
      ),
    ),
  );
  const more = waiting - rows.length;
  return part(
    `waiting-${queue.id}`,
    el("h2", {}, `Waiting in ${name}`, el("small", {}, waiting === 1 ? "1 task" : `${waiting} tasks`)),
    table(["", "Task", "Waiting for", ""], rows, ""),
    more > 0 ? el("p", {}, `and ${more} more`) : null,
  );
}

// --- tasks ---

async function showTasks(asked) {
  const status = asked.get("status") || "";
  const search = asked.get("search") || "";
  const page = Number(asked.get("page") || 0);
  const { tasks } = await call("tasks.get_all_ex", {
    page,
    page_size: TASKS_PER_PAGE,
    order_by: ["-last_update"],
    search_hidden: false,
    only_fields: ["id", "name", "status", "status_reason", "status_message", "project.name", "last_worker", "last_iteration", "last_update", "active_duration"],
    ...(status ? { status: [status] } : {}),
    ...(search ? { _any_: { fields: ["name", "id"], pattern: search.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") } } : {}),
  });
  const go = (more) => (location.hash = `tasks&${new URLSearchParams({ status, search, page, ...more })}`);
  const rows = tasks.map((task) =>
    row(
      taskCell(task),
      state(task.status),
      el("td", { class: "text", title: noteOf(task) }, noteOf(task)),
      task.project?.name || "",
      task.last_worker || "",
      number(task.active_duration ? span(task.active_duration) : ""),
      number(task.last_iteration || ""),
      number(age(task.last_update)),
    ),
  );
  return [
    part("search", searchForm({ status, search }, go)),
    part(
      "tasks",
      table(["Task", "Status", "Reason", "Project", "Worker", "Ran for", "Iteration", "Last change"], rows, "No tasks here."),
      el(
        "div",
        { class: "buttons" },
        page > 0 ? el("button", { type: "button", onclick: () => go({ page: page - 1 }) }, "Newer") : null,
        tasks.length === TASKS_PER_PAGE ? el("button", { type: "button", onclick: () => go({ page: page + 1 }) }, "Older") : null,
      ),
    ),
  ];
}

function searchForm({ status, search }, go) {
  const option = (name) => el("option", { value: name, selected: name === status }, name.replace("_", " ") || "any status");
  const choose = (event) => go({ status: event.target.value, page: 0 });
  const select = el("select", { "aria-label": "status", onchange: choose }, ["", ...STATUSES].map(option));
  const input = el("input", { type: "search", value: search, placeholder: "name or id", "aria-label": "name or id" });
  const submit = (event) => {
    event.preventDefault();
    go({ search: input.value, page: 0 });
  };
  return el("form", { onsubmit: submit }, select, input, el("button", {}, "Search"));
}

const isStopping = (task) => task.status === "in_progress" && /^stopping/.test(task.status_message);
const noteOf = (task) => (isStopping(task) ? "stopping" : task.status_reason || task.status_message || "");

async function showTask(asked) {
  const id = asked.get("task");
  const [{ task }, curves, { queues }] = await Promise.all([
    call("tasks.get_by_id", { task: id }),
    call("events.scalar_metrics_iter_histogram", { task: id, samples: 300 }),
    call("queues.get_all", { only_fields: ["id", "name"], page_size: 100, order_by: ["name"] }),
  ]);
  followFrom(id, `${id} ${task.started || ""}`);
  document.title = `${task.name} · gpufleet`;
  return [
    part("title", el("h2", {}, task.name, state(task.status)), el("div", { class: "buttons" }, buttonsFor(task, queues))),
    consolePart,
    part("details", el("h2", {}, "Details"), details(task, queues)),
    ...curveList(curves),
  ];
}

function details(task, queues) {
  const facts = [
    ["Reason", noteOf(task)],
    ["Message", task.status_message === noteOf(task) ? "" : task.status_message],
    ["Worker", task.last_worker],
    ["Queue", queues.find((queue) => queue.id === task.execution?.queue)?.name],
    ["Created", moment(task.created)],
    ["Started", moment(task.started)],
    ["Ended", moment(task.completed)],
    ["Ran for", task.active_duration ? span(task.active_duration) : ""],
    ["Iteration", task.last_iteration ? String(task.last_iteration) : ""],
    ["Repository", task.script?.repository],
    ["Branch", task.script?.branch],
    ["Commit", task.script?.version_num],
    ["Script", task.script?.entry_point],
    ["Tags", (task.tags || []).join(", ")],
    ["Id", task.id],
  ];
  return el("dl", {}, facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function buttonsFor(task, queues) {
  const on = (...statuses) => statuses.includes(task.status);
  const target = el("select", { "aria-label": "queue" }, queues.map((queue) => el("option", { value: queue.id }, queue.name)));
  const enqueue = () => call("tasks.enqueue", { task: task.id, queue: target.value });
  const again = async () => {
    const { id } = await call("tasks.clone", { task: task.id });
    location.hash = `task=${id}`;
  };
  const erase = async () => {
    await call("tasks.delete", { task: task.id, force: true });
    location.hash = "tasks";
  };
  const abort = action(isStopping(task) ? "Aborting…" : "Abort", () => call("tasks.stop", { task: task.id }), { ask: `Abort “${task.name}”?`, look: "danger" });
  abort.disabled = isStopping(task);
  return [
    on("created", "stopped", "failed") && queues.length ? [target, action("Enqueue", enqueue, { look: "main" })] : null,
    on("queued") ? action("Take out of queue", () => call("tasks.dequeue", { task: task.id })) : null,
    on("in_progress") ? abort : null,
    on("stopped", "failed", "completed", "closed") ? action("Reset", () => call("tasks.reset", { task: task.id }), { ask: "Delete its console and results, and make it a draft again?" }) : null,
    action("Clone", again),
    on("in_progress") ? null : action("Delete", erase, { ask: `Delete “${task.name}” with its console and results?`, look: "danger" }),
  ];
}

// The console is asked for its end once, and from then on for what is not older than the last line: more lines of the
// same millisecond may still have come.

const consoleText = el("pre", { tabindex: 0, "aria-label": "console" });
const consolePart = part("console", el("h2", {}, "Console"), consoleText);
let followed = null;

function followFrom(task, run) {
  if (followed?.run === run) return;
  followed = { task, run, since: null, shown: 0, isAsking: false };
  consoleText.textContent = "";
  followConsole();
}

const stopConsole = () => (followed = null);

async function followConsole() {
  const one = followed;
  if (!one || one.isAsking) return;
  one.isAsking = true;
  try {
    while (followed === one && (await askForMore(one)));
    report("console", null);
  } catch (error) {
    report("console", isStranger(error) ? null : error); // the view asks for a login
  } finally {
    one.isAsking = false;
  }
}

async function askForMore(one) {
  const where = one.since === null ? { navigate_earlier: true } : { navigate_earlier: false, from_timestamp: one.since - 1 };
  const { events } = await call("events.get_task_log", { task: one.task, batch_size: CONSOLE_LINES, order: "asc", ...where });
  const fresh = events.slice(one.shown);
  if (followed !== one || !fresh.length) return false;
  one.since = events.at(-1).timestamp;
  one.shown = events.filter(({ timestamp }) => timestamp === one.since).length;
  const isAtEnd = consoleText.scrollHeight - consoleText.scrollTop - consoleText.clientHeight < 40;
  consoleText.append(fresh.map(({ msg }) => withoutControls(msg)).join(""));
  let length = consoleText.textContent.length;
  while (length > CONSOLE_CHARACTERS && consoleText.childNodes.length > 1) {
    length -= consoleText.firstChild.length;
    consoleText.firstChild.remove();
  }
  if (isAtEnd) consoleText.scrollTop = consoleText.scrollHeight;
  return where.navigate_earlier === false && events.length >= CONSOLE_LINES;
}

function withoutControls(message) {
  const text = message.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "");
  return text.endsWith("\n") ? text : `${text}\n`;
}

// --- curves ---

// The variants of a metric share a figure. What is reported about the machine (":monitor:…") comes last, and each variant
// by itself, because percents and megabytes have no axis in common.
function curveList(curves) {
  const isMachine = (metric) => metric.startsWith(":");
  const metrics = Object.keys(curves).sort((one, other) => isMachine(one) - isMachine(other) || one.localeCompare(other));
  const figures = metrics.flatMap((metric) => {
    const lines = Object.entries(curves[metric]).map(lineOf).filter(({ points }) => points.length);
    if (isMachine(metric)) return lines.map((line) => figure(`${metric} ${line.variant}`, [line]));
    const starts = lines.map((_, index) => index).filter((index) => index % CURVES_PER_FIGURE === 0);
    return starts.map((start) => figure(metric, lines.slice(start, start + CURVES_PER_FIGURE)));
  });
  return figures.length ? [part("scalars", el("h2", {}, "Scalars"), el("div", { class: "curves" }, figures))] : [];
}

function lineOf([variant, { x, y }]) {
  return { variant, points: x.map((place, index) => [place, y[index]]).filter(([, value]) => Number.isFinite(value)) };
}

function figure(title, lines) {
  const points = lines.flatMap((line) => line.points);
  const range = (index) => [Math.min(...points.map((point) => point[index])), Math.max(...points.map((point) => point[index]))];
  const [[left, right], [low, high]] = [range(0), range(1)];
  const place = ([x, y]) => `${(100 * (x - left)) / (right - left || 1)},${high > low ? 96 - (92 * (y - low)) / (high - low) : 50}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  lines.forEach((line, index) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const places = line.points.map(place);
    drawn.setAttribute("points", (places.length > 1 ? places : [...places, ...places]).join(" ")); // one point is a dot
    drawn.setAttribute("class", `ink${index}`);
    svg.append(drawn);
  });
  return el(
    "figure",
    {},
    el("figcaption", {}, title),
    el("div", { class: "scale up" }, el("span", {}, short(low)), el("span", {}, high > low ? short(high) : "")),
    svg,
    el("div", { class: "scale across" }, el("span", {}, short(left)), el("span", {}, right > left ? short(right) : "")),
    el("ul", {}, lines.map(({ variant, points }, index) => el("li", { class: `ink${index}` }, `${variant}: ${short(points.at(-1)[1])}`))),
  );
}

// --- showing it ---

async function summarise() {
  const [info, { workers }, queued, running] = await Promise.all([
    call("server.info"),
    call("workers.get_all", { last_seen: 600 }),
    call("tasks.get_all", { status: ["queued"], only_fields: ["id"], page_size: 500 }),
    call("tasks.get_all", { status: ["in_progress"], only_fields: ["id"], page_size: 500 }),
  ]);
  const busy = workers.filter((worker) => worker.task?.id).length;
  const count = ({ tasks }) => (tasks.length === 500 ? "500 or more" : tasks.length);
  const some = (amount, what) => `${amount} ${what}${amount === 1 ? "" : "s"}`;
  return `${some(workers.length, "worker")}, ${busy} busy · ${some(count(queued), "task")} waiting, ${count(running)} running · server ${info.version}`;
}

function show(name, parts, { spare = false } = {}) {
  const before = new Map([...view.children].map((one) => [one.dataset.part, one]));
  const isKept = (old, fresh) => old && (old.isEqualNode(fresh) || (spare && isInUse(old)));
  const wanted = parts.map((fresh) => (isKept(before.get(fresh.dataset.part), fresh) ? before.get(fresh.dataset.part) : fresh));
  view.className = name;
  if (wanted.length === view.children.length && wanted.every((one, index) => one.dataset.part === view.children[index].dataset.part)) {
    wanted.forEach((one, index) => one === view.children[index] || view.children[index].replaceWith(one));
  } else {
    view.replaceChildren(...wanted);
    consoleText.scrollTop = consoleText.scrollHeight;
  }
}

// Nothing is replaced under somebody's fingers.
function isInUse(place) {
  const active = document.activeElement;
  const isTyping = place.contains(active) && active.matches("input, select, button:focus-visible");
  const selection = getSelection();
  return isTyping || (!selection.isCollapsed && selection.containsNode(place, true));
}

const VIEWS = { fleet: showFleet, tasks: showTasks, task: showTask };
let turns = 0;
let refreshedAt = 0;
let eagerUntil = 0;

async function refresh({ spare = false } = {}) {
  const turn = ++turns;
  refreshedAt = Date.now();
  const asked = new URLSearchParams(location.hash.slice(1));
  const name = ["task", "tasks"].find((one) => asked.has(one)) ?? "fleet";
  if (name !== "task") {
    stopConsole();
    document.title = "gpufleet";
  }
  try {
    const [parts, text] = await Promise.all([VIEWS[name](asked), summarise()]);
    if (turn !== turns) return; // somebody went elsewhere meanwhile
    show(name, parts, { spare });
    summary.textContent = text;
    places.hidden = leave.hidden = false;
    for (const link of places.children) link.toggleAttribute("aria-current", link.hash === `#${name === "task" ? "tasks" : name}`);
    report("view", null);
  } catch (error) {
    if (turn !== turns) return;
    if (isStranger(error)) return showEntrance();
    if (error instanceof Refusal) show("nothing", []);
    report("view", error);
  }
}

addEventListener("hashchange", () => {
  errorOf.clear();
  scrollTo(0, 0);
  refresh();
});
const isWatched = () => !document.hidden && view.className !== "entrance";
document.addEventListener("visibilitychange", () => isWatched() && refresh({ spare: true }));
setInterval(() => {
  if (!isWatched()) return;
  followConsole();
  if (Date.now() < eagerUntil || Date.now() - refreshedAt >= REFRESH_MS) refresh({ spare: true });
}, TICK_MS);
refresh();
