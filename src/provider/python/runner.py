"""Runs one Python task in a process of its own; compiled into the worker, started by `python -c`.

Descriptor 0 is a socket to the worker. One frame comes in (the task), one goes out (the report), then the
process ends at once; a frame is four bytes of length, big-endian, and JSON in UTF-8. The task's own standard
input is /dev/null, its standard output and error are pipes that the worker drains, so nothing that it prints
can be taken for a report. The task is data all the way: nothing of it is ever pasted into source.

A report is an object with one key; in it is also `memory_bytes`, the most that this process held, where that can be read:
    completed  {result, execution_time}          the task's value as JSON
    checked    {errors}                          what `validate` found
    raised     {message, exception, traceback, execution_time}
    exited     {exit_code, execution_time}       sys.exit with another code than 0
    syntax     {message, line, column}           the source does not compile
    refused    {message}                         the parameters make no sense
    unreadable {message}                         the file cannot be read
    unfit      {message}                         the value has no JSON form
    too_large  {bytes}                           the value's JSON is larger than allowed

Works on CPython 3.9 and newer, on Linux.
"""

import _ast
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time

SOURCE_NAME = "<task>"
SOURCE_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 100
MESSAGE_CHARS_MAX = 1000
TRACEBACK_CHARS_MAX = 16 * 1024
# CPython's own limit for turning integers into text, and JSON numbers that long serve nobody.
INTEGER_DIGITS_MAX = 4300
INTEGER_END = 10**INTEGER_DIGITS_MAX

LIMITS = {
    "memory_bytes": resource.RLIMIT_DATA,
    "cpu_seconds": resource.RLIMIT_CPU,
    "file_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}


class Ended(Exception):
    """The task is over with this report; raised by the runner, never by the task."""

    def __init__(self, kind, **body):
        super().__init__(kind)
        self.report = {kind: body}


def main():
    channel = take_channel()
    task_process = os.getpid()
    payload = receive(channel)
    die_with_worker(channel)
    frame, exit_code = encode(*run(payload))
    if os.getpid() != task_process:
        # A child that the task forked fell through to here; the report is its parent's.
        os._exit(exit_code)
    # From here on the worker reads, and reading must not be taken for its death.
    fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) & ~os.O_ASYNC)
    send(channel, frame)
    # Threads that the task left behind do not keep the process alive.
    os._exit(0)


def run(payload):
    """The report, and how many bytes a result may have."""
    try:
        task = json.loads(payload)
    except ValueError as error:
        # An integer that is longer than Python reads.
        return {"refused": {"message": cut(f"the parameters cannot be read: {error}")}}, 0
    prepare(task)
    report = validate(task) if task["method"] == "validate" else execute(task)
    flush()
    measure(report)
    return report, task["result_bytes_max"]


def measure(report):
    """Adds the most memory that this process held; what it has started counts for itself."""
    try:
        status = os.open("/proc/self/status", os.O_RDONLY)
        try:
            text = os.read(status, 16 * 1024)
        finally:
            os.close(status)
        peak = text.split(b"VmHWM:", 1)[1].split(None, 1)[0]
        for body in report.values():
            body["memory_bytes"] = int(peak) * 1024
    except BaseException:
        # The task may have used up its descriptors or its memory; then nobody knows.
        pass


# The channel


def take_channel():
    channel = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return channel


def receive(channel):
    length = int.from_bytes(receive_exactly(channel, 4), "big")
    return receive_exactly(channel, length)


def receive_exactly(channel, length):
    parts = []
    while length > 0:
        part = os.read(channel, min(length, 1 << 20))
        if not part:
            # The worker is gone; nobody waits for a report.
            os._exit(0)
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def send(channel, frame):
    data = memoryview(len(frame).to_bytes(4, "big") + frame)
    while data:
        data = data[os.write(channel, data) :]


