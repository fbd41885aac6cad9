"""How agents take tasks, run them and say how they ended, as a model that can be explored to its last state.

Two agents, each with a disk, take tasks from one queue of one server; a person and accidents interfere at any moment.
`steps` gives everything that can happen next. What is on which side, and what the model leaves out:

| part of the state | stands for                                                     | survives           |
|-------------------|----------------------------------------------------------------|--------------------|
| `Task`, `queue`   | the server's database                                          | everything         |
| `Run`             | a run directory: claim.json, launch.json, stop.json, outcome   | crash and reboot   |
| `Run.executor`    | the executor, by its lock on executor.lock; `user`: the task   | crash of the agent |
| `Agent`           | memory of the daemon: where in the code it is                  | nothing            |

| at              | what happens next                                           | code                             |
|-----------------|-------------------------------------------------------------|----------------------------------|
| down            | starts; looks whether a run was left                        | recovery.recover                 |
| found           | adopts, reports, gives back or forgets it                   | recovery._settle                 |
| idle            | sees a task, writes the claim                               | claim.claim_task                 |
| claim_written   | pops it                                                     | claim.pop_for                    |
| pop_doubtful    | looks what became of a pop without a reply                  | claim.pop_for, is_orphan         |
| popped          | writes that it holds the task                               | claim.claim_task                 |
| claim_held      | looks whether the task is still queued                      | claim.confirm                    |
| task_written    | tells the server that it starts; gives back if it leaves    | start.start_on_server            |
| start_doubtful  | looks what became of a start without a reply                | start.start_on_server            |
| start_told      | writes that, launches the executor                          | lifecycle.launch, host.launch    |
| watching        | sees that the task has to end, or that the executor is gone | lifecycle.see_through, abort     |
| exit_written    | looks whether the task still is its own to report           | report.report                    |
| reporting       | writes the final status                                     | report.report                    |
| giving_back     | queues the task again                                       | give_back.put_back               |
| give_doubtful   | looks what became of that without a reply                   | give_back.put_back               |
| given_back      | moves the task to the front, forgets the run                | give_back.put_back, give_back    |

Simplifications, each with the reason why nothing is lost by it: A step on an agent's own disk (`LOCAL`) is taken before
anybody else moves, since others cannot see it; the agent may die before it. A look and the write that rests on it
(`AFTER_A_LOOK`) are not parted either, except with `Rules.parts_look_and_write`: the API has no conditional write, so
that what happens in these milliseconds cannot be excluded; dying between them is possible. Only the start is
conditional on our server, and there anything may come between. A request acts before its sender gives it up, or never.
Numbers of accidents are limited by `Budget`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agent.states import RunPhase, TaskStatus
from agent.steps import Step

CREATED, QUEUED, IN_PROGRESS = TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS
STOPPED, COMPLETED, FAILED = TaskStatus.STOPPED, TaskStatus.COMPLETED, TaskStatus.FAILED
CLAIMING, CLAIMED, STARTED = RunPhase.CLAIMING, RunPhase.CLAIMED, RunPhase.STARTED
EXITED, REPORTED = RunPhase.EXITED, RunPhase.REPORTED

STOPPING = "stopping"
NOBODY = -1
AGENTS = "AB"

LOCAL = frozenset({"popped", "start_told", "start_written", "stop_seen", "stop_written", "executor_gone", "end_told"})
AFTER_A_LOOK = frozenset({"task_written", "reporting", "giving_back"})
CONDITIONAL = frozenset({"task_written"})


class Task(NamedTuple):
    """What the server knows of a task. `message` is the worker that signed the status, or "stopping"; `start` is the
    time of its last start, which tells one start from another.

    `holder` is whose pop took it last, until anything is heard of it: the lease of our server. A ClearML Server does
    not know it; there it is for the invariants only, as the last four are everywhere.
    """

    status: str = QUEUED
    message: str = ""
    start: int = 0
    holder: int = NOBODY
    life: int = 0  # how often a person has queued it
    fate: str = ""  # how its process ended in this life
    said: str = ""  # the status that a person wrote last
    asked: bool = False  # a person wants it to end


class Run(NamedTuple):
    """A run directory, and the processes that work in it. `start` is in the claim, `life` only for the invariants."""

    task: int
    phase: str = CLAIMING
    launched: bool = False
    stop: str = ""
    told: bool = False  # the executor has got TERM
    outcome: str = ""
    executor: str = ""  # begun, launched, running
    user: bool = False
    lease: bool = False  # executor and user hold the GPU
    start: int = 0
    life: int = NOBODY


class Agent(NamedTuple):
    """A daemon. `force` and `cause` are variables of the function it is in; `lease`: it holds the GPU itself.

    `unwritten`: a task that it has popped and that is not on its disk, which only a mistake brings about.
    """

    at: str = "idle"
    force: bool = False
    cause: str = ""
    lease: bool = False
    unwritten: int = NOBODY


class Budget(NamedTuple):
    """How much may still go wrong."""

    crashes: int = 0
    losses: int = 0
    acts: int = 0


class State(NamedTuple):
    """Everything. `queue` None: it was deleted. `strays`: processes that nobody has a run directory of any more."""

    tasks: tuple[Task, ...]
    queue: tuple[int, ...] | None
    agents: tuple[Agent, ...]
    disks: tuple[Run | None, ...]
    budget: Budget
    strays: int = 0


class Rules(NamedTuple):
    """Which server, which host, and the safeguards of the protocol; tests take them away one by one."""

    repeatable_pop: bool = True  # our server; False: a ClearML Server with a named pop
    one_gpu: bool = False  # both agents are on one host, and each task needs its only GPU
    parts_look_and_write: bool = False

    claims_before_pop: bool = True
    syncs_the_claim: bool = True
    pops_by_name: bool = True
    looks_before_start: bool = True
    starts_by_claim: bool = True
    looks_for_the_entry: bool = True
    looks_before_repeated_start: bool = True
    looks_before_report: bool = True
    tells_starts_apart: bool = True
    looks_before_repeated_give_back: bool = True
    gives_back_only_what_is_ours: bool = True
    keeps_an_abort: bool = True
    adopts_by_lock: bool = True
    ends_what_is_left: bool = True
    hands_on_the_gpu: bool = True
    one_daemon_per_id: bool = True


Found = Iterator[tuple[str, State]]


def begin(tasks: int, agents: int, budget: Budget) -> State:
    """All tasks wait, all agents are up."""
    return State(
        tasks=(Task(),) * tasks,
        queue=tuple(range(tasks)),
        agents=(Agent(),) * agents,
        disks=(None,) * agents,
        budget=budget,
    )


def steps(state: State, rules: Rules) -> Found:
    """Everything that can happen next. A label names who does it; those of agents and executors begin with a `Step`."""
    for me, agent in enumerate(state.agents):
        if agent.at in LOCAL or (agent.at in AFTER_A_LOOK and not _may_be_parted(agent, rules)):
            yield from _named(me, _agent(state, rules, me))
            yield from _named(me, _agent_dies(state, rules, me))
            return
    for me in range(len(state.agents)):
        yield from _named(me, _agent(state, rules, me))
        yield from _named(me, _executor(state, rules, me))
        yield from _named(me, _agent_dies(state, rules, me))
        yield from _named(me, _executor_dies(state, me))
    yield from _server(state, rules)
    yield from _person(state, rules)


def _may_be_parted(agent: Agent, rules: Rules) -> bool:
    return rules.parts_look_and_write or (rules.repeatable_pop and agent.at in CONDITIONAL)


def is_fair(label: str) -> bool:
    """Whether this happens without any accident or person: by such steps alone, all has to come to an end."""
    return not any(word in label for word in ("dies", "reboots", "lost", "as it leaves", "hours", "person"))


def _named(me: int, found: Found) -> Found:
    for label, state in found:
        yield f"{AGENTS[me]} {label}", state


# --- changing a state


def home(rules: Rules, me: int) -> int:
    """The disk, and the worker id, of an agent."""
    return me if rules.one_daemon_per_id else 0


def _task(state: State, task: int, **changes: Any) -> State:
    tasks = state.tasks
    return state._replace(tasks=(*tasks[:task], tasks[task]._replace(**changes), *tasks[task + 1 :]))


def _goes(state: State, me: int, at: str, **changes: Any) -> State:
    agents = state.agents
    if at == "idle":
        changes = {"force": False, "cause": "", "lease": False}
    return state._replace(agents=(*agents[:me], agents[me]._replace(at=at, **changes), *agents[me + 1 :]))


def _disk(state: State, disk: int, run: Run | None) -> State:
    return state._replace(disks=(*state.disks[:disk], run, *state.disks[disk + 1 :]))


def _spend(state: State, what: str) -> State:
    return state._replace(budget=state.budget._replace(**{what: getattr(state.budget, what) - 1}))


def _sent(state: State, acted: State, *, answered: State, doubtful: str, me: int) -> Found:
    """A request that changes something: it is answered, or the reply is lost after or before it acted."""
    yield "", answered
    if state.budget.losses:
        yield ", reply lost", _goes(_spend(acted, "losses"), me, doubtful)
        yield ", request lost", _goes(_spend(state, "losses"), me, doubtful)


# --- the server (apiserver/store/popping.py, task_status.py)


def _in_queue(state: State, task: int) -> bool:
    return state.queue is not None and task in state.queue


def _out_of_queue(state: State, task: int) -> State:
    if not _in_queue(state, task):
        return state
    assert state.queue is not None
    return state._replace(queue=tuple(other for other in state.queue if other != task))


def _pop(state: State, rules: Rules, task: int, worker: int) -> State | None:
    """popping.pop of a named task: None if it is not the caller's."""
    if _in_queue(state, task):
        return _task(_out_of_queue(state, task), task, holder=worker)
    if rules.repeatable_pop and state.tasks[task].holder == worker:
        return state
    return None


