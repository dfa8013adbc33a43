"""``/healthz`` and ``/metrics``, outside of ``/v1`` where monitoring looks for them."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import BaseModel

from blockgate.api.context import View, context_of
from blockgate.api.errors import error_responses
from blockgate.api.route_table import RouteTable

router = RouteTable(tag="monitoring")


class Health(BaseModel):
    """Whether the gateway serves: "running" with 200, "stopping" with 503."""

    status: str


@router.get("/healthz", responses={503: {"model": Health, "description": "stopping"}})
async def healthz(request: Request, response: Response) -> Health:
    """Alive and serving? Needs no role, and tells nothing else."""
    state = context_of(request).gateway().state
    if state != "running":
        response.status_code = 503
    return Health(status=state)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **error_responses(401, 403),
    },
)
async def metrics(call: View) -> Response:
    """All figures in Prometheus' text format."""
    # Most gateways that nobody scrapes never load this.
    from blockgate.api.metrics import CONTENT_TYPE, render

    return Response(await render(call), media_type=CONTENT_TYPE)