def die_with_worker(channel):
    """Makes the kernel kill this process group when the worker's end of the channel closes.

    Neither the interpreter lock nor a handler of the task can hold that up, and no thread is needed.
    """
    fcntl.fcntl(channel, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(channel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if poll.poll(0):
        # It closed before the kernel was asked to watch.
        os._exit(0)


def encode(report, result_bytes_max):
    """The frame, and the exit code of a process that ends like this by itself."""
    if "completed" in report:
        text = json.dumps(report, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if len(text) <= result_bytes_max:
            return text, 0
        report = {"too_large": {"bytes": len(text)}}
    exit_code = report["exited"]["exit_code"] if "exited" in report else 1
    # What an exception says may be text that UTF-8 cannot hold.
    return json.dumps(report, ensure_ascii=False).encode("utf-8", "replace"), exit_code


# Surroundings


def prepare(task):
    for name, kind in LIMITS.items():
        limit(kind, task["limits"].get(name))
    limit(resource.RLIMIT_CORE, 0)
    os.environ.update(task["environment"])
    sys.path[:0] = task["module_paths"]
    sys.argv = [task.get("file", "")]
    # A text that UTF-8 cannot hold is printed escaped; printing never fails a task.
    sys.stdout.reconfigure(errors="backslashreplace")


def limit(kind, value):
    if value is None:
        return
    _, hard = resource.getrlimit(kind)
    # A second more before SIGKILL, so that SIGXCPU tells why it ended.
    end = value + 1 if kind == resource.RLIMIT_CPU else value
    if hard != resource.RLIM_INFINITY:
        value, end = min(value, hard), min(end, hard)
    resource.setrlimit(kind, (value, end))


def flush():
    """Runs what the task left for the end, and writes out what it printed."""
    import atexit

    try:
        atexit._run_exitfuncs()
    except BaseException:
        # Python reported it on standard error, and goes on as well.
        pass
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            # Closed or replaced by the task; there is nothing of ours in it.
            pass


# The methods


def validate(task):
    try:
        compiled(task["code"], SOURCE_NAME)
    except Ended as ended:
        body = ended.report["syntax"]
        return {"checked": {"errors": [located(body)]}}
    return {"checked": {"errors": []}}


def located(body):
    if body["line"] is None:
        return body["message"]
    if body["column"] is None:
        return f"line {body['line']}: {body['message']}"
    return f"line {body['line']}, column {body['column']}: {body['message']}"


def execute(task):
    # The task's own __main__, as classes, pickles and dataclasses look themselves up there.
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    begun = time.perf_counter()
    try:
        try:
            value = call_function(task, module) if "function" in task else run_source(task, module)
            value = awaited(value)
        except SystemExit as exit:
            value = value_at_exit(exit, task, module, begun)
        result = plain(value, None, 0, set())
        return {"completed": {"result": result, "execution_time": time.perf_counter() - begun}}
    except Ended as ended:
        return ended.report
    except BaseException as error:
        return raised(error, task, begun)


def run_source(task, module):
    """The value of a source text or a script: the variable `result`, else its last expression."""
    names = module.__dict__
    if "file" in task:
        name, source = task["file"], read_file(task["file"])
        module.__file__ = name
        sys.path.insert(0, os.path.dirname(os.path.abspath(name)))
    else:
        name, source = SOURCE_NAME, task["code"]
    body, last = compiled(source, name)
    bind_imports(task, names)
    bind_context(task, names)
    # One dictionary for everything: helpers, recursion and comprehensions see each other.
    exec(body, names)
    value = eval(last, names) if last is not None else None
    return names["result"] if is_result_set(task, names) else value


def compiled(source, name):
    """The code objects of the body and of the last expression, if the source ends with one."""
    try:
        tree = compile(source, name, "exec", flags=_ast.PyCF_ONLY_AST, dont_inherit=True)
        last = None
        if tree.body and isinstance(tree.body[-1], _ast.Expr):
            expression = _ast.Expression(tree.body.pop().value)
            last = compile(expression, name, "eval", dont_inherit=True)
        return compile(tree, name, "exec", dont_inherit=True), last
    except SyntaxError as error:
        raise Ended("syntax", message=cut(error.msg), line=error.lineno, column=error.offset) from None
    except (MemoryError, RecursionError):
        raise Ended("syntax", message="the code is too complex to compile", line=None, column=None) from None
    except ValueError as error:
        # A NUL character, up to CPython 3.11.
        raise Ended("syntax", message=cut(str(error)), line=None, column=None) from None


def read_file(path):
    try:
        with open(path, "rb") as file:
            source = file.read(SOURCE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Ended("unreadable", message=cut(f"file {path!r} cannot be read: {reason}")) from None
    if len(source) > SOURCE_BYTES_MAX:
        raise Ended("unreadable", message=cut(f"file {path!r} is larger than {SOURCE_BYTES_MAX} bytes"))
    return source


def bind_imports(task, names):
    """`import a.b` for each name: binds `a`, as the statement does."""
    for dotted in task["imports"]:
        if not all(part.isidentifier() for part in dotted.split(".")):
            raise Ended("refused", message=cut(f"imports: {dotted!r} is not the name of a module, such as json"))
        names[dotted.split(".")[0]] = __import__(dotted)


def bind_context(task, names):
    if "context" not in task:
        return
    for name in context_names(task):
        names[name] = task["context"][name]
    names["context"] = task["context"]


def context_names(task):
    context = task.get("context")
    if not isinstance(context, dict):
        return []
    return [name for name in context if name.isidentifier() and not name.startswith("__")]


def is_result_set(task, names):
    """Whether the task itself set `result`; one that came in by `context` is data, not an answer."""
    if "result" not in names:
        return False
    return "result" not in context_names(task) or names["result"] is not task["context"]["result"]


def value_at_exit(exit, task, module, begun):
    """sys.exit(0) is a good end with what `result` holds; everything else fails the task."""
    code = exit.code
    if code is None:
        code = 0
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    if code & 255 != 0:
        raise Ended("exited", exit_code=code & 255, execution_time=time.perf_counter() - begun)
    return module.__dict__["result"] if is_result_set(task, module.__dict__) else None


def call_function(task, module):
    """Calls `module:name.of.attribute` or `module.name`."""
    name = task["function"]
    owner, _, path = name.partition(":") if ":" in name else name.rpartition(".")
    if not owner or not all(part.isidentifier() for part in [*owner.split("."), *path.split(".")]):
        raise Ended("refused", message=cut(f"function: {name!r} is not of the form module:name, such as math:gcd"))
    bind_imports(task, module.__dict__)
    __import__(owner)
    function = sys.modules[owner]
    for part in path.split("."):
        function = getattr(function, part)
    return function(*task["args"], **task["kwargs"])


def awaited(value):
    """The value of a coroutine, or of whatever else can be awaited; any other value as it is."""
    if not hasattr(type(value), "__await__"):
        return value
    import asyncio

    async def wait():
        return await value

    return asyncio.run(wait())


# What comes out


def plain(value, path, depth, above):
    """The value in JSON's own types; `path` is linked from the inside out, `above` holds the ids around it."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return plain_text(value, path)
    if isinstance(value, int):
        if -INTEGER_END < value < INTEGER_END:
            return value
        unfit(path, f"an integer of more than {INTEGER_DIGITS_MAX} digits", "return it as text, by hex() for example")
    if isinstance(value, float):
        if value - value == 0:
            return value
        unfit(path, f"{value}, a number that JSON does not have", "return None or text instead")
    if isinstance(value, (list, tuple, dict)) or hasattr(kind, "__dataclass_fields__"):
        if depth >= DEPTH_MAX:
            unfit(None, f"nested deeper than {DEPTH_MAX}", "return it flatter, or as text by json.dumps()")
        if id(value) in above:
            unfit(path, "a value that contains itself", "return a copy without the cycle")
        above.add(id(value))
        copy = plain_inner(value, path, depth + 1, above)
        above.remove(id(value))
        return copy
    unfit(path, f"of type {kind.__name__}, which JSON does not have", advice(value, kind))


def plain_inner(value, path, depth, above):
    if isinstance(value, (list, tuple)):
        return [plain(item, (path, index), depth, above) for index, item in enumerate(value)]
    if isinstance(value, dict):
        items = dict.items(value)
    else:
        items = [(field, getattr(value, field)) for field in dataclass_fields(value)]
    copy = {}
    for key, item in items:
        if not isinstance(key, str):
            unfit(path, f"an object with the key {key!r:.80} of type {type(key).__name__}", "make the keys text, by str(key)")
        copy[plain_text(key, path)] = plain(item, (path, key), depth, above)
    return copy


def dataclass_fields(value):
    import dataclasses

    return [field.name for field in dataclasses.fields(value)]


def plain_text(value, path):
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            unfit(path, "text with half a surrogate pair", "encode it with errors='replace' and decode it again")
    return value


def advice(value, kind):
    if isinstance(value, (set, frozenset)):
        return "return sorted(...) or list(...) of it"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "return text, by .decode() or base64.b64encode(...).decode()"
    if hasattr(kind, "isoformat"):
        return "return .isoformat() of it"
    if hasattr(kind, "tolist"):
        return "return .tolist() of it"
    if hasattr(kind, "__next__") or hasattr(kind, "__iter__"):
        return "return list(...) of it"
    if callable(value):
        return "return what it gives when called"
    return "return text, numbers, lists, dicts with text as keys, or dataclasses"


def unfit(path, what, remedy):
    steps = []
    while path is not None:
        path, step = path
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step:.80}")
    where = "".join(reversed(steps))
    raise Ended("unfit", message=cut(f"the result{' at $' + where if where else ''} is {what}: {remedy}"))


def raised(error, task, begun):
    """What the task raised, without the frames of this file; also printed as Python would."""
    import linecache
    import traceback

    elapsed = time.perf_counter() - begun
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except BaseException:
        text = "<its text cannot be had: str() of it fails>"
    frames = error.__traceback__
    step = frames
    while step is not None:
        if step.tb_frame.f_globals is globals():
            frames = step.tb_next
        step = step.tb_next
    source = task.get("code")
    if source is not None:
        # So that the traceback shows the lines of inline code.
        linecache.cache[SOURCE_NAME] = (len(source), None, source.splitlines(True), SOURCE_NAME)
    shown = "".join(traceback.format_exception(kind, error, frames))
    if len(shown) > TRACEBACK_CHARS_MAX:
        half = TRACEBACK_CHARS_MAX // 2
        shown = f"{shown[:half]}\n... [{len(shown) - 2 * half} characters cut] ...\n{shown[-half:]}"
    try:
        sys.stderr.write(shown)
    except BaseException:
        # Closed or replaced by the task; the report has the traceback anyway.
        pass
    message = cut(f"{name}: {text}" if text else name)
    return {"raised": {"message": message, "exception": name, "traceback": shown, "execution_time": elapsed}}


def cut(text):
    if len(text) <= MESSAGE_CHARS_MAX:
        return text
    return f"{text[:MESSAGE_CHARS_MAX]}... [{len(text) - MESSAGE_CHARS_MAX} characters cut]"


main()