def _start(state: State, rules: Rules, task: int, worker: int) -> State | None:
    """task_status.start: None if the table of states forbids it, or on our server what was heard since the pop. A
    ClearML Server leaves the entry in the queue.
    """
    if rules.repeatable_pop and rules.looks_before_start and rules.starts_by_claim:
        is_of_another = _in_queue(state, task) or state.tasks[task].holder not in (worker, NOBODY)
        if state.tasks[task].status != QUEUED or is_of_another:
            return None
    forbidden = (FAILED, "gone") if rules.looks_before_start else ("gone",)  # the mistake starts by force
    if state.tasks[task].status in forbidden:
        return None
    state = _out_of_queue(state, task) if rules.repeatable_pop else state
    start = state.tasks[task].start + (state.tasks[task].status != IN_PROGRESS)
    return _task(state, task, status=IN_PROGRESS, message=AGENTS[worker], start=start, holder=NOBODY)


def _end(state: State, task: int, status: str, worker: int) -> State | None:
    """task_status.end: None if the table of states forbids it."""
    allowed = (QUEUED, IN_PROGRESS, FAILED, STOPPED) if status == STOPPED else (IN_PROGRESS, STOPPED, status)
    if state.tasks[task].status not in allowed:
        return None
    return _task(state, task, status=status, message=AGENTS[worker], holder=NOBODY)


