"""A provider for the tests that does what it is told, also what no provider should do. Serves words/v1.

Over stdio, or with the argument `http` over HTTP on a port that it prints first. Every process writes its number into
the file that STARTS names, and each call's name into the file that CALLS names.
"""

import http.server
import json
import os

import signal
import subprocess
import sys
import threading
import time

cancelled = {}
out = threading.Lock()
METHODS = "echo env pid sleep die garbage huge flood error complain allocate deaf spawn stuck orphan".split()


def note(variable, text):
    if variable in os.environ:
        with open(os.environ[variable], "a") as file:
            file.write(f"{text}\n")


def say(text):
    with out:
        sys.stdout.write(text)
        sys.stdout.flush()


def call(method, params, id):
    if method == "$/initialize":
        if os.environ.get("START") == "mute":
            time.sleep(600)
        if os.environ.get("START") == "nameless":
            return {"methods": METHODS}
        if os.environ.get("START") == "die":
            print("no licence", file=sys.stderr, flush=True)
            os._exit(3)
        return {"name": "mischief", "version": "1", "methods": METHODS}
    if method == "$/ping":
        return json.loads(os.environ.get("PING", "null"))
    if method not in METHODS:
        raise Failure({"code": -32601, "message": f"no {method}"})
    note("CALLS", method)
    return globals()[method](params, id)


class Failure(Exception):
    pass


def echo(params, id):
    return params


def env(params, id):
    return dict(os.environ)


def pid(params, id):
    return os.getpid()


def sleep(params, id):
    seconds = params.get("seconds", 600)
    if params.get("once") and os.path.exists(params["note"]):
        return "slept"
    if params.get("note"):
        open(params["note"], "w").write(str(os.getpid()))
    if not params.get("obey"):
        time.sleep(seconds)
        return "slept"
    if cancelled.setdefault(str(id), threading.Event()).wait(seconds):
        raise Failure({"code": -32800, "message": "cancelled"})
    return "slept"


def die(params, id):
    if "progress" in params:
        say(json.dumps({"jsonrpc": "2.0", "method": "$/progress", "params": {"id": id, "progress": params["progress"]}}) + "\n")
    print("about to die", file=sys.stderr, flush=True)
    if params.get("partial"):
        say('{"jsonrpc": "2.0", "id": %s, "result": "ha' % json.dumps(id))
    if "code" in params:
        os._exit(params["code"])
    os.kill(os.getpid(), params.get("signal", 9))
    time.sleep(600)


def garbage(params, id):
    for number in range(params["lines"]):
        say(f"garbage {number} {'x' * 80}\n")
    return "said"


def huge(params, id):
    return "x" * params["bytes"]


def flood(params, id):
    while True:
        say("x" * 65536)


def error(params, id):
    if not params:
        raise ValueError("a bug")
    raise Failure(params)


def complain(params, id):
    print(params["text"], file=sys.stderr, flush=True)
    raise Failure({"code": 1, "message": "it complains"})


def allocate(params, id):
    held = bytearray(params["megabytes"] << 20)
    for place in range(0, len(held), 4096):
        held[place] = 1
    keep.append(held)
    return os.getpid()


keep = []


def deaf(params, id):
    os.close(0)
    os.close(1)
    time.sleep(600)


def spawn(params, id):
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return child.pid


def stuck(params, id):
    time.sleep(600)


def orphan(params, id):
    # It leaves the group, and keeps stdout and stderr.
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
    open(params["note"], "w").write(f"{child.pid}\n")
    print("about to die", file=sys.stderr, flush=True)
    os._exit(7)


def reply(message):
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    try:
        answer["result"] = call(message["method"], message["params"], message["id"])
    except Failure as failure:
        answer["error"] = failure.args[0]
    except MemoryError:
        os._exit(77)
    except Exception as failure:
        answer["error"] = {"code": -32603, "message": repr(failure)}
    return answer


def told(message):
    if message["method"] == "$/cancel":
        cancelled.setdefault(str(message["params"]["id"]), threading.Event()).set()


def stdio():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            told(message)
        elif message["method"] in ("deaf", "stuck"):
            # From the thread that reads, which nothing may read behind.
            reply(message)
        else:
            threading.Thread(target=lambda said=message: say(json.dumps(reply(said)) + "\n"), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = int(os.environ.get("STATUS", "200"))
        if "id" not in message:
            told(message)
            body = b""
        elif message["method"] == "garbage":
            body = b"<html>hello</html>"
        elif message["method"] == "die":
            self.close_connection = True
            self.connection.close()
            return
        else:
            body = json.dumps(reply(message)).encode()
        if message.get("method") == "complain":
            status, body = 503, b"no room"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


note("STARTS", os.getpid())
if sys.argv[1:] == ["http"]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
else:
    stdio()
