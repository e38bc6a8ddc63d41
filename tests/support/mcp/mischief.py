"""An MCP server that does what it is told, also what no server should do. Standard library only.

Every process writes its number into the file that STARTS names, every message's method into the file that CALLS names.
"""

import json
import os
import subprocess
import sys
import time

TOOLS = ["pid", "echo", "die", "silent", "garbage", "huge", "huge_late", "mask", "grow", "bad_schema", "odd_content"]
TOOLS += ["mutter", "orphan", "fat_content", "fat_error", "held"]
SCHEMAS = {
    "echo": {"type": "object", "properties": {"text": {"type": "string", "maxLength": 5}}, "required": ["text"]},
    "bad_schema": {"type": "nonsense"},
}


def note(variable, text):
    if variable in os.environ:
        with open(os.environ[variable], "a") as file:
            file.write(f"{text}\n")


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def answer(id, result):
    say(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}))


def text(words, **more):
    return {"content": [{"type": "text", "text": words}], **more}


def call(id, name, arguments):
    if name == "pid":
        answer(id, text(str(os.getpid())))
    elif name == "echo":
        answer(id, text(arguments["text"], structuredContent=arguments))
    elif name == "die":
        print("out of cheese", file=sys.stderr, flush=True)
        os._exit(7)
    elif name == "garbage":
        say("Traceback (most recent call last): no, really")
        say('{"jsonrpc": "2.0", "id": 999999, "result": {}}')
        say("[1, 2")
        answer(id, text("after garbage"))
    elif name == "huge":
        answer(id, text("x" * int(arguments["bytes"])))
    elif name == "huge_late":
        say(json.dumps({"result": text("x" * int(arguments["bytes"])), "jsonrpc": "2.0", "id": id}))
    elif name == "mutter":
        print(arguments["text"], file=sys.stderr, flush=True)
        answer(id, text("muttered"))
    elif name == "orphan":
        # It leaves the group, and keeps stdout and stderr.
        orphan = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
        note("ORPHANS", orphan.pid)
        print("[half a line", end="", flush=True)
        print("out of cheese", file=sys.stderr, flush=True)
        os._exit(7)
    elif name == "fat_content":
        fat = "x" * int(arguments["bytes"])
        answer(id, text(fat, isError=True, structuredContent={"fat": fat}))
    elif name == "fat_error":
        error = {"code": -32000, "message": "too fat", "data": "x" * int(arguments["bytes"])}
        say(json.dumps({"jsonrpc": "2.0", "id": id, "error": error}))
    elif name == "grow":
        TOOLS.append(arguments.get("name", "grown"))
        say('{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}')
        answer(id, text("grown"))
    elif name == "held":
        while not os.path.exists(arguments["gate"]):
            time.sleep(0.01)
        answer(id, text("let go"))
    elif name == "mask":
        answer(id, text("no such city", isError=True, structuredContent={"city": arguments.get("city")}))
    elif name == "odd_content":
        answer(id, {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]})
    elif name != "silent":
        answer(id, text("I am " + name))


def main():
    note("STARTS", os.getpid())
    if os.environ.get("START") == "die":
        print("no licence", file=sys.stderr, flush=True)
        sys.exit(3)
    if os.environ.get("START") == "mute":
        time.sleep(600)
    for line in sys.stdin:
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        note("CALLS", params.get("name", method))
        if method == "initialize":
            version = params["protocolVersion"]
            about = {"name": "mischief", "version": "0"}
            answer(id, {"protocolVersion": version, "capabilities": {"tools": {"listChanged": True}}, "serverInfo": about})
        elif method == "tools/list":
            start = int(params.get("cursor", "0"))
            page = [{"name": name, "inputSchema": SCHEMAS.get(name, {"type": "object"})} for name in TOOLS[start:start + 5]]
            more = {"nextCursor": str(start + 5)} if start + 5 < len(TOOLS) else {}
            answer(id, {"tools": page, **more})
            if "CHATTER" in os.environ and not more:
                say('{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}')
        elif method == "tools/call":
            call(id, params["name"], params.get("arguments") or {})
        elif method == "ping":
            if os.environ.get("PING") == "die":
                os._exit(9)
            answer(id, {})
        elif id is not None:
            say(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": f"no {method}"}}))


main()