def _enqueue(state: State, task: int, *, force: bool) -> State | None:
    """task_status.enqueue of an agent: None if it is refused, the same state if the task waits already."""
    if state.tasks[task].status == "gone" or state.queue is None:
        return None
    if not force and state.tasks[task].status in (IN_PROGRESS, COMPLETED):
        return None
    if _in_queue(state, task):
        return state
    state = state._replace(queue=(*(state.queue or ()), task))
    return _task(state, task, status=QUEUED, message="", holder=NOBODY)


def _server(state: State, rules: Rules) -> Found:
    """Housekeeping of our server: a pop of which nothing was heard is undone, and a queued task is in a queue."""
    if not rules.repeatable_pop:
        return
    for number, task in enumerate(state.tasks):
        if task.status != QUEUED or _in_queue(state, number):
            continue
        if state.queue is None:
            yield f"server: task {number} is a draft, as its queue is gone", _task(state, number, status=CREATED)
        else:
            back = state._replace(queue=(number, *state.queue))
            yield f"server: task {number} goes back, its lease is over", _task(back, number, holder=NOBODY)


# --- people


def _person(state: State, rules: Rules) -> Found:
    if not state.budget.acts:
        return
    state = _spend(state, "acts")
    for number, task in enumerate(state.tasks):
        for what, after in _acts(state, number, task):
            yield f"person: {what} task {number}", after
    if state.queue is not None:
        yield "person: deletes the queue", _delete_queue(state, rules)


def _acts(state: State, number: int, task: Task) -> Found:
    out = _task(_out_of_queue(state, number), number, holder=NOBODY)
    match task.status:
        case TaskStatus.CREATED | TaskStatus.STOPPED | TaskStatus.FAILED if state.queue is not None:
            queued = out._replace(queue=(*(state.queue or ()), number))
            fresh = {"status": QUEUED, "message": "", "life": task.life + 1, "fate": "", "said": "", "asked": False}
            yield "enqueues", _task(queued, number, **fresh)
        case TaskStatus.QUEUED:
            yield "aborts", _task(out, number, status=STOPPED, message="", said=STOPPED)
            yield "dequeues", _task(out, number, status=CREATED, message="", said=CREATED)
        case TaskStatus.IN_PROGRESS:
            if task.message != STOPPING:
                yield "aborts", _task(state, number, message=STOPPING, asked=True)
            yield "marks as stopped", _task(out, number, status=STOPPED, message="", said=STOPPED)
    if task.status not in (CREATED, "gone"):
        yield "resets", _task(out, number, status=CREATED, message="", said=CREATED)
    if task.status != "gone":
        yield "deletes", _task(out, number, status="gone", message="", said="gone")


