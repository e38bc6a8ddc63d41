"""The ledger as text."""

import re
import statistics
from collections import Counter

SHOWN = 60
RECOVERY_LIMIT_SECONDS = 7.0
CONSUMING_LIMIT_SECONDS = 3.0


def lines(ledger, plan, faults, recoveries, letters, repeated_letters, deaths, problems, folder, versions):
    yield ""
    yield "ledger of seed %d, %s" % (plan.seed, versions)
    yield "  %-15s %8s %8s %8s   %s" % ("messages", "planned", "accepted", "ended", "as")
    for kind in sorted(ledger.planned):
        states = ", ".join("%d %s" % (count, state) for (k, state), count in sorted(ledger.states.items()) if k == kind)
        ended = ledger.ended[kind] if kind in ledger.ended or states else "-"
        yield "  %-15s %8d %8d %8s   %s" % (kind, ledger.planned[kind], ledger.accepted[kind], ended, states)
    inner = ", ".join("%d %s" % (count, state) for state, count in sorted(ledger.inner.items()))
    yield "  tasks in workflows: %s" % (inner or "none")
    yield "  tasks in all: %d; ends announced: %d" % (plan.tasks, ledger.announced)
    yield "  executions told: %d of %d tasks; %d tasks ran again after a fault" % (
        ledger.executions, ledger.executed, ledger.repeated,
    )
    yield "  dead letters: %d, of these %d written again after a fault" % (letters, repeated_letters)
    kinds = Counter(fault.kind for fault in faults.done)
    yield "  faults: %d: %s" % (len(faults.done), ", ".join("%d %s" % (kinds[k], k) for k in sorted(kinds)))
    yield "  workers killed by tasks: %d; tasks given up because we killed their workers: %d" % (
        len(deaths), len(ledger.given_up),
    )
    yield "  cancelled before their time: %d" % ledger.cancelled_in_time
    yield from _measured(recoveries, faults.consuming)
    wrong = problems + ledger.problems
    yield ""
    if not wrong:
        yield "nothing lost, nothing twice, nothing stuck"
        return
    yield "%d things are wrong; journal and logs are in %s" % (len(wrong), folder)
    for text in wrong[:SHOWN]:
        yield "  - " + text
    if len(wrong) > SHOWN:
        yield "  ... and %d more" % (len(wrong) - SHOWN)


def judge(kinds, recoveries, consuming):
    """What is slower than promised, or was not measured although a fault of these kinds was to show it."""
    if "worker-kill" in kinds and not any(recoveries):
        yield "no killed worker ran a task that tells of itself: when these run elsewhere was not measured"
    if kinds & {"broker-kill", "broker-stop"} and not consuming:
        yield "when workers consume again after a restart of the broker was not measured"
    late = [wait for waits in recoveries for wait in waits if wait is None or wait > RECOVERY_LIMIT_SECONDS]
    if late:
        shown = ", ".join("never" if wait is None else "%.1f s" % wait for wait in late[:10])
        yield "%d tasks of killed workers were not running elsewhere within %.0f s: %s" % (
            len(late), RECOVERY_LIMIT_SECONDS, shown,
        )
    late = [wait for wait in consuming if wait > CONSUMING_LIMIT_SECONDS]
    if late:
        yield "%d times workers did not consume within %.0f s of the broker's port answering: %s" % (
            len(late), CONSUMING_LIMIT_SECONDS, late,
        )


def _measured(recoveries, consuming):
    waits = [wait for row in recoveries for wait in row if wait is not None]
    yield "  running elsewhere after kill -9: %s (%d kills)" % (_spread(waits), len(recoveries))
    yield "  consuming after the broker's port answers: %s" % _spread(consuming)


def _spread(values):
    if not values:
        return "not measured"
    return "median %.1f s, longest %.1f s (%d)" % (statistics.median(values), max(values), len(values))


def log_summary(folder):
    """What workers said at level ERROR, and panics: counted by their words without ids and times."""
    said = Counter()
    for file in sorted(folder.glob("worker-*.log")):
        with open(file, errors="replace") as log:
            for line in log:
                if '"ERROR"' in line or "panicked" in line:
                    message = re.search(r'"message":"([^"]*)"', line)
                    error = re.search(r'"error":"([^"]*)"', line)
                    text = (message.group(1) if message else line.strip()[:160])
                    said[text + (": " + error.group(1)[:120] if error else "")] += 1
    for text, count in said.most_common(12):
        yield "  log %5d x %s" % (count, text)
