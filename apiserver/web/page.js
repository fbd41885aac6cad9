// The page of the server: workers, queues, tasks. It uses the public endpoints only, and shows what it is told as text, never
// as HTML. The address behind the # says what is shown, so that it can be bookmarked; everything is asked again from time to
// time while somebody looks.

const REFRESH_MS = 10_000;
const CONSOLE_MS = 2_000;
const TASKS_PER_PAGE = 50;
const CONSOLE_LINES = 500;
const QUEUE_ENTRIES_SHOWN = 100;
const STATUSES = ["created", "queued", "in_progress", "stopped", "failed", "completed", "closed", "published"];

const view = document.getElementById("view");

// --- asking the server ---

class Refusal extends Error {
  constructor(meta) {
    super(meta.result_msg);
    this.code = meta.result_code;
  }
}

async function call(endpoint, body = {}) {
  const reply = await fetch(`/${endpoint}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const { meta, data } = await reply.json();
  if (reply.status === 401) location.reload(); // the server asks for the credentials again
  if (!reply.ok) throw new Refusal(meta);
  return data;
}

async function optional(endpoint, body) {
  try {
    return await call(endpoint, body);
  } catch (error) {
    if (error instanceof Refusal && error.code === 404) return null;
    throw error;
  }
}

function complain(error) {
  const place = document.getElementById("problem");
  place.hidden = !error;
  place.textContent = error ? String(error.message || error) : "";
}

// --- building pieces ---

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function table(titles, rows, nothing) {
  const body = rows.length ? rows : [el("tr", {}, el("td", { class: "none", colspan: titles.length }, nothing))];
  const head = el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)));
  return el("div", { class: "wide" }, el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
}

const row = (...cells) => el("tr", {}, cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : el("td", {}, cell))));
const state = (name, shown = name) => el("span", { class: `state ${name}` }, shown);
const taskLink = (task) => (task?.id ? el("a", { href: `#task=${task.id}` }, task.name || task.id) : "");

function action(label, doIt, { ask } = {}) {
  const press = async () => {
    if (ask && !confirm(ask)) return;
    try {
      await doIt();
      complain(null);
    } catch (error) {
      complain(error);
    }
    await refresh();
  };
  return el("button", { type: "button", onclick: press }, label);
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
const short = (number) => (Number.isFinite(number) ? String(+number.toPrecision(5)) : "");

// --- the fleet: workers and queues ---

async function showFleet() {
  const [{ workers }, { queues }] = await Promise.all([
    call("workers.get_all", { last_seen: 3600 }),
    call("queues.get_all_ex", { max_task_entries: QUEUE_ENTRIES_SHOWN, page_size: 100, order_by: ["name"] }),
  ]);
  const properties = await optional("workers.get_runtime_properties", { worker: "" }).catch(() => ({}));
  const force = properties !== null;
  const gpus = workers.some((worker) => worker.machine_stats?.gpu_usage);
  return [
    el("h2", {}, "Workers"),
    table(
      ["Worker", "State", "Task", "Running for", "Iteration", "Queues", ...(gpus ? ["GPUs"] : []), "Heard of", ""],
      workers.map((worker) => workerRow(worker, { force, gpus })),
      "No worker has reported within the last hour.",
    ),
    el("h2", {}, "Queues"),
    table(
      ["Queue", "Waiting", "Oldest", "Workers", "Tags", ""],
      queues.map(queueRow),
      "There are no queues.",
    ),
    newQueue(),
    ...queues.filter((queue) => queue.entries.length).flatMap(entriesOf),
  ];
}

function workerRow(worker, { force, gpus }) {
  const lost = Date.now() - Date.parse(worker.last_activity_time) > 120_000;
  const name = lost ? "lost" : worker.task?.id ? "busy" : "idle";
  const twice = (worker.system_tags || []).includes("duplicate-id");
  const set = (value) => () =>
    call("workers.set_runtime_properties", { worker: worker.id, runtime_properties: [{ key: "force", value, expiry: 86400 }] });
  return row(
    el("td", { title: worker.ip || "" }, worker.id, twice ? el("span", { class: "warning" }, " (two report under this name)") : ""),
    state(name),
    taskLink(worker.task),
    worker.task?.running_time ? span(worker.task.running_time / 1000) : "",
    worker.task?.last_iteration ?? "",
    (worker.queues || []).map((queue) => queue.name || queue.id).join(", "),
    ...(gpus ? [gpuText(worker.machine_stats)] : []),
    age(worker.last_activity_time),
    el(
      "td",
      {},
      force && name !== "lost" ? [action("Pause for a day", set("off")), action("Resume", set("on"))] : null,
      worker.task?.id ? action("Stop task", () => call("tasks.stop", { task: worker.task.id }), { ask: "Stop this task?" }) : null,
      name === "lost" ? action("Forget", () => call("workers.unregister", { worker: worker.id })) : null,
    ),
  );
}

function gpuText(stats) {
  const usage = stats?.gpu_usage;
  if (!Array.isArray(usage)) return "";
  return usage.map((percent, index) => `${Math.round(percent)} % ${short(stats.gpu_temperature?.[index])} °C`).join(", ");
}

function queueRow(queue) {
  const waiting = queue.num_entries ?? queue.entries.length;
  const unwatched = waiting && !queue.workers.length;
  return row(
    queue.display_name || queue.name,
    String(waiting),
    age(queue.entries[0]?.added),
    unwatched ? el("span", { class: "warning" }, "nobody listens") : String(queue.workers.length),
    (queue.tags || []).join(", "),
    waiting
      ? action("Clear", () => call("queues.clear_queue", { queue: queue.id }), { ask: `Take all ${waiting} tasks out of ${queue.name}?` })
      : action("Delete", () => call("queues.delete", { queue: queue.id }), { ask: `Delete the queue ${queue.name}?` }),
  );
}

function newQueue() {
  const name = el("input", { required: true, minlength: 3, placeholder: "name of a new queue", "aria-label": "name of a new queue" });
  const submit = async (event) => {
    event.preventDefault();
    await call("queues.create", { name: name.value }).then(() => complain(null), complain);
    name.value = "";
    await refresh();
  };
  return el("form", { onsubmit: submit }, name, el("button", {}, "Create"));
}

function entriesOf(queue) {
  const move = (endpoint, task) => () => call(`queues.${endpoint}`, { queue: queue.id, task });
  const rows = queue.entries.map(({ task, added }, index) =>
    row(
      String(index + 1),
      taskLink(task),
      age(added),
      el(
        "td",
        {},
        action("To top", move("move_task_to_front", task.id)),
        action("Up", move("move_task_forward", task.id)),
        action("Down", move("move_task_backward", task.id)),
        action("Take out", () => call("tasks.dequeue", { task: task.id })),
      ),
    ),
  );
  const more = (queue.num_entries ?? 0) - rows.length;
  return [
    el("h2", {}, `Waiting in ${queue.display_name || queue.name}`),
    table(["", "Task", "Waiting for", ""], rows, ""),
    more > 0 ? el("p", {}, `and ${more} more`) : null,
  ];
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
    only_fields: ["id", "name", "status", "status_message", "project.name", "last_worker", "last_iteration", "last_update", "active_duration"],
    ...(status ? { status: [status] } : {}),
    ...(search ? { _any_: { fields: ["name", "id"], pattern: search.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") } } : {}),
  });
  const go = (more) => (location.hash = `tasks&${new URLSearchParams({ status, search, page, ...more })}`);
  const option = (name) => el("option", { value: name, selected: name === status }, name || "any status");
  const select = el("select", { "aria-label": "status", onchange: (event) => go({ status: event.target.value, page: 0 }) }, ["", ...STATUSES].map(option));
  const input = el("input", { type: "search", value: search, placeholder: "name or id", "aria-label": "name or id" });
  const submit = (event) => {
    event.preventDefault();
    go({ search: input.value, page: 0 });
  };
  const rows = tasks.map((task) =>
    row(
      taskLink(task),
      state(task.status),
      el("td", { class: "text" }, task.status_message || ""),
      task.project?.name || "",
      task.last_worker || "",
      task.active_duration ? span(task.active_duration) : "",
      String(task.last_iteration || ""),
      age(task.last_update),
    ),
  );
  return [
    el("form", { onsubmit: submit }, select, input, el("button", {}, "Search")),
    table(["Task", "Status", "Message", "Project", "Worker", "Ran for", "Iteration", "Last sign"], rows, "No tasks here."),
    page > 0 ? el("button", { type: "button", onclick: () => go({ page: page - 1 }) }, "Newer") : null,
    tasks.length === TASKS_PER_PAGE ? el("button", { type: "button", onclick: () => go({ page: page + 1 }) }, "Older") : null,
  ];
}

async function showTask(asked) {
  const id = asked.get("task");
  const [{ task }, curves, { queues }] = await Promise.all([
    call("tasks.get_by_id", { task: id }),
    call("events.scalar_metrics_iter_histogram", { task: id, samples: 300 }),
    call("queues.get_all", { only_fields: ["id", "name"], page_size: 100, order_by: ["name"] }),
  ]);
  const facts = [
    ["Id", task.id],
    ["Status", state(task.status)],
    ["Reason", task.status_reason],
    ["Message", task.status_message],
    ["Worker", task.last_worker],
    ["Queue", queues.find((queue) => queue.id === task.execution?.queue)?.name],
    ["Ran for", task.active_duration ? span(task.active_duration) : ""],
    ["Code", [task.script?.repository, task.script?.branch, task.script?.version_num, task.script?.entry_point].filter(Boolean).join(" · ")],
    ["Tags", (task.tags || []).join(", ")],
  ];
  if (consoleOf !== id) startConsole(id);
  return [
    el("h2", {}, task.name),
    el("dl", {}, facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    el("p", {}, buttonsFor(task, queues)),
    el("h2", {}, "Console"),
    consoleText,
    curveList(curves),
  ];
}

function buttonsFor(task, queues) {
  const on = (status) => task.status === status;
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
  return [
    on("created") || on("stopped") || on("failed") ? [target, action("Enqueue", enqueue)] : null,
    on("queued") ? action("Take out of queue", () => call("tasks.dequeue", { task: task.id })) : null,
    on("in_progress") ? action("Abort", () => call("tasks.stop", { task: task.id }), { ask: "Abort this task?" }) : null,
    on("created") || on("published") ? null : action("Reset", () => call("tasks.reset", { task: task.id }), { ask: "Delete its results and make it a draft?" }),
    action("Clone", again),
    action("Delete", erase, { ask: "Delete this task with its console and results?" }),
  ];
}

// The console is asked for its end once, and from then on only for what is younger than the last line.

const consoleText = el("pre", { tabindex: 0, "aria-label": "console" });
let consoleOf = null;
let consoleSince = null;
let consoleIsAsking = false;

function startConsole(id) {
  consoleOf = id;
  consoleSince = null;
  consoleText.textContent = "";
  followConsole().catch(complain);
}

async function followConsole() {
  const id = consoleOf;
  if (!id || consoleIsAsking) return;
  consoleIsAsking = true;
  const more = consoleSince === null ? { navigate_earlier: true } : { navigate_earlier: false, from_timestamp: consoleSince };
  const asked = call("events.get_task_log", { task: id, batch_size: CONSOLE_LINES, order: "asc", ...more });
  const { events } = await asked.finally(() => (consoleIsAsking = false));
  if (consoleOf !== id || !events.length) return;
  consoleSince = events.at(-1).timestamp;
  const atEnd = consoleText.scrollHeight - consoleText.scrollTop - consoleText.clientHeight < 40;
  consoleText.append(events.map(({ msg }) => withoutControls(msg)).join(""));
  if (atEnd) consoleText.scrollTop = consoleText.scrollHeight;
}

function withoutControls(message) {
  const text = message.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "");
  return text.endsWith("\n") ? text : `${text}\n`;
}

function curveList(curves) {
  const figures = Object.entries(curves).flatMap(([metric, variants]) =>
    Object.entries(variants).map(([variant, { x, y }]) => curve(`${metric} / ${variant}`, x, y)),
  );
  return figures.length ? [el("h2", {}, "Scalars"), el("div", { class: "curves" }, figures)] : null;
}

function curve(title, x, y) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const scale = (values) => {
    const low = Math.min(...values);
    const size = Math.max(...values) - low || 1;
    return (value) => (value - low) / size;
  };
  const [across, up] = [scale(x), scale(y)];
  line.setAttribute("points", x.map((place, index) => `${across(place) * 100},${97 - up(y[index]) * 94}`).join(" "));
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.append(line);
  const range = `${short(Math.min(...y))} … ${short(Math.max(...y))}, last ${short(y.at(-1))} at ${x.at(-1)}`;
  return el("figure", {}, el("figcaption", {}, `${title}: ${range}`), svg);
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
  const count = (tasks) => (tasks.length === 500 ? "500 or more" : tasks.length);
  document.getElementById("summary").textContent =
    `${workers.length} workers, ${busy} busy · ${count(queued.tasks)} tasks waiting, ${count(running.tasks)} running · server ${info.version}`;
}

async function refresh() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const show = asked.has("task") ? showTask : asked.has("tasks") ? showTasks : showFleet;
  if (show !== showTask) consoleOf = null;
  const where = location.hash;
  try {
    const [pieces] = await Promise.all([show(asked), summarise()]);
    if (location.hash !== where) return; // somebody went elsewhere meanwhile
    const place = consoleText.scrollTop;
    view.replaceChildren(...pieces.flat(2).filter(Boolean));
    consoleText.scrollTop = place;
    complain(null);
  } catch (error) {
    complain(error);
  }
}

// A view is not rebuilt under somebody's fingers.
const isBusy = () => document.hidden || view.contains(document.activeElement?.closest("input, select"));

addEventListener("hashchange", refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => isBusy() || refresh(), REFRESH_MS);
setInterval(() => document.hidden || followConsole().catch(complain), CONSOLE_MS);
refresh();