def _delete_queue(state: State, rules: Rules) -> State:
    """routes/queues.delete: what waits becomes a draft, leases end."""
    for number in range(len(state.tasks)):
        if _in_queue(state, number):
            state = _task(state, number, status=CREATED, message="", said=CREATED)
        elif rules.repeatable_pop:
            state = _task(state, number, holder=NOBODY)
    return state._replace(queue=None)


# --- accidents


def _agent_dies(state: State, rules: Rules, me: int) -> Found:
    """kill -9 of the daemon; or the host goes down, and with it the executor and the task."""
    if not state.budget.crashes or state.agents[me].at == "down":
        return
    dead = _goes(_spend(state, "crashes"), me, "down", force=False, cause="", lease=False, unwritten=NOBODY)
    yield "dies", dead
    run = state.disks[home(rules, me)]
    if run is not None and run.phase == CLAIMING and not rules.syncs_the_claim:
        yield "reboots", _disk(dead, me, None)
    elif run is not None and (run.executor or run.user):
        ended = _fate(dead, run, "died") if run.executor else dead
        yield "reboots", _disk(ended, home(rules, me), run._replace(executor="", user=False))


def _executor_dies(state: State, me: int) -> Found:
    run = state.disks[me]
    if run is not None and run.executor and state.budget.crashes:
        yield "executor dies", _disk(_fate(_spend(state, "crashes"), run, "died"), me, run._replace(executor=""))


# --- the executor (agent/executor/lifecycle.py)


def _executor(state: State, rules: Rules, me: int) -> Found:
    run = state.disks[me]
    if run is None:
        return
    match run.executor:
        case "begun":
            yield Step.LAUNCH_WRITTEN, _disk(state, me, run._replace(executor="launched", launched=True))
        case "launched":
            yield Step.PROCESS_WRITTEN, _disk(state, me, run._replace(executor="running", user=True))
            yield from _outcomes(state, me, run, "failed")
        case "running":
            yield from _outcomes(state, me, run, "failed", "done")
        case "" if run.user:
            yield Step.PROCESS_ENDED, _disk(state, me, run._replace(user=False))


def _outcomes(state: State, me: int, run: Run, *ends: str) -> Found:
    for end in ("stopped",) if run.told else ends:
        ended = run._replace(executor="", user=False, outcome=end)
        yield f"{Step.OUTCOME_WRITTEN}: {end}", _disk(_fate(state, run, end), me, ended)


def _fate(state: State, run: Run, fate: str) -> State:
    return _task(state, run.task, fate=fate) if state.tasks[run.task].life == run.life else state


# --- the agent


def _agent(state: State, rules: Rules, me: int) -> Found:
    agent = state.agents[me]
    if agent.at in ("idle", "down"):
        yield from _idle(state, rules, me) if agent.at == "idle" else _restart(state, rules, me)
        return
    if agent.at == "unwritten":
        written = _disk(state, home(rules, me), Run(agent.unwritten, phase=CLAIMED))
        yield Step.CLAIM_WRITTEN, _goes(written, me, "claim_held", unwritten=NOBODY)
        return
    run = state.disks[home(rules, me)]
    if run is None:  # only where another daemon of the same id has removed it
        yield "finds its run gone", _goes(state, me, "idle")
        return
    yield from _IN_CODE[agent.at](state, rules, me, run)


def _forget(state: State, rules: Rules, me: int) -> State:
    run = state.disks[home(rules, me)]
    if run is not None and (run.executor or run.user):
        state = state._replace(strays=state.strays + 1)
    return _goes(_disk(state, home(rules, me), None), me, "idle")


def _idle(state: State, rules: Rules, me: int) -> Found:
    """Whatever waits may have been the head of the queue when it was looked at."""
    disk = home(rules, me)
    if state.disks[disk] is not None or (rules.one_gpu and _gpu_is_taken(state)):
        return
    for task in state.queue or ():
        claimed = _goes(_disk(state, disk, Run(task)), me, "claim_written", lease=rules.one_gpu)
        if rules.claims_before_pop:
            yield Step.CLAIM_WRITTEN, claimed
        elif (popped := _pop(state, rules, task, disk)) is not None:
            yield Step.POPPED, _goes(popped, me, "unwritten", unwritten=task)


def _gpu_is_taken(state: State) -> bool:
    """leases.Leases.take: whether anybody holds the descriptor."""
    by_agent = any(agent.lease for agent in state.agents)
    return by_agent or any(run is not None and run.lease and (run.executor or run.user) for run in state.disks)


