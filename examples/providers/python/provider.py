"""A provider for text/v1 in Python, with the standard library alone.

Each line of stdin is a JSON-RPC 2.0 message, each line of stdout an answer. Print to stderr, never to stdout.
"""

import collections
import json
import sys
import time


class Refused(Exception):
    """An error with a code: -32602 for wrong parameters, 1 or anything else for what cannot be done."""

    def __init__(self, code, message, **data):
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": data}


def reverse(params, context):
    return text_of(params)[::-1]


def count(params, context):
    words = collections.Counter(text_of(params).split())
    return {word: times for word, times in words.items() if times >= params.get("least", 1)}


def fetch(params, context):
    print("attempt", context.get("attempt"), "of", context.get("task"), file=sys.stderr)
    time.sleep(params.get("seconds", 1))
    if params.get("fail"):
        raise Refused(1, "the service is away", retryable=True, retry_after=0.1)


def spell(params, context):
    for letter in text_of(params):
        give(context, letter + "\n")
        time.sleep(params.get("pause", 0))
    return len(params["text"])


def give(context, text):
    """A piece of output for whoever follows the task, before the call has ended."""
    piece = {"id": context["id"], "text": text}
    print(json.dumps({"jsonrpc": "2.0", "method": "$/output", "params": piece}), flush=True)


def text_of(params):
    if not isinstance(params.get("text"), str):
        raise Refused(-32602, "text must be a string")
    return params["text"]


METHODS = {"reverse": reverse, "count": count, "fetch": fetch, "spell": spell}


def answer(method, params, context):
    if method == "$/initialize":
        return {"name": "text in Python", "version": "1.0", "methods": list(METHODS)}
    if method == "$/ping":
        return {"status": "ok"}
    if method == "$/echo":  # Only for `gleitzeit provider conformance`; may be left out.
        return params
    if method not in METHODS:
        raise Refused(-32601, f"there is no method {method}")
    return METHODS[method](params, context)


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        # $/shutdown, and $/cancel, which a program that does one thing at a time cannot hear: it is killed instead.
        continue
    reply = {"jsonrpc": "2.0", "id": message["id"]}
    try:
        context = {**message.get("context", {}), "id": message["id"]}
        reply["result"] = answer(message["method"], message["params"], context)
    except Refused as refused:
        reply["error"] = refused.error
    except Exception as error:
        reply["error"] = {"code": -32603, "message": repr(error)}
    print(json.dumps(reply), flush=True)
