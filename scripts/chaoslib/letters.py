"""Dead letters against ends: whatever failed or expired has one, and nothing else has."""

import base64
import json
from collections import Counter

import pika

from .ledger import CRASH_LIMIT

DEAD = "gleitzeit.dead."
INBOX = "gleitzeit.dead.inbox"
# Of all letters, so many may be repeats; in a small run as many as something was done to the system.
REPEATED_SHARE = 0.05


def read(servers, depths):
    """Every dead letter, as it is; all stay in their queues."""
    letters = []
    connection = pika.BlockingConnection(pika.URLParameters(servers.amqp_url()))
    try:
        channel = connection.channel()
        for queue in sorted(depths):
            if not queue.startswith(DEAD) or queue == INBOX:
                continue
            # Held until the connection ends, so that none is seen twice.
            while True:
                method, _, body = channel.basic_get(queue)
                if method is None:
                    break
                letters.append((queue, json.loads(body)))
    finally:
        connection.close()
    return letters


def compare(ledger, items, letters, kills, disturbances):
    """Adds what is wrong to the ledger. The letters, and how many of them are repeats. `kills` of workers by us are
    some of the `disturbances`: faults, and workers that died of their tasks."""
    found = Counter()
    for _, letter in letters:
        found[_name_of(letter)] += 1
    due = Counter(ledger.letters_due)
    for item in items:
        if item.kind == "garbage":
            due[base64.b64encode(item.body).decode()] += 1
    for name in due:
        if name not in found and name not in ledger.letters_unsure:
            ledger.wrong("no dead letter of %s", name)
    for name in found:
        if name not in due and name not in ledger.letters_beside:
            example = next(letter for _, letter in letters if _name_of(letter) == name)
            ledger.wrong("nobody expects a dead letter of %s: %.300s", name, json.dumps(example.get("failure")))
    # Who dies, or loses its connection, between writing a letter and settling writes it again; nothing else may.
    repeated = sum(count - 1 for count in found.values())
    if repeated > max(REPEATED_SHARE * len(letters), disturbances):
        ledger.wrong("%d of %d dead letters were written again, with %d disturbances", repeated, len(letters),
                     disturbances)
    for name, count in found.items():
        if count > CRASH_LIMIT + kills:
            ledger.wrong("one death has %d dead letters: %s", count, name)
    return len(letters), repeated


def _name_of(letter):
    """Its id, or WORKFLOW/TASK; of what has none the message itself."""
    if letter.get("id") is not None:
        workflow = letter.get("workflow")
        return "%s/%s" % (workflow, letter["id"]) if workflow and workflow != letter["id"] else letter["id"]
    original = letter.get("original") or {}
    text = original.get("body_base64") or original.get("body_text") or json.dumps(original.get("body"))
    try:
        # What was refused may still have an id.
        return json.loads(text)["id"]
    except (ValueError, KeyError, TypeError):
        return text