def _restart(state: State, rules: Rules, me: int) -> Found:
    """The lock on the worker id lets one daemon at a time in, which here is the same agent again."""
    found = state.disks[home(rules, me)] is not None
    yield (Step.FOUND if found else "starts"), _goes(state, me, "found" if found else "idle")


def _claim_written(state: State, rules: Rules, me: int, run: Run) -> Found:
    disk, task = home(rules, me), run.task
    if not rules.pops_by_name:
        yield from _plain_pop(state, rules, me)
        return
    popped = _pop(state, rules, task, disk)
    if popped is None:
        yield "does not get it", _forget(state, rules, me)
        return
    doubtful = "claim_written" if rules.repeatable_pop else "pop_doubtful"
    answered = _goes(popped, me, "popped")
    for what, after in _sent(state, popped, answered=answered, doubtful=doubtful, me=me):
        yield f"{Step.POPPED}{what}", after


def _plain_pop(state: State, rules: Rules, me: int) -> Found:
    """A mistake: the plain pop, sent again when its reply was lost."""
    if not state.queue:
        yield "gets nothing", _forget(state, rules, me)
        return
    popped = _pop(state, rules, state.queue[0], home(rules, me))
    assert popped is not None
    answered = _goes(_disk(popped, home(rules, me), Run(state.queue[0])), me, "popped")
    for what, after in _sent(state, popped, answered=answered, doubtful="claim_written", me=me):
        yield f"{Step.POPPED}{what}", after


def _pop_doubtful(state: State, rules: Rules, me: int, run: Run) -> Found:
    """Only on a ClearML Server."""
    if _another_is_about_to_start(state, rules, run.task, home(rules, me)):
        return
    if _in_queue(state, run.task):
        yield "pops again", _goes(state, me, "claim_written")
    elif state.tasks[run.task].status == QUEUED:
        yield f"{Step.POPPED}, as nobody else has", _goes(state, me, "popped")
    else:
        yield "does not get it", _forget(state, rules, me)


def _another_is_about_to_start(state: State, rules: Rules, task: int, worker: int) -> bool:
    """claim.is_orphan waits: whoever else has popped it starts it within that time, or is dead (a ClearML Server)."""
    other = state.tasks[task].holder
    if rules.repeatable_pop or other in (NOBODY, worker) or state.tasks[task].status != QUEUED:
        return False
    run = state.disks[other]
    return run is not None and run.task == task and state.agents[other].at not in ("down", "found")


def _popped(state: State, rules: Rules, me: int, run: Run) -> Found:
    held = _disk(state, home(rules, me), run._replace(phase=CLAIMED))
    yield Step.CLAIM_HELD, _goes(held, me, "claim_held")


def _claim_held(state: State, rules: Rules, me: int, run: Run) -> Found:
    """On a ClearML Server, a start would leave an entry of the task in the queue; so nobody starts what has one."""
    is_back = _in_queue(state, run.task) and not rules.repeatable_pop and rules.looks_for_the_entry
    if rules.looks_before_start and (state.tasks[run.task].status != QUEUED or is_back):
        yield "leaves it alone", _forget(state, rules, me)
    else:
        yield Step.TASK_WRITTEN, _goes(state, me, "task_written")


def _task_written(state: State, rules: Rules, me: int, run: Run) -> Found:
    disk = home(rules, me)
    started = _start(state, rules, run.task, disk)
    if started is None:
        yield "may not start it", _forget(state, rules, me)
        return
    answered = _goes(started, me, "start_told")
    for what, after in _sent(state, started, answered=answered, doubtful="start_doubtful", me=me):
        yield f"{Step.START_TOLD}{what}", after
    if state.budget.crashes:
        leaving = _goes(_spend(state, "crashes"), me, "giving_back", force=False)
        yield f"{Step.GIVING_BACK}, as it leaves", leaving


def _start_doubtful(state: State, rules: Rules, me: int, run: Run) -> Found:
    disk, task = home(rules, me), state.tasks[run.task]
    if not rules.looks_before_repeated_start:
        yield "starts it again", _goes(state, me, "task_written")
    elif task.status == IN_PROGRESS and task.message == STOPPING:
        ended = _end(state, run.task, STOPPED, disk)
        assert ended is not None
        yield "confirms the abort", _forget(ended, rules, me)
    elif task.status == IN_PROGRESS and task.message == AGENTS[disk]:
        yield f"{Step.START_TOLD}, as it sees", _goes(state, me, "start_told")
    elif (ours := _still_ours(state, rules, run.task, disk)) is not None:
        yield "starts it again", _goes(ours, me, "task_written")
    else:
        yield "may not start it", _forget(state, rules, me)


