"""The admin port of every process: metrics, alive, ready."""

from __future__ import annotations

import orjson
from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from timeline.api import errors
from timeline.api.middleware import HEADER, Handler, new_request_id
from timeline.observe import Health


def make_admin_app(health: Health) -> web.Application:
    """`/healthz` says that the process turns; `/readyz` asks the engines, and is a 503 while this process should get no work."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def healthz(_: web.Request) -> web.Response:
        return _json({"alive": True})

    async def readyz(_: web.Request) -> web.Response:
        reports = await health.reports()
        is_ready = health.is_ready(reports)
        checks = {name: {"ok": report.error is None, "error": report.error} for name, report in reports.items()}
        return _json(
            {"ready": is_ready, "draining": health.draining, "checks": checks}, status=200 if is_ready else 503
        )

    app = web.Application(middlewares=[_as_problems])
    app.on_response_prepare.append(_named)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


@web.middleware
async def _as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return errors.of_http(error)


async def _named(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[HEADER] = new_request_id()


def _json(members: dict[str, object], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(members), status=status, content_type="application/json")
