"""An MCP server for the tests, by the protocol's official SDK. Over stdio, or with the argument `http` over streamable
HTTP on a port that it prints first, to who has the token s3cret and the tenant a.

Each call's name is written into the file that CALLS names.
"""

import os
import socket
import sys
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("weather", version="1.2.3", log_level="ERROR")


def note(text):
    if "CALLS" in os.environ:
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{text}\n")


@server.tool()
def forecast(city: str, days: int = 1) -> dict[str, Any]:
    """What the weather will be"""
    note("forecast")
    return {"city": city, "days": days, "degrees": 21.5, "big": 12345678901234567890}


@server.tool()
def greet(name: str) -> str:
    """Says hello"""
    note("greet")
    return f"Hello, {name}"


@server.tool()
def fail(why: str) -> str:
    """Fails"""
    note("fail")
    raise ToolError(why)


cancelled = []


@server.tool()
async def wait(seconds: float, ctx: Context) -> str:
    """Takes its time, and says how far it is"""
    note("wait")
    try:
        await ctx.report_progress(0.5, 1.0, "half")
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        note("cancelled")
        cancelled.append(True)
        raise
    return "waited"


@server.tool()
async def wait_for_cancellation() -> str:
    """Ends after the first call that was cancelled"""
    while not cancelled:
        await anyio.sleep(0.01)
    return "heard"


@server.tool()
def environment() -> dict[str, str]:
    """What the server was given"""
    return dict(os.environ)


@server.resource("notes://today")
def today() -> str:
    return "rain"


@server.resource("notes://of/{day}")
def of(day: str) -> str:
    return f"sun on {day}"


@server.prompt()
def review(file: str) -> str:
    """Asks for a review"""
    return f"Please review {file}"


def guarded(app):
    async def guard(scope, receive, send):
        headers = dict(scope.get("headers", []))
        is_known = headers.get(b"authorization") == b"Bearer s3cret" and headers.get(b"x-tenant") == b"a"
        if scope["type"] != "http" or is_known:
            return await app(scope, receive, send)
        await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]})
        await send({"type": "http.response.body", "body": b"who are you?"})

    return guard


if sys.argv[1:] == ["http"]:
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(guarded(server.streamable_http_app()), log_level="critical", lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])
else:
    server.run()