def _still_ours(state: State, rules: Rules, task: int, worker: int) -> State | None:
    """claim.is_still_ours: by repeating the pop, or because the task is queued in no queue."""
    if state.tasks[task].status != QUEUED:
        return None
    if rules.repeatable_pop:
        return _pop(state, rules, task, worker)
    return None if _in_queue(state, task) else state


def _start_told(state: State, rules: Rules, me: int, run: Run) -> Found:
    """`start` is in the reply, or in what was looked at."""
    task = state.tasks[run.task]
    run = run._replace(phase=STARTED, life=task.life, start=task.start)
    yield Step.START_WRITTEN, _goes(_disk(state, home(rules, me), run), me, "start_written")


def _start_written(state: State, rules: Rules, me: int, run: Run) -> Found:
    run = run._replace(executor="begun", lease=rules.one_gpu and rules.hands_on_the_gpu)
    yield Step.EXECUTOR_STARTED, _goes(_disk(state, home(rules, me), run), me, "watching")


def _watching(state: State, rules: Rules, me: int, run: Run) -> Found:
    if not run.executor:
        yield Step.EXECUTOR_GONE, _goes(state, me, "executor_gone")
        return
    if run.told:
        return
    cause = _cause_in(state, rules, me, run)
    if cause:
        yield f"{Step.STOP_SEEN}: {cause}", _goes(state, me, "stop_seen", cause=cause)
    elif state.budget.acts:
        closing = _goes(_spend(state, "acts"), me, "stop_seen", cause="requeue")
        yield f"{Step.STOP_SEEN}: the hours are over", closing


def _cause_in(state: State, rules: Rules, me: int, run: Run) -> str:
    """abort.cause_in. A script may call itself completed and go on."""
    task = state.tasks[run.task]
    if task.status == COMPLETED:
        return ""
    if not _runs_here(state, rules, me, run):
        return "not ours"
    return "abort" if task.message == STOPPING else ""


def _stop_seen(state: State, rules: Rules, me: int, run: Run) -> Found:
    run = run._replace(stop=run.stop or state.agents[me].cause)
    yield Step.STOP_WRITTEN, _goes(_disk(state, home(rules, me), run), me, "stop_written", cause="")


def _stop_written(state: State, rules: Rules, me: int, run: Run) -> Found:
    run = run._replace(told=bool(run.executor))
    yield Step.STOP_SENT, _goes(_disk(state, home(rules, me), run), me, "watching")


def _executor_gone(state: State, rules: Rules, me: int, run: Run) -> Found:
    run = run._replace(phase=EXITED, user=run.user and not rules.ends_what_is_left)
    yield Step.EXIT_WRITTEN, _goes(_disk(state, home(rules, me), run), me, "exit_written")


def verdict(run: Run) -> str:
    """outcome.verdict_for: the final status, "" for none."""
    if run.stop and run.outcome in ("", "stopped"):
        return {"abort": STOPPED, "requeue": QUEUED}.get(run.stop, "")
    return {"": FAILED, "failed": FAILED, "done": COMPLETED, "stopped": STOPPED}[run.outcome]


def _exit_written(state: State, rules: Rules, me: int, run: Run) -> Found:
    if verdict(run) and (_runs_here(state, rules, me, run) or not rules.looks_before_report):
        yield "looks: it is to report", _goes(state, me, "reporting")
    else:
        yield f"{Step.END_TOLD}: nothing", _goes(state, me, "end_told")


def _runs_here(state: State, rules: Rules, me: int, run: Run) -> bool:
    """report._awaits_our_status, outcome.is_of_another. The word "stopping" hides who runs it."""
    task = state.tasks[run.task]
    if task.status != IN_PROGRESS or task.message == STOPPING:
        return task.status == IN_PROGRESS
    return task.message == AGENTS[home(rules, me)] and not _is_later_start(task, rules, run)


def _is_later_start(task: Task, rules: Rules, run: Run) -> bool:
    return run.start not in (0, task.start) and rules.tells_starts_apart


def _reporting(state: State, rules: Rules, me: int, run: Run) -> Found:
    status, task = verdict(run), state.tasks[run.task]
    if task.message == STOPPING and _is_later_start(task, rules, run):  # outcome.in_view_of
        status = STOPPED
    if status == QUEUED and task.message == STOPPING and rules.keeps_an_abort:
        status = STOPPED
    if status == QUEUED:
        yield Step.GIVING_BACK, _goes(state, me, "giving_back", force=True)
        return
    ended = _end(state, run.task, status, home(rules, me))
    if ended is None:
        yield f"{Step.END_TOLD}: refused", _goes(state, me, "end_told")
        return
    answered = _goes(ended, me, "end_told")
    for what, after in _sent(state, ended, answered=answered, doubtful="exit_written", me=me):
        yield f"{Step.END_TOLD}: {status}{what}", after


