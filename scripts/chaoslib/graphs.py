"""Workflows whose ends and results are known beforehand.

A shape is a function of luck and an id; it answers the workflow's tasks and, by the name of a
task, how that task must end.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Expect:
    """How one task or workflow must end."""

    states: tuple = ("completed",)
    # Names of errors, where it does not complete.
    codes: tuple = ()
    # The member `response` or `result` of the result; None: not compared.
    value: object = None
    # Whether the task writes lines about its executions.
    witnessed: bool = False
    # Executions that fail on purpose before one succeeds.
    failures: int = 0
    # By the name of a task, in a workflow.
    tasks: dict = field(default_factory=dict)


OK = Expect()


# Stands for the run's folder, so that one seed gives the same plan anywhere.
FOLDER = "@FOLDER@"


class Bodies:
    """Python bodies that tell of their executions, in a folder outside of Gleitzeit."""

    def _context(self, id, **more):
        return {"me": id, "lines": FOLDER + "/executions", "counts": FOLDER + "/counts", **more}

    def append(self, id, value=None, seconds=0.0):
        """Writes a line at its start and at its end; its result is `value`."""
        return {"code": _APPEND, "context": self._context(id, value=value, seconds=seconds)}

    def flaky(self, id, failures):
        """The same, but the first executions that come to their end raise."""
        return {"code": _FLAKY, "context": self._context(id, failures=failures)}

    def poison(self, id):
        """Kills its worker."""
        return {"code": _POISON, "context": self._context(id)}


# One write of a line this short is atomic, so the lines of all workers go to one file.
_SAY = """\
import os, time
def say(what):
    at = os.open(lines, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(at, ("%s %d %.3f %s\\n" % (me, os.getppid(), time.time(), what)).encode())
    os.close(at)
say("start")
"""
_APPEND = _SAY + """\
time.sleep(seconds)
say("end")
result = value
"""
# What was counted survives the death of the worker between counting and raising: a crash more is no failure less.
_FLAKY = _SAY + """\
name = os.path.join(counts, me.replace("/", "_"))
at = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
os.write(at, b".")
made = os.fstat(at).st_size
os.close(at)
say("end")
if made <= failures:
    raise RuntimeError("failure %d of %d, on purpose" % (made, failures))
result = me
"""
_POISON = _SAY + """\
os.kill(os.getppid(), 9)
time.sleep(30)
"""


def _echo(id, message, *after, **more):
    return {"id": id, "method": "echo/echo", "params": {"message": message}, "dependencies": list(after), **more}


def _python(id, params, *after, **more):
    return {"id": id, "method": "python/execute", "params": params, "dependencies": list(after), **more}


def chain(rng, id, _bodies):
    length = rng.randint(2, 25)
    tasks = [_echo("t0", id)]
    tasks += [_echo("t%d" % n, "${t%d}" % (n - 1), "t%d" % (n - 1)) for n in range(1, length)]
    return tasks, {task["id"]: Expect(value=id) for task in tasks}


def fan(rng, id, _bodies, width=None):
    width = width or rng.randint(3, 40)
    leaves = ["leaf%d" % n for n in range(width)]
    tasks = [_echo("root", id)]
    tasks += [_echo(leaf, "${root}", "root") for leaf in leaves]
    tasks.append(_echo("join", ["${%s}" % leaf for leaf in leaves], *leaves))
    ends = {name: Expect(value=id) for name in ["root", *leaves]}
    return tasks, {**ends, "join": Expect(value=[id] * width)}


def wide(rng, id, bodies):
    return fan(rng, id, bodies, width=300)


def diamonds(rng, id, _bodies):
    tasks, ends, above = [_echo("a0", id)], {"a0": Expect(value=id)}, "a0"
    for n in range(1, rng.randint(2, 7)):
        left, right, below = "l%d" % n, "r%d" % n, "a%d" % n
        tasks.append(_echo(left, "${%s}" % above, above))
        tasks.append({**_echo(right, "${%s}" % above, above), "priority": "high"})
        tasks.append(_echo(below, "${%s}${%s}" % (left, right), left, right))
        value = ends[above].value
        # The text doubles; nobody wants megabytes.
        if len(value) > 4000:
            tasks[-1]["params"]["message"] = id
        ends[left] = ends[right] = Expect(value=value)
        ends[below] = Expect(value=id if len(value) > 4000 else value * 2)
        above = below
    return tasks, ends


def witnessed(rng, id, bodies):
    """A fan whose leaves tell of their executions: each must be released once."""
    leaves = ["leaf%d" % n for n in range(rng.randint(2, 5))]
    tasks = [_echo("root", id)]
    tasks += [_python(leaf, bodies.append("%s/%s" % (id, leaf), "${root}"), "root") for leaf in leaves]
    tasks.append(_python("join", bodies.append(id + "/join", ["${%s}" % leaf for leaf in leaves]), *leaves))
    ends = {leaf: Expect(value=id, witnessed=True) for leaf in leaves}
    ends["root"] = Expect(value=id)
    ends["join"] = Expect(value=[id] * len(leaves), witnessed=True)
    return tasks, ends


def flaky(rng, id, bodies):
    failures = rng.randint(1, 3)
    retry = {"max_attempts": 10, "base_delay": rng.choice([0.1, 0.5, 1]), "backoff": "fixed"}
    tasks = [
        _echo("root", id),
        _python("flaky", bodies.flaky(id + "/flaky", failures), "root", retry=retry),
        _echo("after", "${flaky}", "flaky"),
    ]
    end = Expect(value=id + "/flaky", witnessed=True, failures=failures)
    return tasks, {"root": Expect(value=id), "flaky": end, "after": Expect(value=id + "/flaky")}


def each(rng, id, _bodies):
    """A list that only the run can tell, at most four items at once."""
    items = ["%s-%d" % (id, n) for n in range(rng.randint(0, 20))]
    tasks = [
        _echo("list", items),
        _echo("each", "${item}", "list", for_each="${list}", max_parallel=4),
        _echo("join", "${each}", "each"),
    ]
    rows = [{"response": item, "result": item, "echoed": {"message": item}} for item in items]
    return tasks, {"list": Expect(value=items), "each": OK, "join": Expect(value=rows)}


def nested(_rng, id, _bodies):
    inner = {"name": "Inner", "tasks": [_echo("x", id), _echo("y", "${x}", "x")]}
    tasks = [
        _echo("root", id),
        {"id": "inner", "workflow": inner, "dependencies": ["root"]},
        _echo("after", "${root}", "inner"),
    ]
    return tasks, {"root": Expect(value=id), "inner": OK, "after": Expect(value=id)}


def broken(_rng, id, _bodies):
    """One task fails for good; what depends on it fails unrun, what does not completes."""
    fails = {"id": "b", "method": "echo/error", "params": {"message": id}, "dependencies": ["a"]}
    tasks = [_echo("a", id), fails, _echo("c", id, "b"), _echo("d", id, "c"), _echo("e", id, "a")]
    dependent = Expect(("failed",), ("TASK_DEPENDENCY_FAILED",))
    ends = {"a": OK, "b": Expect(("failed",), ("TASK_EXECUTION_FAILED",)), "c": dependent, "d": dependent, "e": OK}
    return tasks, ends


def tolerated(_rng, id, _bodies):
    fails = {"id": "b", "method": "echo/error", "params": {"message": id}, "dependencies": ["a"]}
    after = {**_echo("c", "${a}"), "dependencies": ["a", {"task": "b", "on_failure": "continue"}]}
    ends = {"a": OK, "b": Expect(("failed",), ("TASK_EXECUTION_FAILED",)), "c": Expect(value=id)}
    return [_echo("a", id), fails, after], ends


def held(_rng, id, _bodies):
    """One whose last task waits for a time that the message gives it: until then the workflow can be cancelled."""
    return [_echo("now", id), _echo("late", id, "now")], {"now": Expect(value=id), "late": Expect(value=id)}


# Shape, how often, and how the workflow ends.
SHAPES = (
    (chain, 20, "completed"),
    (fan, 25, "completed"),
    (diamonds, 12, "completed"),
    (witnessed, 12, "completed"),
    (flaky, 8, "completed"),
    (each, 8, "completed"),
    (nested, 5, "completed"),
    (broken, 5, "failed"),
    (tolerated, 5, "completed"),
)


def draw(rng, id, bodies, shape=None):
    """A workflow, how it must end, and how many tasks it has."""
    if shape is None:
        shape, _, state = rng.choices(SHAPES, [often for _, often, _ in SHAPES])[0]
    else:
        state = "completed"
    tasks, ends = shape(rng, id, bodies)
    document = {"id": id, "name": "%s %s" % (shape.__name__, id), "tasks": tasks}
    codes = () if state == "completed" else ("WORKFLOW_EXECUTION_FAILED",)
    return document, Expect((state,), codes, tasks=ends), len(tasks)