def _end_told(state: State, rules: Rules, me: int, run: Run) -> Found:
    reported = _disk(state, home(rules, me), run._replace(phase=REPORTED))
    yield Step.REPORT_WRITTEN, _goes(reported, me, "report_written")


def _report_written(state: State, rules: Rules, me: int, run: Run) -> Found:
    yield Step.RUN_REMOVED, _forget(state, rules, me)


def _giving_back(state: State, rules: Rules, me: int, run: Run) -> Found:
    force = state.agents[me].force
    if force and state.tasks[run.task].message == STOPPING and rules.keeps_an_abort:
        queued = _end(state, run.task, STOPPED, home(rules, me))
    else:
        queued = _enqueue(state, run.task, force=force)
    if queued is None and state.queue is None:  # claim._stop_homeless
        queued = _end(state, run.task, STOPPED, home(rules, me))
    if queued is None:
        yield f"{Step.GIVEN_BACK}: refused", _goes(state, me, "given_back")
        return
    answered = _goes(queued, me, "given_back")
    for what, after in _sent(state, queued, answered=answered, doubtful="give_doubtful", me=me):
        yield f"{Step.GIVEN_BACK}{what}", after


def _give_doubtful(state: State, rules: Rules, me: int, run: Run) -> Found:
    disk = home(rules, me)
    if _another_is_about_to_start(state, rules, run.task, disk):
        return
    if not rules.looks_before_repeated_give_back:
        yield "gives back again", _goes(state, me, "giving_back")
    elif state.agents[me].force and _runs_here(state, rules, me, run):
        yield "looks: it may give back", _goes(state, me, "giving_back")
    elif not state.agents[me].force and (ours := _still_ours(state, rules, run.task, disk)) is not None:
        yield "gives back again", _goes(ours, me, "giving_back")
    else:
        yield f"{Step.GIVEN_BACK}, as it sees", _goes(state, me, "given_back")


def _given_back(state: State, rules: Rules, me: int, run: Run) -> Found:
    """A run that has ended is still to be written off; another one is forgotten."""
    if _in_queue(state, run.task):
        others = tuple(task for task in state.queue or () if task != run.task)
        state = state._replace(queue=(run.task, *others))
    after = _goes(state, me, "end_told", force=False) if run.phase == EXITED else _forget(state, rules, me)
    yield Step.MOVED_TO_FRONT, after


# --- the next agent (agent/runner/recovery.py)


def _found(state: State, rules: Rules, me: int, run: Run) -> Found:
    match run.phase:
        case RunPhase.CLAIMING:
            yield from _settle_claiming(state, rules, me, run)
        case RunPhase.CLAIMED:
            yield from _settle_claimed(state, rules, me, run)
        case RunPhase.STARTED:
            yield from _settle_started(state, rules, me, run)
        case RunPhase.EXITED:
            yield from _settle_ended(state, rules, me, run)
        case RunPhase.REPORTED:
            yield Step.RUN_REMOVED, _forget(state, rules, me)


def _settle_claiming(state: State, rules: Rules, me: int, run: Run) -> Found:
    if _another_is_about_to_start(state, rules, run.task, home(rules, me)):
        return
    if rules.repeatable_pop:
        ours = _pop(state, rules, run.task, home(rules, me))
    else:
        ours = _still_ours(state, rules, run.task, home(rules, me))
    yield from _give_back_or_forget(state, rules, me, ours)


def _give_back_or_forget(state: State, rules: Rules, me: int, ours: State | None) -> Found:
    if ours is not None or not rules.gives_back_only_what_is_ours:
        yield Step.GIVING_BACK, _goes(ours or state, me, "giving_back")
    else:
        yield "forgets it", _forget(state, rules, me)


def _settle_claimed(state: State, rules: Rules, me: int, run: Run) -> Found:
    if state.tasks[run.task].status != QUEUED and rules.gives_back_only_what_is_ours:
        yield from _settle_unlaunched(state, rules, me, run)
    elif not _another_is_about_to_start(state, rules, run.task, home(rules, me)):
        ours = _still_ours(state, rules, run.task, home(rules, me))
        yield from _give_back_or_forget(state, rules, me, ours)


def _settle_unlaunched(state: State, rules: Rules, me: int, run: Run) -> Found:
    task, disk = state.tasks[run.task], home(rules, me)
    if _runs_here(state, rules, me, run) and task.message == STOPPING and rules.keeps_an_abort:
        yield "confirms the abort", _goes(_disk(state, disk, run._replace(stop="abort")), me, "executor_gone")
    elif _runs_here(state, rules, me, run):
        yield Step.GIVING_BACK, _goes(state, me, "giving_back", force=True)
    else:
        yield "forgets it", _forget(state, rules, me)


def _settle_started(state: State, rules: Rules, me: int, run: Run) -> Found:
    if run.executor and rules.adopts_by_lock:
        if run.launched:
            yield "adopts it", _goes(state, me, "watching")
        return
    if not run.outcome and not run.launched:
        yield from _settle_unlaunched(state, rules, me, run)
    else:
        yield from _settle_ended(state, rules, me, run)


def _settle_ended(state: State, rules: Rules, me: int, run: Run) -> Found:
    task = state.tasks[run.task]
    is_of_another = task.status == IN_PROGRESS and not _runs_here(state, rules, me, run)
    ended = run._replace(user=run.user and not rules.ends_what_is_left)
    if task.message == STOPPING and rules.keeps_an_abort:
        ended = ended._replace(stop=run.stop or "abort")
    state = _disk(state, home(rules, me), ended)
    if task.status in ("gone", CREATED, QUEUED) or is_of_another:
        yield "forgets it", _forget(state, rules, me)
    else:
        yield Step.EXECUTOR_GONE, _goes(state, me, "executor_gone")


_IN_CODE = {
    "found": _found,
    "claim_written": _claim_written,
    "pop_doubtful": _pop_doubtful,
    "popped": _popped,
    "claim_held": _claim_held,
    "task_written": _task_written,
    "start_doubtful": _start_doubtful,
    "start_told": _start_told,
    "start_written": _start_written,
    "watching": _watching,
    "stop_seen": _stop_seen,
    "stop_written": _stop_written,
    "executor_gone": _executor_gone,
    "exit_written": _exit_written,
    "reporting": _reporting,
    "end_told": _end_told,
    "report_written": _report_written,
    "giving_back": _giving_back,
    "give_doubtful": _give_doubtful,
    "given_back": _given_back,
}


# --- what has to be true


def broken(state: State, rules: Rules) -> str:
    """The first of the guarantees (docs/guarantees.md) that this state breaks; empty where all hold."""
    if state.strays:
        return "a process runs on that nobody knows of"
    if rules.one_gpu and sum(_has_gpu(state, disk) for disk in range(len(state.disks))) > 1:
        return "a GPU is given twice"
    for number, task in enumerate(state.tasks):
        if reason := _untrue(state, rules, number, task):
            return f"task {number}: {reason}"
    return ""


def _has_gpu(state: State, disk: int) -> bool:
    run = state.disks[disk]
    return state.agents[disk].lease or (run is not None and bool(run.executor or run.user))


def _untrue(state: State, rules: Rules, number: int, task: Task) -> str:
    runs = [run for run in state.disks if run is not None and run.task == number]
    if sum(bool(run.executor or run.user) for run in runs if run.life == task.life) > 1:
        return "run by two agents at once"
    if task.said and task.status != task.said:
        return f"a person said {task.said}, and it is {task.status}"
    if task.asked and task.status == QUEUED:
        return "a person wants it to end, and it is queued"
    if task.status == QUEUED:
        return _misplaced(state, number, task)
    if rules.repeatable_pop and _in_queue(state, number):
        return f"{task.status} and in a queue"
    return _misreported(state, task)


def _misplaced(state: State, number: int, task: Task) -> str:
    """Queued: in the queue, or under the claim of who popped it. Where the queue is gone, the server sees to it."""
    claim = state.disks[task.holder] if task.holder != NOBODY else None
    is_held = (claim is not None and claim.task == number) or any(a.unwritten == number for a in state.agents)
    if _in_queue(state, number):
        return "in the queue and popped" if task.holder != NOBODY else ""
    return "" if is_held or state.queue is None else "queued in no queue and under no claim"


def _misreported(state: State, task: Task) -> str:
    fates = {
        COMPLETED: task.fate == "done",
        FAILED: task.fate in ("failed", "died"),
        STOPPED: bool(task.said) or task.asked or task.fate == "stopped" or state.queue is None,
    }
    return "" if fates.get(TaskStatus(task.status), True) else f"{task.status}, but its process: {task.fate or 'none'}"


def is_settled(state: State) -> bool:
    """Nothing is left to do."""
    is_idle = all(agent.at == "idle" for agent in state.agents) and not any(state.disks)
    return is_idle and not state.queue and not any(task.status in (QUEUED, IN_PROGRESS) for task in state.tasks)
